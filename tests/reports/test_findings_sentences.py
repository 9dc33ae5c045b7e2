"""What a reader takes a sentence for is so: curvature, buffers, statistics, random numbers, where hints lead."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from planted import PLAIN, clusters

GRID = ln.Grid(alpha=(-1, 1, 13), beta=(-1, 1, 13))
FEW = {"probes": 2, "limit": 20, "progress": False}


def function(loss, d):
    return ln.Objective.from_function(lambda p: loss(p["x"]), {"x": torch.zeros(d, dtype=torch.float64)})


def along(objective, *ways, sampler=None):
    chart = (ln.Line, ln.Plane)[len(ways) - 1](objective.params, *({"x": torch.as_tensor(way)} for way in ways))
    axes = GRID if len(ways) == 2 else ln.Grid(alpha=(-1, 1, 13))
    return chart, ln.evaluate(objective, chart, sampler or axes, engine=PLAIN, progress=False)


# ---------------------------------------------------------------------- curvature


@pytest.mark.parametrize("length", [1.0, 0.01, 30.0])
@pytest.mark.parametrize(
    ("drawn", "rest", "times"),
    [
        ((-2.0, -3.0), (400.0, 1.0), 400 / 3),
        ((1.0, -1.0), (900.0, 1.0), 900),  # whose mean is zero
        ((1.0, 2.0), (-5000.0, 1.0), 2500),
        ((-2.0, -3.0), (100.0, 1.0), None),
        ((0.0, 0.0), (1.0, 1.0), np.inf),
    ],
)
def test_how_strongly_the_loss_bends_beside_what_is_drawn(drawn, rest, times, length):
    bends = torch.tensor([*drawn, *rest], dtype=torch.float64)
    objective = function(lambda x: (bends * x**2).sum() / 2, 4)
    chart, surface = along(objective, *(length * np.eye(4)[:2]))
    line = ln.report(surface, objective=objective, chart=chart, **FEW)["mean curvature"]
    np.testing.assert_allclose(line.values["per_length"], drawn, atol=1e-9)
    assert line.values["strongest_drawn"] == pytest.approx(max(map(abs, drawn)), abs=1e-9)
    assert (line.level == "note") == (times is not None), line
    assert "beyond all" not in line.said
    if times is not None and np.isfinite(times):
        (said,) = re.findall(r"([\d,]+) times as strong as what is drawn", line.said)
        assert float(said.replace(",", "")) == pytest.approx(times, rel=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_whether_a_slice_looks_convex_and_its_numbers_agree(seed):
    """By points, with a cubic term that keeps the fit from being exact."""
    random = np.random.default_rng(seed)
    bends, third = torch.as_tensor(random.normal(size=2) * [3, 0.3]), float(random.uniform(0, 3))
    objective = function(lambda x: (bends * x**2).sum() / 2 + third * (x**4).sum(), 2)
    _, surface = along(objective, *np.eye(2))
    line = ln.report(surface)["saddle"]
    low, error = line.values["slice"][0], line.values["slice_error"]
    assert f"± {error:.1g}" in line.said
    high = line.values["slice"][1]
    if " looks convex" in line.said:
        assert low >= -0.02 * high, line
        assert low >= error or "slight negative curvature" in line.said or "error" in line.said
    elif "does not look convex" in line.said:
        assert low < -error
    else:
        assert "error" in line.said
    assert abs(low - float(bends.min())) <= error + 1e-9 or abs(high - float(bends.max())) <= error + 1e-9


@pytest.mark.parametrize("curvature", [-1.0, -5.0])
def test_a_kink_is_no_saddle_though_its_hessian_is_negative(curvature):
    """Of |x| + c x^2 / 2 the Hessian at 0 is c, and 0 is its minimum."""
    objective = function(lambda x: x.abs().sum() + curvature * x[0] ** 2 / 2 + x[1:].square().sum(), 4)
    chart, surface = along(objective, *(0.1 * np.eye(4)[1:3]))
    report = ln.report(surface, objective=objective, chart=chart, **FEW)
    assert report["saddle"].level == "unknown" and "kink" in report["saddle"].said
    assert report["minimum"].level == "ok", report["minimum"]
    smooth = function(lambda x: curvature * x[0] ** 2 / 2 + x[1:].square().sum(), 4)
    chart, surface = along(smooth, *(0.1 * np.eye(4)[1:3]))
    report = ln.report(surface, objective=smooth, chart=chart, **FEW)
    assert report["saddle"].level == "warning" and "is a saddle" in report["saddle"].said
    tilted = function(lambda x: curvature * x[0] ** 2 / 2 + x[1:].square().sum() + x[3], 4)
    chart, surface = along(tilted, *(0.1 * np.eye(4)[1:3]))
    report = ln.report(surface, objective=tilted, chart=chart, **FEW)
    assert report["saddle"].level == "warning" and "is a saddle" not in report["saddle"].said  # it is a slope


def test_ripples_between_the_points_are_no_curvature_of_the_centre():
    objective = function(lambda x: x.square().sum() + 0.3 * (1 - torch.cos(40 * x)).sum(), 2)
    chart, surface = along(objective, *np.eye(2))
    said = ln.report(surface, objective=objective, chart=chart, **FEW)["saddle"].said
    assert "Exactly at the centre its curvature is 482" in said, said


def test_three_points_show_no_curvature():
    """A parabola goes through any three: nothing says how far it is off."""
    objective = function(lambda x: torch.cos(5 * x).sum(), 1)
    _, surface = along(objective, np.ones(1), sampler=ln.Grid(alpha=(-1, 1, 3)))
    assert ln.report(surface)["mean curvature"].level == "unknown"


# ---------------------------------------------------------------------- buffers and statistics


class Standardised(nn.Module):
    """A normaliser of the user's own, whose statistics have names of its own."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("level", torch.zeros(width))
        self.register_buffer("size", torch.ones(width))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        return (x - self.level) / self.size


