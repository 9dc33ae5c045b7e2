"""By a plan every loss and every metric is the plain path's: continuous ones within the tolerance, counts in all
samples but those that rounding decides, and batches are the user's own where anything looks at them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

import lossnav as ln
from lossnav import errors
from lossnav.acceleration import Plan, rules, tuning
from lossnav.acceleration import planner as planning
from lossnav.evaluation.center import probe_points
from networks_that_mix import Attending, BatchStatistics, Centred, Net

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 6, generator=GENERATOR)
Y = torch.randint(0, 4, (60,), generator=GENERATOR)
GRID = ln.Grid(alpha=(-1, 1, 4), beta=(-0.5, 1, 3))
BATCH = 12


@pytest.fixture
def eager(monkeypatch):
    """Plan even for small runs."""
    for name in ("_WORTH_PLANNING", "_WORTH_RULES", "_FEWEST_POINTS"):
        monkeypatch.setattr(planning, name, 0)
    monkeypatch.setattr(rules, "_LEAST_INPUTS", 0)
    monkeypatch.setattr(tuning, "_GAIN", 1e9)


def in_batch_negatives(outputs, targets, reduction="mean"):
    z = F.normalize(outputs, dim=1)
    return F.cross_entropy(10 * z @ z.T, torch.arange(len(z)), reduction=reduction)


def hardest(outputs, targets, reduction="mean"):
    other = targets[:, None] != targets[None]
    losses = F.relu(2 - torch.cdist(outputs, outputs).masked_fill(~other, 9.0).amin(1))
    return losses if reduction == "none" else losses.mean()


def retrieved(outputs, targets):
    z = F.normalize(outputs, dim=1)
    near = (z @ z.T - 9 * torch.eye(len(z))).argmax(1)
    return (targets[near] == targets).double()


def reciprocal_rank(outputs, targets):
    own = outputs.gather(1, targets[:, None])
    return 1 / (1 + (own < own.T).double().sum(1))


def confident(outputs, targets):
    return outputs.softmax(1).amax(1)


def right(outputs, targets):
    return (outputs.argmax(1) == targets).double()


def truth(model, plane, loss, metrics, grid):
    """Losses and metrics in plain torch, in the user's batches."""
    points = np.stack(np.meshgrid(*grid.axes.values(), indexing="ij"), -1).reshape(-1, 2)
    names = {name: [] for name in ("loss", *metrics)}
    for alpha, beta in points:
        theta = {n: c + alpha * plane.basis[0][n] + beta * plane.basis[1][n] for n, c in plane.center.items()}
        sums = dict.fromkeys(names, 0.0)
        for start in range(0, len(X), BATCH):
            x, y = X[start : start + BATCH], Y[start : start + BATCH]
            with torch.no_grad():
                outputs = functional_call(model, theta, (x,))
            sums["loss"] += float(loss(outputs, y).double()) * len(x)
            for name, metric in metrics.items():
                sums[name] += float(metric(outputs, y).double().sum())
        for name, total in sums.items():
            names[name].append(total / len(X))
    return {name: np.reshape(values, [len(axis) for axis in grid.axes.values()]) for name, values in names.items()}


def case(model, loss, metrics):
    objective = ln.Objective(model.eval(), loss, (X, Y), metrics=metrics, batch_size=BATCH)
    return objective, ln.Plane(objective.params, *ln.directions.random(objective, n=2, exclude=(), seed=1))


KNOWN = pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")  # which is what these are about
CASES = {
    "retrieval metric": (Net, F.cross_entropy, {"hit": retrieved}),
    "ranks in the batch": (Net, F.cross_entropy, {"rr": reciprocal_rank}),
    "in-batch negatives": (Net, in_batch_negatives, {"sure": confident}),
    "hard negatives": (Net, hardest, {}),
    "centred": (Centred, F.cross_entropy, {"sure": confident}),
    "attention over the batch": (Attending, F.cross_entropy, {}),
    "statistics of the batch": (BatchStatistics, F.cross_entropy, {"right": right}),
}


@pytest.mark.parametrize("way", ["auto", "tuned", Plan(batch_size=7), Plan(batch_size=60, onednn_linear=True)], ids=str)
@pytest.mark.parametrize("name", CASES)
@KNOWN
def test_batches_stay_as_the_user_cut_them_where_anything_looks_at_them(eager, name, way):
    kind, loss, metrics = CASES[name]
    model = kind().eval()
    objective, plane = case(model, loss, metrics)
    surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=way))
    for variable, values in truth(model, plane, loss, metrics, GRID).items():
        np.testing.assert_allclose(surface[variable], values, rtol=2e-6, err_msg=variable)
    events = surface.attrs["engine"]["plan_events"]
    assert any("the original batches are used" in event for event in events)
    assert "batch_size" not in surface.attrs["engine"]["plan_fields"]


