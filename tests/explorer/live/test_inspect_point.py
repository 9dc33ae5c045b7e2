"""What is said of a point, and how a ball rolls, against sums by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from living import classifier
from lossnav.acceleration import ChartFunction
from lossnav.errors import ChartError, OptionError
from lossnav.explorer.live import inspect_point
from lossnav.explorer.live.optimizer_path import roll


def valley():
    """x^2 + 10 y^2 + 3 z^2, and the plane of x and y."""
    scale = torch.tensor([1.0, 10.0, 3.0], dtype=torch.float64)
    objective = ln.Objective.from_function(lambda p: (scale * p["x"] ** 2).sum(), {"x": torch.zeros(3).double()})
    e = torch.eye(3, dtype=torch.float64)
    return objective, ln.Plane({"x": torch.tensor([0.0, 0.0, 1.0]).double()}, {"x": e[0]}, {"x": e[1]})


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.03)),
        ("momentum", lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.03)),
    ],
)
def test_a_ball_walks_as_its_optimiser_does(kind, make):
    objective, plane = valley()
    x = nn.Parameter(torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64))
    optimizer = make([x])
    for step in roll(objective, plane, [0.5, -0.25], kind, lr=0.03, steps=8):
        loss = (torch.tensor([1.0, 10.0, 3.0]).double() * x**2).sum()
        np.testing.assert_allclose(step.at, x.detach()[:2], rtol=1e-9)
        assert step.loss == pytest.approx(float(loss.detach()))
        assert step.off == pytest.approx(abs(float(x[2].detach()) - 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert step.number == 8


def test_mini_batches_are_drawn_by_the_seed_and_cover_the_data():
    objective, plane, _ = classifier()
    walks = [[s.loss for s in roll(objective, plane, [0.3, 0.3], steps=6, batch=10, seed=seed)] for seed in (0, 0, 1)]
    assert walks[0] == walks[1] != walks[2]
    assert walks[0][0] == pytest.approx(objective.evaluate(plane([0.3, 0.3]))["loss"])  # of all the data
    everything = [s.loss for s in roll(objective, plane, [0.3, 0.3], steps=6, batch=31)]
    full = [s.loss for s in roll(objective, plane, [0.3, 0.3], steps=6)]
    np.testing.assert_allclose(everything, full, rtol=1e-9)
    with pytest.raises(OptionError, match="must be at most 31"):
        next(roll(objective, plane, [0, 0], batch=32))


def test_a_bent_chart_and_missing_data_are_said():
    objective, _, _ = classifier()
    drawn = ln.directions.random(objective, n=2, normalize=None, orthogonal=False, distribution="uniform")
    with pytest.raises(ChartError, match="needs a flat chart"):
        next(roll(objective, ln.RescaledBilinear(objective.params, *drawn), [0, 0]))
    with pytest.raises(OptionError, match="no data"):
        next(roll(*valley(), [0, 0], batch=2))


def test_the_gradient_is_split_by_the_tangents_whatever_their_lengths():
    objective, _ = valley()
    chart = ln.Plane(
        {"x": torch.tensor([1.0, 1.0, 1.0]).double()},
        {"x": torch.tensor([2.0, 0.0, 0.0]).double()},
        {"x": torch.tensor([3.0, 5.0, 0.0]).double()},
    )
    found = inspect_point.slope(objective, chart, [0.0, 0.0])  # the gradient is (2, 20, 6)
    assert found["in_plane"] == pytest.approx([4, 106])
    assert found["in_plane_norm"] == pytest.approx(np.hypot(2, 20)) and found["out_of_plane_norm"] == pytest.approx(6)
    assert found["loss"] == pytest.approx(14) and found["norm"] == pytest.approx(np.sqrt(440))


def test_classes_are_said_of_classifiers_alone(objective):
    found = inspect_point.classes(objective, objective.params)
    assert np.array(found["confusion"]).shape == (5, 5) and sum(found["counts"]) == 23
    values = objective.evaluate(objective.params)
    assert np.trace(found["confusion"]) / 23 == pytest.approx(values["accuracy"])
    x = torch.randn(7, 3)
    regression = ln.Objective(nn.Linear(3, 2), "mse", (x, torch.randn(7, 2)))
    assert inspect_point.classes(regression, regression.params) is None
    assert inspect_point.classes(valley()[0], {}) is None


def test_targets_that_do_not_count_are_left_out():
    x, y = torch.randn(6, 3), torch.tensor([0, 1, -100, 1, -100, 0])
    objective = ln.Objective(nn.Linear(3, 4), "cross_entropy", (x, y))
    found = inspect_point.classes(objective, objective.params)
    assert found["counts"] == [2, 2, 0, 0] and np.isnan(found["accuracy"][2])


@pytest.mark.parametrize("weights", [None, [1.0, 5.0, 0.5]])
def test_the_difference_to_the_centre_has_the_paired_error_of_its_samples(weights):
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(3, (60,))
    model = nn.Linear(4, 3)
    loss = nn.CrossEntropyLoss(weight=None if weights is None else torch.tensor(weights))
    objective = ln.Objective(model, loss, (x, y))
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=1, exclude=()))
    function = ChartFunction(objective, plane)
    found = inspect_point.difference(function, [0.3, -0.2])

    def single(point):
        with torch.no_grad():
            outputs = torch.func.functional_call(model, point, x)
            return nn.functional.cross_entropy(outputs, y, weight=loss.weight, reduction="none").double().numpy()

    w = np.ones(60) if weights is None else np.array(weights)[y]
    d = single(plane([0.3, -0.2])) - single(plane([0.0, 0.0]))
    residuals = d - w * d.sum() / w.sum()
    error = np.sqrt((residuals**2).sum() * 60 / 59) / w.sum()
    assert found.value == pytest.approx(d.sum() / w.sum(), rel=1e-5)
    assert found.error == pytest.approx(error, rel=1e-5)
    again = inspect_point.difference(function, [0.3, -0.2], found.center)
    assert (again.value, again.error) == (found.value, found.error)
    apart = np.hypot(*[objective.evaluate(plane(at))["loss_se"] for at in ([0.3, -0.2], [0.0, 0.0])])
    assert found.error < 0.9 * apart  # what the two errors would say
    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    line = ln.Line(bowl.params, {"x": torch.ones(2)})
    assert inspect_point.difference(ChartFunction(bowl, line), [1.0]) is None  # no samples, and no error made up
