"""What holds for every definition: what rescaling does to it, what it says of itself, and that it touches nothing."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from landscapes import quadratic, relu_net, rescaled, rosy, symmetric
from lossnav import errors
from lossnav.curvature.loss_operator import LossOperator
from lossnav.sharpness_measures import KINDS, Sharpness

SMALL = {
    "epsilon": {"epsilon": 1e-2, "steps": 4, "starts": 2},
    "sam": {"radius": 0.1, "steps": 3, "starts": 2},
    "asam": {"radius": 0.1, "steps": 3, "starts": 2},
    "average": {"draws": 4},
    "magnitude": {"draws": 4, "rise": 1.2},
    "trace": {"probes": 5},
    "lambda_max": {"tolerance": 1e-6},
    "relative_flatness": {"params": "2.weight", "probes": 5},
    "width": {"directions": 4, "rise": 1.2, "tolerance": 1e-8},
}
VARIANTS = [
    (kind, {"normalize": normalize} if normalizes else {})
    for kind, known in KINDS.items()
    for normalizes in ["normalize" in known.options]
    for normalize in ((None, "weight", "filter", "layer") if normalizes else (None,))
    if not (kind == "asam" and normalize is None)
]
IDS = ["-".join([kind, *map(str, options.values())]) for kind, options in VARIANTS]


def measured(objective, kind, **options):
    return ln.sharpness(objective, kind, **SMALL[kind], **options)


def test_every_kind_is_known():
    assert set(SMALL) == set(KINDS)


@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=IDS)
def test_a_layer_times_ten_and_the_next_divided_by_ten(kind, options):
    """Dinh et al. 2017: the function is the same; so is what says it is invariant, and nothing else."""
    model, data = relu_net()
    one, other = (measured(rosy(m, data), kind, **options) for m in (model, rescaled(model, 10.0)))
    if one.scale_invariant:
        assert other.value == pytest.approx(one.value, rel=1e-5)
        assert np.allclose(other.samples, one.samples, rtol=1e-5)
    else:
        assert abs(math.log(other.value / one.value)) > 0.3
    assert one.scale_invariant == (kind == "relative_flatness" or options.get("normalize") is not None)


@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=IDS)
def test_single_units_times_other_factors(kind, options):
    model, data = relu_net()
    twin = rescaled(model, [0.2, 1.0, 4.0, 0.5, 3.0, 7.0])
    one, other = (measured(rosy(m, data), kind, **options) for m in (model, twin))
    if "units" in one.invariance:
        assert options == {"normalize": "weight"}
        assert other.value == pytest.approx(one.value, rel=1e-5)
    else:
        assert abs(other.value / one.value - 1) > 1e-3


def test_relative_flatness_does_not_see_its_rows_rescaled():
    model, data = relu_net()
    twin = rescaled(model, [0.2, 1.0, 4.0, 0.5, 3.0, 7.0])
    exact = [ln.sharpness(rosy(m, data), "relative_flatness", params="0.weight", probes=800) for m in (model, twin)]
    assert abs(exact[0].value - exact[1].value) < 3 * math.hypot(exact[0].error, exact[1].error)
    assert exact[0].error < 0.1 * exact[0].value


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.out = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=1e-12), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.bn(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "options", "bn"),
    [(*variant, "batch") for variant in VARIANTS]
    + [(*variant, "recompute") for variant in VARIANTS if variant[1].get("normalize") in (None, "filter")],
)
def test_filters_before_batch_norm_have_no_scale(kind, options, bn):
    if kind == "relative_flatness":
        options = {"params": "conv.weight"}
    torch.manual_seed(0)
    model = Normalised().double().eval()
    with torch.no_grad():
        model.bn.bias += torch.randn(4)
    data = torch.randn(12, 1, 5, 5).double(), torch.randint(0, 3, (12,))
    one = ln.Objective(model, "cross_entropy", data, bn=bn)
    with torch.no_grad():
        model.conv.weight *= torch.tensor([3.0, 0.5, 10.0, 2.0]).reshape(4, 1, 1, 1)
        model.conv.bias *= 5.0  # of no effect before a normalisation
    other = ln.Objective(model, "cross_entropy", data, bn=bn)
    first, second = (ln.sharpness(o, kind, **SMALL[kind] | options) for o in (one, other))
    if "filters" in first.invariance:
        assert second.value == pytest.approx(first.value, rel=1e-4)
    elif kind != "relative_flatness":
        assert abs(second.value / first.value - 1) > 1e-3
    derived = first.gradients + (first.products if kind == "lambda_max" else first.products > 0)  # probes share a pass
    assert first.passes == (2 * first.evaluations + 3 * derived if bn == "recompute" else first.evaluations + derived)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_touched_and_the_same_call_gives_the_same_bits(kind):
    model, data = relu_net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective = rosy(model.train(), data, metrics=["accuracy"])
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = measured(objective, kind, seed=3)
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(np.random.get_state()[1], states[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
    assert measured(objective, kind, seed=3) == first
    if kind != "epsilon":  # whose ascents end in the same corner
        other = measured(objective, kind, seed=4)
        assert other.samples != first.samples or other.error != first.error


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_is(kind):
    model, data = relu_net()
    objective = rosy(model, data)
    found = measured(objective, kind, precision="float64")
    assert isinstance(found, Sharpness)
    assert found.kind == kind
    assert float(found) == found.value
    assert json.loads(json.dumps(found.settings)) == found.settings
    assert found.settings["objective"] == objective.fingerprint
    assert found.settings["loss"] == objective.evaluate(objective.params)["loss"]
    assert found.settings | {"seed": 0, "precision": "float64"} == found.settings
    assert set(KINDS[kind].options) <= set(found.settings)
    assert set(found.describe()) == set(Sharpness.__dataclass_fields__)
    said = str(found)
    for part in (kind, f"{found.value:.6g}", found.definition, found.source, found.uncertainty, found.invariance):
        assert part in said
    assert "20" in found.source or "1990" in found.source  # a year


def passes_of(monkeypatch, at=0):
    """The passes over the data as they come, True for those with derivatives; Ctrl-C comes in number `at`."""
    passes = []

    def counted(method, derives):
        def counting(self, *given):
            passes.append(derives)
            if len(passes) == at:
                os.kill(os.getpid(), signal.SIGINT)
            return method(self, *given)

        return counting

    monkeypatch.setattr(ln.Objective, "evaluate", counted(ln.Objective.evaluate, False))
    monkeypatch.setattr(LossOperator, "derive", counted(LossOperator.derive, True))
    return passes


def slope(side=2):
    matrix = symmetric(range(1, side**2 + 1))

    def loss(p):
        x = p["x"].reshape(-1)
        return 1 + 0.1 * x.sum() + x @ matrix @ x / 2

    return ln.Objective.from_function(loss, {"x": torch.ones(side, side).double()})


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_cost_is_what_was_computed(kind, monkeypatch):
    objective = slope()
    objective.evaluate(objective.params)
    passes = passes_of(monkeypatch)
    found = ln.sharpness(objective, kind, **SMALL[kind] | ({"params": "x"} if kind == "relative_flatness" else {}))
    assert passes.count(False) == found.evaluations
    derived = found.gradients + (found.products if kind == "lambda_max" else found.products > 0)  # probes share a pass
    assert passes.count(True) == derived
    assert len(passes) == found.passes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [2, 4, 60])
def test_what_was_computed_is_kept_when_it_is_stopped(kind, at, monkeypatch):
    options = {
        "epsilon": {"starts": 20, "epsilon": 0.1},
        "sam": {"starts": 12},
        "asam": {"starts": 12},
        "average": {"draws": 60},
        "magnitude": {"draws": 50},
        "trace": {"probes": 600},  # with no more parameters than that the trace is exact
        "lambda_max": {"tolerance": 1e-15},
        "relative_flatness": {"params": "x", "probes": 600},
        "width": {"directions": 10},
    }[kind]
    if kind == "lambda_max":
        at = min(at, 3)  # there are four dimensions
    side = 25 if "probes" in options else 2
    objective, passes = slope(side), passes_of(monkeypatch, at)
    with pytest.raises(ln.Interrupted, match=r"Stopped after \d+ passes .* in the .partial") as stopped:
        ln.sharpness(objective, kind, **options)
    found = stopped.value.partial
    assert isinstance(found, Sharpness)
    assert found.passes <= len(passes) <= at + 1
    if at == 60 and kind != "magnitude":
        whole = ln.sharpness(slope(side), kind, **options)
        assert math.isfinite(found.value)
        assert whole.samples[: len(found.samples) - 1] == found.samples[:-1]  # the last ascent may be cut short
        assert len(found.samples) < len(whole.samples)
        assert str(found)


@pytest.mark.parametrize("kind", ["trace", "relative_flatness"])
def test_of_few_parameters_the_entries_are_kept_when_it_is_stopped(kind, monkeypatch):
    options = {"params": "x", "probes": 100}
    exact = ln.sharpness(slope(6), kind, **options)
    assert (exact.products, exact.samples) == (36, ())
    passes_of(monkeypatch, 4)
    with pytest.raises(ln.Interrupted) as stopped:
        ln.sharpness(slope(6), kind, **options)
    found = stopped.value.partial
    assert len(found.samples) == found.products == 24
    assert f"36 times the mean of v . H v over {found.products} of the 36 unit vectors" in found.definition
    assert found.interval[0] < exact.value < found.interval[1]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("flat", {}, "kind='flat' is unknown. Use one of epsilon, sam,"),
        ("sam", {"sigma": 1}, "takes no sigma=. Its options are radius, steps, starts."),
        ("sam", {"radius": 0.0}, "radius must be a positive finite number, got 0.0."),
        ("sam", {"radius": math.inf}, "radius=inf"),
        ("sam", {"steps": 0}, "steps must be a whole number of at least 1, got 0."),
        ("sam", {"starts": 1.5}, "starts=1.5"),
        ("sam", {"seed": -1}, "seed=-1"),
        ("sam", {"precision": "half"}, "precision='half'"),
        ("sam", {"params": "nothing*"}, "leave no parameter"),
        ("sam", {"exclude": "nothing*"}, "matches no parameter"),
        ("asam", {"normalize": "unit"}, "normalize='unit' is unknown. Use 'weight'"),
        ("asam", {"normalize": None}, "kind='sam'"),
        ("asam", {"eta": -0.1}, "eta=-0.1"),
        ("epsilon", {"epsilon": -1}, "epsilon=-1"),
        ("epsilon", {"dimension": 0}, "dimension=0"),
        ("average", {"draws": 0}, "draws=0"),
        ("average", {"sigma": math.nan}, "sigma=nan"),
        ("magnitude", {"rise": 0.5}, "no rise from a loss"),
        ("trace", {"probes": True}, "probes=True"),
        ("lambda_max", {"tolerance": 2.0}, "tolerance=2.0"),
        ("width", {"limit": 1e-5}, "limit=1e-05"),
        ("width", {"tolerance": 0.0}, "tolerance=0.0"),
        ("width", {"directions": 0}, "directions=0"),
    ],
)
def test_options_that_cannot_be(kind, options, said):
    with pytest.raises(errors.OptionError) as raised:
        ln.sharpness(quadratic(torch.ones(3), torch.ones(3)), kind, **options)
    assert all(word in str(raised.value) for word in said.split("="))  # the option, and what it was given


def test_a_centre_that_is_not_finite_has_no_sharpness():
    lost = ln.Objective.from_function(lambda p: p["x"].sum() * math.nan, {"x": torch.ones(2)})
    with pytest.raises(errors.NonFiniteCenterError, match="The loss at the centre is nan"):
        ln.sharpness(lost, "sam")


def test_only_what_is_asked_for_moves():
    model, data = relu_net()
    objective = rosy(model, data)
    part = ln.sharpness(objective, "sam", params="2.*", exclude="bias", steps=1, starts=1)
    assert part.settings["parameters"] == 30
    held = rosy(model, data, params="2.weight")
    assert ln.sharpness(held, "sam", steps=1, starts=1).value == pytest.approx(part.value, rel=1e-12)
    with pytest.raises(errors.OptionError):
        ln.sharpness(held, "width", exclude="2.*")


def test_a_float32_network_is_measured_in_float64_if_asked():
    model, (x, y) = relu_net()
    single = ln.Objective(model.float(), "cross_entropy", (x.float(), y))
    rough, fine = (ln.sharpness(single, "sam", radius=0.1, precision=p) for p in ("native", "float64"))
    assert rough.value == pytest.approx(fine.value, rel=1e-3)
    assert rough.value != fine.value
