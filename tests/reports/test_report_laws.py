"""Laws of the report: a loss is known but for its unit and a constant, and no sentence hangs on either."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from planted import PLAIN, clusters, network, train

AB = [(a, b) for a in (1e-3, 1.0, 1e3) for b in (0.0, 10.0, -100.0)]
D = 6


def bends(seed, low=0.5, high=3.0):
    return torch.as_tensor(np.random.default_rng(seed).uniform(low, high, D))


def quadratic(eigenvalues, center=0.0, slope=0.0):
    lengths = torch.as_tensor(eigenvalues, dtype=torch.float64)
    return lambda x: (lengths * (x - center) ** 2).sum() / 2 + slope * x.sum()


SURFACES = {  # functions of six numbers, and the level of `minimum` that they must have where all is measured
    "bowl": (quadratic(bends(0)), "ok"),
    "bowl beside its bottom": (quadratic(bends(1), center=0.3), "warning"),
    "slope": (lambda x: x @ torch.arange(1.0, D + 1, dtype=torch.float64), "warning"),
    "slope out of the picture": (lambda x: x[:2].square().sum() + x[5], "warning"),
    "tilted bowl": (quadratic(bends(2), slope=0.7), "warning"),
    "saddle in the picture": (quadratic([1.0, -1.0, 1.0, 2.0, 1.0, 3.0]), "warning"),
    "saddle out of the picture": (quadratic([1.0, 2.0, 1.0, 2.0, -1.0, 3.0]), "note"),
    "hill": (quadratic(-bends(3)), "warning"),
    "ripples": (lambda x: x.square().sum() + 0.1 * (1 - torch.cos(14 * x)).sum(), "ok"),
    "two wells": (
        lambda x: (
            -torch.exp(-8 * x.square().sum())
            - 1.5 * torch.exp(-8 * ((x - 0.8 * torch.eye(D, dtype=torch.float64)[0]) ** 2).sum())
            + 0.2 * x[2:].square().sum()
        ),
        None,
    ),
    "kink": (lambda x: x.abs().sum() + x.square().sum(), "unknown|ok"),
    "cone": (lambda x: torch.linalg.vector_norm(x), None),
    "quartic": (lambda x: (x**4).sum(), None),
    "cubic": (lambda x: x.square().sum() + (x**3).sum() / 3, "ok"),
    "edge": (lambda x: x[:2].square().sum() - x[5] + 500 * x[5] ** 4, "warning"),
}


def drawn(function, a, b, dtype=torch.float64):
    objective = ln.Objective.from_function(lambda p: a * function(p["x"]) + b, {"x": torch.zeros(D, dtype=dtype)})
    e = torch.eye(D, dtype=dtype)
    chart = ln.Plane(objective.params, {"x": e[0]}, {"x": e[1]})
    grid = ln.Grid(alpha=(-1, 1, 13), beta=(-1, 1, 13))
    return objective, chart, ln.evaluate(objective, chart, grid, engine=PLAIN, progress=False)


def levels(report):
    return {line.check: line.level for line in report.lines}


@pytest.mark.parametrize("name", SURFACES)
def test_neither_a_constant_nor_a_factor_changes_what_is_said(name):
    function, wanted = SURFACES[name]
    stored, measured = {}, {}
    for a, b in AB:
        objective, chart, surface = drawn(function, a, b)
        stored[a, b] = levels(ln.report(surface))
        measured[a, b] = levels(ln.report(surface, objective=objective, chart=chart, probes=4, progress=False))
    for found in (stored, measured):
        for key in AB:
            assert found[key] == found[1.0, 0.0], (key, set(found[key].items()) ^ set(found[1.0, 0.0].items()))
    if wanted is not None:
        assert measured[1.0, 0.0]["minimum"] in wanted.split("|"), measured[1.0, 0.0]


class Shifted(nn.Module):
    """A network that returns a loss a sample, in another unit."""

    def __init__(self, net, a, b):
        super().__init__()
        self.net, self.a, self.b = net, a, b

    def forward(self, x, y):
        return self.a * F.cross_entropy(self.net(x), y, reduction="none") + self.b


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_nor_of_a_network(activation, trained):
    """Noise, intervals, twins and what depends on batches too; filters follow, so the network's twin is found."""
    x, y = clusters(300)
    net = network(activation, width=5)
    if trained:
        train(Shifted(net, 1.0, 0.0), (x, y), 40)
    found = {}
    for a, b in [(1.0, 0.0), (1e-3, 10.0), (1e3, -100.0), (1.0, -0.7)]:
        objective = ln.Objective(Shifted(net, a, b).eval(), None, (x, y), reduction="none", batch_size=100)
        for normalize in ("filter", None):
            chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2, normalize=normalize))
            grid = ln.Grid(alpha=(-0.5, 0.5, 11), beta=(-0.5, 0.5, 11))
            surface = ln.evaluate(objective, chart, grid, engine=PLAIN, progress=False)
            report = ln.report(surface, objective=objective, probes=4, limit=60, progress=False)
            found.setdefault(normalize, {})[a, b] = levels(report), report["scale"].values.get("multiplied")
    for of_kind in found.values():
        for key, value in of_kind.items():
            assert value == of_kind[1.0, 0.0], key


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("b", [0.0, 100.0, -1000.0])
def test_what_digits_hide_beside_a_constant_is_no_kink(seed, b):
    """A smooth network in single precision, with a weak negative curvature out of the picture's directions."""
    x, y = (part.float() if part.is_floating_point() else part for part in clusters(300))
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    train(Shifted(net, 1.0, 0.0), (x, y), 60)
    objective = ln.Objective(Shifted(net, 1.0, b).eval(), None, (x, y), reduction="none", batch_size=100)
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=seed))
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-0.5, 0.5, 9), beta=(-0.5, 0.5, 9)), progress=False)
    saddle = ln.report(surface, objective=objective, probes=4, limit=200, progress=False)["saddle"]
    assert saddle.values["lambda_min"] < 0 and saddle.level != "ok"
    assert "has a kink" not in saddle.said, saddle.said


@pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")
@pytest.mark.parametrize("b", [0.0, 50.0, -3.0])
def test_a_loss_of_its_batch_is_seen_under_any_constant(b):
    x, y = clusters(80)
    model = (
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)).double().eval()
    )
    shifted = Shifted(model, 1e-2, b).eval()
    objective = ln.Objective(shifted, None, (x, y), reduction="none", batch_size=20)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), engine=PLAIN, progress=False)
    found = ln.report(surface, objective=objective, probes=2, limit=10, progress=False)["batch norm"]
    assert found.level == "warning" and found.values["batch_dependence"] > 0.1


def test_an_untrained_network_is_no_minimum_however_high_the_picture():
    x, y = clusters(400)
    objective = ln.Objective(network(width=8), "cross_entropy", (x, y))
    seen = []
    for reach in (0.3, 1.0, 10.0, 300.0):
        chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2, normalize=None))
        grid = ln.Grid(alpha=(-reach, reach, 9), beta=(-reach, reach, 9))
        surface = ln.evaluate(objective, chart, grid, engine=PLAIN, progress=False)
        seen.append(ln.report(surface, objective=objective, probes=2, limit=40, progress=False)["minimum"].level)
    assert seen[0] == "warning" and set(seen) <= {"warning", "note"}, seen


@pytest.mark.parametrize("shift", [0.0, 100.0, -100.0])
def test_shadows_are_held_against_the_range_of_the_path(shift):
    from test_findings_not_known import along

    loss = np.linspace(2.0, 0.5, 8)
    for beside, level in ((0.05, "ok"), (1.5, "warning")):
        path = along(loss=loss + shift, loss_projected=loss + beside + shift)
        assert ln.report(path)["shadow"].level == level


def test_single_precision_says_what_its_digits_let_see():
    """In float32 a large constant takes the digits: they are told of, and no minimum or slope of them."""
    for b, level in ((1e3, "ok"), (1e7, "warning")):
        _, _, surface = drawn(SURFACES["bowl"][0], 1.0, b, torch.float32)
        report = ln.report(surface)
        assert report["precision"].level == level or b < 1e6
        assert report["minimum"].level != "warning", report["minimum"]