class Table(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("table", torch.ones(4).to(dtype), persistent=False)

    def forward(self, x):
        return x


def net(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), *layers, nn.ReLU(), nn.Linear(4, 3)).double().eval()


@pytest.mark.parametrize(
    ("layers", "level", "names"),
    [
        ((), "ok", "no buffers at all"),
        ((Standardised(4),), "unknown", "1.level, 1.size"),
        ((Table(torch.float32),), "unknown", "1.table"),
        ((Table(torch.int64),), "ok", "no other floating-point buffers"),
        ((nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),), "ok", "no other floating-point buffers"),
        ((nn.BatchNorm1d(4), Standardised(4)), "note", "1 BatchNorm layer keeps"),
    ],
)
def test_buffers_of_ones_own_may_be_statistics(layers, level, names):
    x, y = clusters(60)
    objective = ln.Objective(net(*layers), "cross_entropy", (x, y))
    line = ln.Line(objective.params, *ln.directions.random(objective))
    found = ln.report(ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), progress=False))["batch norm"]
    assert (found.level, names in found.said) == (level, True), found


POLICIES = [("eval", "frozen"), ("eval", "recompute"), ("eval", "batch"), ("train", "frozen"), ("train", "batch")]


@pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")
@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("mode", "bn"), POLICIES)
def test_buffers_and_batch_norm_do_not_contradict_each_other(mode, bn, through, own):
    """What happens is found by plain means: another running mean at one end, and whether the loss between knows it."""
    x, y = clusters(90)
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(6, 4), nn.BatchNorm1d(4), *([Standardised(4)] if own else []), nn.ReLU(), nn.Linear(4, 3)
        )
        model = model.double().train()
        model(x + seed)
        if own:
            model[2].level += seed
        models.append(model.eval())

    def objective_of(model):
        return ln.Objective(model, "cross_entropy", (x, y), mode=mode, bn=bn, batch_size=30)

    objective, other = map(objective_of, models)
    if through:
        line = ln.Line(objective, ln.directions.between(objective, other))
    else:
        line = ln.Line(objective.params, *ln.directions.random(objective))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 5)), engine=PLAIN, progress=False)
    report = ln.report(surface)
    buffers, statistics = report["buffers"].said, report["batch norm"].said

    point = line(np.array([0.5]))
    moved = {n: t + 5.0 * (n == "1.running_mean") for n, t in objective.buffers_at(point).items()}
    read = objective.evaluate(point)["loss"] != objective.evaluate(point, moved)["loss"]
    assert ("BatchNorm statistics" in buffers) == (not read), buffers
    interpolated = "interpolated like the weights" in buffers
    assert interpolated == (through and (read or own)), buffers
    assert ("recomputed" in buffers) == ("recomputed" in statistics and bn == "recompute"), (buffers, statistics)
    if interpolated:
        assert ("running_mean" in buffers) == read
    if "interpolated ones" in statistics:
        assert through and read
    if not read:
        assert "statistics of the centre" not in statistics and "keeps the statistics" not in statistics


