"""Barriers: values by hand, paired errors by the formula, simultaneous intervals by counting, and words."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from conftest import made
from lossnav import errors
from lossnav.surface.barrier import barrier


def bumpy(rng, n, height=0.5, points=21, keep_samples=True, level=1.0):
    """A surface on a line whose sample i loses b_i + t c_i + h_i 4 t (1 - t) at t; its truth is that of the means."""
    b, c, h = level + rng.exponential(0.4, n), rng.normal(0.3, 0.5, n), rng.gamma(2.0, height / 2, n)
    rows = torch.from_numpy(np.stack([b, c, h], 1))
    objective = ln.Objective.from_function(
        lambda p, row: row[:, 0] + p["t"] * row[:, 1] + row[:, 2] * 4 * p["t"] * (1 - p["t"]),
        {"t": torch.zeros((), dtype=torch.float64)}, rows, reduction="none", batch_size=n,
    )  # fmt: skip
    line = ln.Line(objective.params, {"t": torch.ones((), dtype=torch.float64)})
    grid = ln.Grid(alpha=(0, 1, points))
    surface = ln.evaluate(objective, line, grid, engine=ln.Local(plan="plain"), keep_samples=keep_samples,
                          progress=False)  # fmt: skip
    return surface, rows.numpy()


def test_values_are_those_of_the_losses():
    surface, rows = bumpy(np.random.default_rng(0), 500)
    t = np.linspace(0, 1, 21)
    losses = rows[:, :1] + t * rows[:, 1:2] + rows[:, 2:] * 4 * t * (1 - t)  # (n, 21)
    mean = losses.mean(0)
    found = barrier(surface)
    above = mean - ((1 - t) * mean[0] + t * mean[-1])
    assert found.above_line.value == pytest.approx(above.max(), rel=1e-9)
    assert found.at == pytest.approx(t[above.argmax()])
    assert found.above_end.value == pytest.approx(mean.max() - max(mean[0], mean[-1]), rel=1e-9)
    assert found.highest == pytest.approx(t[mean.argmax()])
    assert found.larger_end == 1.0 and found.end_losses == pytest.approx((mean[0], mean[-1]))
    differences = losses[:, above.argmax()] - (losses[:, 0] + losses[:, -1]) / 2
    assert found.above_line.error == pytest.approx(differences.std(ddof=1) / math.sqrt(500), rel=1e-5)
    profile = found.profile["loss"]
    assert (profile["min"], profile["max"], profile["start"]) == pytest.approx((mean.min(), mean.max(), mean[0]))
    assert profile["mean"] == pytest.approx(np.trapezoid(mean, t)) == profile["length_mean"]
    assert found.length == pytest.approx(1.0) and found.points == 21
    assert not found.upper_bound and "upper bound" not in str(found)


def test_ends_may_be_anywhere_and_in_any_order():
    values = np.array([9.0, 1.0, 4.0, 3.0, 2.0, 9.0])
    surface = made(values, dims=("alpha",), ends=(-1, 4))
    found = barrier(surface, ends=(0, 3))
    assert found.above_line.value == pytest.approx(4 - (1 + 1 / 3))
    assert found.at == 1 and found.above_end.value == 2 and found.larger_end == 3
    back = barrier(surface, ends=(3, 0))
    assert back.above_line.value == pytest.approx(found.above_line.value) and back.end_losses == (2.0, 1.0)
    assert math.isnan(found.above_line.error) and "error unknown" in str(found)
    assert "keep_samples=True" in found.above_line.warnings[0]


def test_a_valley_has_no_barrier():
    found = barrier(made([1.0, 0.2, 0.1, 2.0], dims=("alpha",), ends=(0, 1)))
    assert found.above_line.value == found.above_end.value == 0
    assert found.at == 0 and found.highest == 1


def test_unpaired_errors_are_at_least_the_paired_ones():
    rng = np.random.default_rng(3)
    surface, _ = bumpy(rng, 300)
    paired = barrier(surface)
    summed = barrier(surface.drop_vars(["sample_loss", "sample_weight"]))
    assert summed.above_line.value == paired.above_line.value
    assert summed.above_line.error > paired.above_line.error
    assert summed.above_line.low < paired.above_line.low and summed.above_line.high > paired.above_line.high
    assert "not paired" in summed.above_line.method


def covered(draws, n, height, seed=0, points=15):
    """How often the intervals of the two barriers hold the truth, of so many samples drawn from one population."""
    t = np.linspace(0, 1, points)
    truth = 1.4 + 0.3 * t + height * 4 * t * (1 - t)  # of the means of `bumpy`
    line = float((truth - ((1 - t) * truth[0] + t * truth[-1])).max())
    end = float(truth.max() - max(truth[0], truth[-1]))
    held = np.zeros(2, int)
    whole, _ = bumpy(np.random.default_rng(seed), draws * n, height, points)
    for i in range(draws):
        surface = whole.isel(sample=slice(i * n, (i + 1) * n))
        surface["loss"] = surface["sample_loss"].astype(float).mean("sample")
        found = barrier(surface)
        for j, (interval, value) in enumerate(((found.above_line, line), (found.above_end, end))):
            held[j] += interval.low <= value <= interval.high
    return held


@pytest.mark.slow
@pytest.mark.parametrize("height", [0.0, 0.5])
def test_intervals_hold_the_truth_in_most_subsets(height):
    held = covered(400, 120, max(height, 1e-3))
    assert (held >= 368).all(), held  # of 400, at 95 %


def test_intervals_hold_the_truth_in_a_few_subsets():
    assert (covered(20, 120, 0.5) >= 17).all()


def test_a_maximum_over_noise_is_not_taken_for_a_barrier():
    """Where the truth is flat, the largest of many points is above 0, and the interval is not."""
    rng, held, naive = np.random.default_rng(5), 0, 0
    for _ in range(60):
        noise = rng.normal(1, 1, (21, 200))
        surface = made(noise.mean(1), dims=("alpha",), ends=(0, 1))
        surface["sample_loss"] = (("alpha", "sample"), noise.astype(np.float32))
        surface["sample_weight"] = ("sample", np.ones(200))
        found = barrier(surface).above_line
        held += found.low <= 0 <= found.high
        naive += found.value - 1.96 * found.error <= 0
    assert held >= 54 and naive < 45


def test_along_a_trained_curve_it_is_an_upper_bound():
    a, b, c = ({"w": torch.tensor(x)} for x in ([0.0, 0.0], [3.0, 0.0], [3.0, 4.0]))
    objective = ln.Objective.from_function(lambda p: (p["w"] ** 2).sum(), a)
    for chart in (ln.BezierCurve(a, b, c), ln.PolygonalChain(a, b, c)):
        found = barrier(ln.evaluate(objective, chart, ln.Grid(t=(0, 1, 41)), progress=False))
        assert found.upper_bound and "an upper bound" in str(found)
        assert found.length == pytest.approx(chart.length(), rel=1e-9)
        ts = np.linspace(0, 1, 2001)
        points = np.array([chart([t])["w"].numpy() for t in ts], float)
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        values = (points**2).sum(1)
        expected = float(((values[1:] + values[:-1]) / 2 @ steps) / steps.sum())
        assert found.profile["loss"]["length_mean"] == pytest.approx(expected, rel=5e-3)
    straight = barrier(ln.evaluate(objective, ln.BezierCurve(a, c), ln.Grid(t=(0, 1, 5)), progress=False))
    assert not straight.upper_bound


def test_adaptive_finds_a_narrow_maximum():
    peak = 0.437
    objective = ln.Objective.from_function(
        lambda p: 0.1 + torch.exp(-(((p["t"] - peak) / 0.02) ** 2)), {"t": torch.zeros((), dtype=torch.float64)}
    )
    end = {"t": torch.ones((), dtype=torch.float64)}
    curve = ln.PolygonalChain(objective, end)
    found = barrier(ln.evaluate(objective, curve, ln.Adaptive(t=(0, 1), tolerance=0.01), progress=False))
    coarse = barrier(ln.evaluate(objective, curve, ln.Grid(t=(0, 1, 11)), progress=False))
    assert found.above_line.value == pytest.approx(1.0, abs=0.01) and found.at == pytest.approx(peak, abs=0.003)
    assert coarse.above_line.value < 0.2


def test_instability_is_of_the_classification_error():
    torch.manual_seed(0)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    x = torch.randn(80, 3)
    objective = ln.Objective(model, "cross_entropy", (x, (x.sum(1) > 0).long()), metrics=["accuracy"])
    line = ln.Line(objective, ln.directions.between(objective, other))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 9)), progress=False)
    error = 1 - surface["accuracy"].values
    found = barrier(surface).instability
    assert found.value == pytest.approx(error.max() - (error[0] + error[-1]) / 2, abs=1e-12)
    assert found.low <= found.value <= found.high and "binomial" in found.method


def test_what_has_no_barrier_is_refused():
    with pytest.raises(errors.NotASurfaceError):
        barrier("run.zarr")
    plane = made(np.ones((3, 3)))
    with pytest.raises(errors.OptionError, match=r"has 2 \(alpha, beta\)"):
        barrier(plane)
    line = made([1.0, 2.0, 3.0], dims=("alpha",), ends=(-1, 1))
    with pytest.raises(errors.OptionError, match="No point between"):
        barrier(line)
    with pytest.raises(errors.OptionError, match=r"The point \[2\] is not evaluated"):
        barrier(line, ends=(0, 2))
    with pytest.raises(errors.OptionError, match="both 0"):
        barrier(line, ends=(0, 0))
    with pytest.raises(errors.OptionError, match="two coordinates"):
        barrier(line, ends=(0, 1, 2))
    hole = made([1.0, np.inf, 3.0], dims=("alpha",), ends=(0, 1))
    with pytest.raises(errors.OptionError, match=r"At alpha = 0\.5 the loss is not finite"):
        barrier(hole)
    with pytest.raises(errors.OptionError, match="level must be"):
        barrier(line, level=95)
