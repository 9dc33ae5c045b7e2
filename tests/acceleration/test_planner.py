"""Whatever is done to go faster gives the plain path's values, or is not done."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from convnets import (
    GRID,
    WAYS,
    ConvNet,
    HookedOutput,
    NotOnTheData,
    OutputUsedTwice,
    X,
    Y,
    make,
    plan_eagerly,
    plane_of,
    trained,
)
from lossnav import errors
from lossnav.acceleration import planner as planning


@pytest.fixture
def eager(monkeypatch):
    plan_eagerly(monkeypatch)


@pytest.mark.parametrize("way", WAYS)
def test_auto_finds_everything_and_proves_it(eager, way):
    objective = make(ConvNet())
    surface = ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)
    engine = surface.attrs["engine"]
    for field in ("fold_batch_norm", "amortize_first_layer"):
        assert engine["plan_fields"][field]
    assert 0 < engine["plan_error"] < 1e-5
    assert engine["plan_probes"] >= 8
    assert plain.attrs["engine"]["plan"] == "plain"


class HookedInput(ConvNet):
    """A hook changes what the first layer is given, by a weight."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.conv1.register_forward_pre_hook(_gain)

    def forward(self, x):
        self.conv1.gain = self.gain
        return super().forward(x)


def _gain(module, given):
    return (given[0] * module.gain,)


class NormTwice(ConvNet):
    """One BatchNorm used after two convolutions."""

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.bn2(x + 1)
        return self.head(torch.tanh(self.dense(x.flatten(1))))


class LayerTwice(ConvNet):
    """The first layer is called a second time, on something of the model's own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)

    def forward(self, x):
        return super().forward(self.first(torch.tanh(self.first(x))))


class ByTheData(ConvNet):
    """Takes another branch, to the same values, where the data says so: not to be compiled as one graph."""

    def forward(self, x):
        x = super().forward(x)
        return x if x.sum() > 0 else (x * 2) / 2


class Tied(ConvNet):
    """The first layer's weight is used again in the end."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(64, 64, bias=False)

    def forward(self, x):
        x = self.embed(x.flatten(2)).reshape_as(x)
        x = F.linear(x.flatten(2), self.embed.weight).reshape_as(x)
        return super().forward(x)


class Dropping(ConvNet):
    """Dropout that is off, and a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.drop(super().forward(x))


TRAPS = [HookedInput, HookedOutput, NormTwice, OutputUsedTwice, NotOnTheData, LayerTwice, ByTheData, Tied, Dropping]


@pytest.mark.parametrize("kind", TRAPS, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore::lossnav.errors.PlanFellBackWarning")
@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_plan_is_caught_and_the_surface_is_right_all_the_same(eager, kind, way):
    objective = make(kind())
    d1, d2 = ln.directions.random(objective, n=2, exclude=(), seed=1)
    if "switch" in d1:
        d1["switch"].fill_(1.0)
    plane = ln.Plane(objective.params, d1, d2)
    surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)
    np.testing.assert_allclose(surface["accuracy"], plain["accuracy"], atol=1.01 / 60)


class Noisy(ConvNet):
    """Draws random numbers: the same ones at every point, but others for other batches."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


def _mean_of_the_valid(outputs, targets):
    """A mean without a `reduction` argument: with ignored targets it depends on how the data is cut."""
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("case", ["noise", "mean of the valid"])
@pytest.mark.filterwarnings("ignore::lossnav.errors.PlanFellBackWarning")
@pytest.mark.parametrize("way", WAYS)
def test_what_depends_on_the_batches_keeps_them(eager, case, way):
    """The data is smaller than what plans are tuned on, so the truth is the objective in its own batches."""
    targets = Y.clone()
    targets[45:55] = -100
    if case == "noise":
        objective = ln.Objective(trained(Noisy()), "cross_entropy", (X, Y), batch_size=20)
    else:
        objective = ln.Objective(trained(ConvNet()), _mean_of_the_valid, (X, targets), batch_size=20)
    plane = plane_of(objective)
    surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, plane, GRID)
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(192, 5)
        self.weights = [self.layer.weight]

    def forward(self, x):
        return F.linear(x.flatten(1), self.weights[0], self.layer.bias)


@pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")  # of a metric of the batch: it is one
@pytest.mark.parametrize("way", WAYS)
def test_models_on_a_private_copy_functions_and_recomputed_statistics_run_plainly(eager, way):
    for objective in (
        make(Aliased()),
        make(ConvNet(), bn="recompute"),
        make(ConvNet(), bn="batch"),
        ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(4)}),
        ln.Objective(trained(ConvNet()), "cross_entropy", (X, Y), metrics={"top": lambda o, y: o.max()}),
    ):
        surface = ln.evaluate(
            objective, plane_of(objective, ()) if objective.batches else _xy(objective), GRID, engine=ln.Local(plan=way)
        )
        assert surface.lossnav.counts["ok"] == 20
        assert surface.attrs["engine"]["plan"] == "plain"
        assert surface.attrs["engine"]["plan_events"][0].startswith("plain: ")


def _xy(objective):
    return ln.Plane(objective.params, *ln.directions.random(objective, 2, normalize=None))


@pytest.mark.parametrize("way", WAYS)
def test_a_charts_bend_does_not_hinder_the_rest(eager, way):
    objective = make(ConvNet())
    raw = {"normalize": None, "distribution": "uniform", "orthogonal": False}
    chart = ln.RescaledBilinear(objective.params, *ln.directions.random(objective, 2, **raw))
    surface = ln.evaluate(objective, chart, GRID, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, chart, GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)
    assert surface.attrs["engine"]["plan_fields"]["fold_batch_norm"]
    assert "amortize_first_layer" not in surface.attrs["engine"]["plan_fields"]


@pytest.mark.parametrize("way", WAYS)
def test_short_runs_are_not_planned(way):
    objective = make(ConvNet())
    surface = ln.evaluate(
        objective, plane_of(objective), ln.Grid(alpha=(-1, 1, 2), beta=(-1, 1, 2)), engine=ln.Local(plan=way)
    )
    assert surface.attrs["engine"]["plan_events"] == ["plain: the run is shorter than the search for a plan"]


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_is_found_once_an_objective(eager, monkeypatch, way):
    objective = make(ConvNet())
    ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))
    monkeypatch.setattr(planning._Finder, "_search", lambda self: pytest.fail("searched again"))
    ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))


@pytest.mark.parametrize("way", WAYS)
def test_diverging_points_agree_too(eager, way):
    """Corners so far out that the loss overflows are inf or NaN on both paths."""
    objective = make(ConvNet())
    plane = plane_of(objective)
    wide = ln.Grid(alpha=(-1e30, 1e30, 3), beta=(-1e30, 1e30, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.PlanFellBackWarning)
        surface = ln.evaluate(objective, plane, wide, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, plane, wide, engine=ln.Local(plan="plain"))
    np.testing.assert_array_equal(np.isfinite(surface["loss"]), np.isfinite(plain["loss"]))


def test_unknown_words_are_refused():
    for options, words in (
        ({"plan": "fast"}, "plan='fast' is unknown"),
        ({"precision": "int8"}, "precision='int8' is unknown.*bfloat16"),
        ({"plan": "plain", "precision": "bfloat16"}, "computes in the model's own precision"),
    ):
        with pytest.raises(errors.OptionError, match=words):
            ln.Local(**options)


def test_the_default_plans_by_rule_and_gives_the_same_bits_twice(eager):
    plane = plane_of(make(ConvNet()))
    first, second = (ln.evaluate(make(ConvNet()), plane, GRID) for _ in range(2))
    np.testing.assert_array_equal(first["loss"], second["loss"])
    np.testing.assert_array_equal(first["loss_se"], second["loss_se"])
    one, other = (surface.attrs["engine"] for surface in (first, second))
    assert one["plan"] == other["plan"] != "plain"
    assert one["plan_error"] == other["plan_error"] < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_as_before(eager, way):
    model = trained(ConvNet())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective = ln.Objective(model, "cross_entropy", (X, Y), batch_size=20)
    ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(objective.params[name], before[name]) for name in objective.params)
    assert type(model.bn1) is nn.BatchNorm2d
    assert type(model.dense) is nn.Linear