# ---------------------------------------------------------------------- random numbers


class Noisy(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(6, 3)

    def forward(self, x):
        out = self.layer(x)
        if self.kind == "dropout":
            return F.dropout(out, 0.5, training=True)
        if self.kind == "latent":
            return out + 0.3 * torch.randn_like(out)
        if self.kind == "numpy":
            return out * float(np.random.default_rng(0).uniform() + np.random.uniform())
        return out


@pytest.mark.parametrize("kind", ["dropout", "latent", "numpy", "none"])
@pytest.mark.parametrize("seed", [0, 5])
def test_noise_in_eval_mode_is_told_with_its_seed(kind, seed):
    x, y = clusters(60)
    objective = ln.Objective(Noisy(kind).double().eval(), "cross_entropy", (x, y), seed=seed)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), engine=PLAIN, progress=False)
    for report in (ln.report(surface), ln.report(surface, objective=objective, chart=line, **FEW)):
        found = report["random numbers"]
        assert found.level == ("ok" if kind == "none" else "note")
        assert kind == "none" or f"of seed {seed}," in found.said
        assert "depends on its batch" not in report["batch norm"].said
    if kind != "none":
        again = ln.Objective(Noisy(kind).double().eval(), "cross_entropy", (x, y), seed=seed + 1)
        off = again.evaluate(objective.params)["loss"] - objective.evaluate(objective.params)["loss"]
        assert found.values["change"] == pytest.approx(off)


def test_noise_of_bare_functions_and_loaders_too():
    """A loader that shuffles draws numbers, and the loss none."""
    x, y = clusters(40)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8, shuffle=True)
    assert ln.Objective(Noisy("none").double().eval(), "cross_entropy", loader).draws is False
    assert ln.Objective(Noisy("latent").double().eval(), "cross_entropy", loader).draws is True
    for noisy in (False, True):
        objective = function(lambda x, noisy=noisy: (x**2).sum() + (torch.rand(()) if noisy else 0.0), 2)
        assert objective.draws is None  # nothing was called yet
        _, surface = along(objective, np.ones(2))
        assert ln.report(surface)["random numbers"].level == ("note" if noisy else "ok")
        with_data = ln.Objective.from_function(
            lambda p, batch, noisy=noisy: (batch[0] @ p["w"]).mean() + (torch.rand(()) if noisy else 0.0),
            {"w": torch.ones(6).double()}, (x, y),
        )  # fmt: skip
        assert with_data.draws is noisy


def test_numbers_that_do_not_reach_the_loss_do_no_harm():
    objective = function(lambda x: (torch.rand(3), (x**2).sum())[1], 2)
    chart, surface = along(objective, np.ones(2))
    assert "may be different" in ln.report(surface)["random numbers"].said
    found = ln.report(surface, objective=objective, chart=chart, **FEW)["random numbers"]
    assert found.level == "ok" and found.values["change"] == 0


def test_noise_in_train_mode_has_its_own_line():
    x, y = clusters(60)
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    objective = ln.Objective(model, "cross_entropy", (x, y), mode="train", seed=3)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    report = ln.report(ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), progress=False))
    assert "seed 3" in report["train mode"].said and "random numbers" not in report
    still = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).double()
    objective = ln.Objective(still, "cross_entropy", (x, y), mode="train", seed=3)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    report = ln.report(ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), progress=False))
    assert "one draw" not in report["train mode"].said


# ---------------------------------------------------------------------- what is passed, and what hints lead to