@pytest.mark.parametrize("way", ["auto", "tuned"])
def test_who_looks_at_no_other_sample_is_cut_anew_and_counted(eager, way):
    model, metrics = Net().eval(), {"sure": confident, "right": right}
    objective, plane = case(model, F.cross_entropy, {"accuracy": "accuracy"} | metrics)
    surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=way))
    for variable, values in truth(model, plane, F.cross_entropy, metrics, GRID).items():
        np.testing.assert_allclose(surface[variable], values, rtol=1e-5, err_msg=variable)
    engine = surface.attrs["engine"]
    assert engine["plan_fields"]["batch_size"] != BATCH
    assert engine["plan_differing"] == {"accuracy": 0, "right": 0}
    assert engine["plan_compared"] == 60 * engine["plan_probes"] == 60 * 8
    assert 0 <= engine["plan_metric_error"] < 1e-5


class Twins(Net):
    """Pairs of classes that differ by rounding alone: the same products, added up in another order."""

    def forward(self, x):
        h = self.hidden(x)
        one, other = self.last.weight[:2]
        ways = [(h * w)[:, order].cumsum(1)[:, -1] for w in (one, other) for order in (range(16), range(15, -1, -1))]
        return torch.stack(ways, 1)


def test_counts_that_rounding_decides_may_differ_and_are_counted():
    model = Twins().eval()
    objective, plane = case(model, F.cross_entropy, {"accuracy": "accuracy", "right": right})
    engine = ln.Local(plan=Plan(precision="float64"))
    surface = ln.evaluate(objective, plane, GRID, engine=engine)
    said = surface.attrs["engine"]
    probes, differing = probe_points(GRID, objective.seed), 0
    double = Twins().double().eval()
    for point in probes:
        theta = plane(point)
        with torch.no_grad():
            a = functional_call(model, theta, (X,)).argmax(1) == Y
            b = functional_call(double, {n: t.double() for n, t in theta.items()}, (X.double(),)).argmax(1) == Y
        differing += int((a != b).sum())
    assert said["plan"] == "float64"
    assert differing > 20
    assert said["plan_differing"]["accuracy"] == said["plan_differing"]["right"]
    assert abs(said["plan_differing"]["right"] - differing) <= 0.2 * differing  # batches of 12 round in their own way
    assert said["plan_error"] < 1e-6


def by_length(outputs, targets):
    """1 for batches that are not too short: the same in any halves of a few samples."""
    return torch.full((len(targets),), float(len(targets) > 8), dtype=torch.float64)


def test_counts_that_rounding_does_not_explain_bring_the_plan_down():
    objective, plane = case(Net().eval(), F.cross_entropy, {"long": by_length})
    with pytest.warns(errors.PlanFellBackWarning, match="long differs in more samples than rounding explains"):
        surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=Plan(batch_size=5)))
    assert surface.attrs["engine"]["plan"] == "plain"
    assert (surface["long"] == 1).all()


def faintly(outputs, targets):
    """A metric of short batches that is off by 1e-4 of itself: 500 times less than a metric could be off before."""
    return outputs.softmax(1).amax(1) * (1 + 1e-4 * (len(targets) < 8))


def test_continuous_metrics_are_held_to_the_losss_tolerance():
    objective, plane = case(Net().eval(), F.cross_entropy, {"faint": faintly})
    with pytest.warns(errors.PlanFellBackWarning, match="faint off by 1.0e-04, allowed 1e-05"):
        surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=Plan(batch_size=5)))
    assert surface.attrs["engine"]["plan"] == "plain"


def test_two_probes_are_of_the_runs_seed():
    one, same, other = probe_points(GRID, 3), probe_points(GRID, 3), probe_points(GRID, 4)
    np.testing.assert_array_equal(one, same)
    moved = (one != other).any(1)
    assert moved.tolist() == [False, True, True, False, False, False, False, False]
    assert ((one >= GRID.box[:, 0]) & (one <= GRID.box[:, 1])).all()


def test_the_runs_seed_is_in_the_surface(eager, monkeypatch):
    asked = []
    real = ln.Local.prepare

    def prepare(self, function, probes, total):
        asked.append(probes)
        return real(self, function, probes, total)

    monkeypatch.setattr(ln.Local, "prepare", prepare)
    for seed in (5, 6):
        objective = ln.Objective(Net().eval(), F.cross_entropy, (X, Y), seed=seed)
        plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=1))
        surface = ln.evaluate(objective, plane, GRID)
        np.testing.assert_array_equal(asked[-1], probe_points(GRID, surface.attrs["objective"]["seed"]))
    assert (asked[0] != asked[1]).any()