def test_what_is_said_of_an_objective_before_it_knows_its_samples():
    x, y = clusters(30)
    objective = ln.Objective(net(), "cross_entropy", (x, y))
    bare = function(lambda x: x.sum(), 2)
    assert "None" not in repr(objective) + repr(bare)
    objective.evaluate(objective.params)
    assert repr(objective).endswith("30 samples)")


@pytest.mark.parametrize("given", ["objective", "model", "none", "number", "list", "dict", "chart"])
def test_what_is_no_surface_is_named(given):
    objective = function(lambda x: x.sum(), 2)
    value = {
        "objective": objective, "model": nn.Linear(1, 1), "none": None, "number": 3, "list": [1], "dict": {"a": 1},
        "chart": ln.Line(objective.params, {"x": torch.ones(2).double()}),
    }[given]  # fmt: skip
    with pytest.raises(errors.NotASurfaceError, match=r"A report is of a surface.*ln\.evaluate") as caught:
        ln.report(value)
    assert "path is" not in str(caught.value)


@pytest.mark.parametrize("wrong", [3, "print", [print], True])
def test_a_callback_that_cannot_be_called_is_refused_before_anything_is_computed(wrong):
    calls = []
    objective = function(lambda x: (calls.append(1), (x**2).sum())[1], 2)
    line = ln.Line(objective.params, {"x": torch.ones(2).double()})
    grid = ln.Grid(alpha=(-1, 1, 3))
    ways = [
        lambda: ln.evaluate(objective, line, grid, on_update=wrong),
        lambda: ln.evaluate_curvature(objective, line, grid, on_update=wrong),
        lambda: ln.ensemble(objective, lambda seed: line, grid, seeds=range(2), on_update=wrong),
    ]
    for way in ways:
        with pytest.raises(errors.OptionError, match="on_update= is .*cannot be called"):
            way()
    if wrong is not True:
        with pytest.raises(errors.OptionError, match=r"progress=.* is no choice"):
            ln.evaluate(objective, line, grid, progress=wrong)
        with pytest.raises(errors.OptionError, match=r"progress=.* is no choice"):
            ln.directions.random(objective, progress=wrong)
    assert not calls


def weights(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))
    with torch.no_grad():
        if kind == "zero":
            for parameter in model.parameters():
                parameter.zero_()
        elif kind == "first zero":
            model[0].weight.zero_()
        elif kind == "one filter":
            model[0].weight[1:] = 0
            model[2].weight.zero_()
    return model.eval()


@pytest.mark.parametrize("kind", ["full", "zero", "first zero", "one filter"])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 6, 7, 10, 11])
@pytest.mark.parametrize("normalize", ["filter", "layer", "weight", None])
def test_a_hint_where_directions_are_zero_leads_out(kind, n, normalize):
    """Whatever the sentence says is typed: it works."""
    x, y = torch.randn(20, 3), torch.zeros(20, dtype=torch.long)
    objective = ln.Objective(weights(kind), "cross_entropy", (x, y))
    try:
        ln.directions.random(objective, n=n, normalize=normalize)
        return
    except errors.DirectionError as error:
        said = str(error)
    tried = 0
    for other in re.findall(r"normalize=(None|'\w+')\.", said):
        fewer = re.search(r"n=(\d+), normalize", said)
        asked = int(fewer.group(1)) if fewer else n
        made = ln.directions.random(objective, n=asked, normalize=None if other == "None" else other.strip("'"))
        assert len(made) == asked and all(d.recipe["norm"] > 0 for d in made)
        tried += 1
    if fewer := re.search(r"Ask for (\d+) or fewer", said):
        made = ln.directions.random(objective, n=int(fewer.group(1)), normalize=normalize)
        assert all(d.recipe["norm"] > 0 for d in made)
        tried += 1
    assert tried, said


def test_a_direction_in_one_of_two_tensors_is_noted():
    x, y = clusters(30)
    objective = ln.Objective(nn.Linear(6, 3).double(), "cross_entropy", (x, y))
    for exclude, level in ((("bias",), "note"), ((), "ok")):
        line = ln.Line(objective.params, *ln.directions.random(objective, exclude=exclude, normalize="layer"))
        found = ln.report(ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), progress=False))["one tensor"]
        share = found.values["share"]
        assert (found.level == "note") == (share > 0.9) and (level == "ok" or share == 1.0), found
