"""Widths of bowls, which are known, and of what has no end."""

import math

import numpy as np
import pytest
import torch

import lossnav as ln
from landscapes import quadratic, relu_net, rosy
from lossnav import errors
from lossnav.sharpness_measures.basin_width import _median
from lossnav.sharpness_measures.crossing import crossing


def test_a_round_bowl_is_as_wide_everywhere():
    center = torch.full((10,), 2.0)
    bowl = quadratic(0.5 * torch.ones(10), center, floor=3.0)
    radius = math.sqrt(2 * 3.0 / 0.5)  # where the loss is twice the centre's
    for normalize, unit in (("layer", float(center.norm())), (None, 1.0)):
        found = ln.sharpness(bowl, "width", normalize=normalize, tolerance=1e-6)
        assert np.allclose(found.samples, 2 * radius / unit, rtol=1e-5)
        assert found.value == pytest.approx(2 * radius / unit, rel=1e-5)
        assert found.error < 1e-4
    by = ln.sharpness(bowl, "width", normalize=None, rise_by=0.25, tolerance=1e-6)
    assert by.value == pytest.approx(2.0, rel=1e-5)
    assert by.settings["rise"] is None


def test_directions_are_those_that_can_be_drawn_again():
    model, data = relu_net()
    objective = rosy(model, data)
    found = ln.sharpness(objective, "width", directions=4, seed=7, params=["0.*", "2.*"], tolerance=1e-4)
    drawn = ln.directions.random(objective, 4, orthogonal=False, seed=7, exclude=("bias", "norm", "4.*"))
    for width, direction in zip(found.samples, drawn, strict=True):
        line = ln.Line(objective.params, direction)
        for side in (-1, 1):
            end = crossing(lambda x, line=line, side=side: height(objective, line, side * x), 16.0, 1e-6)
            assert height(objective, line, side * end) == pytest.approx(2.0, rel=1e-4)
            width -= end
        assert abs(width) < 1e-3 * found.value


def height(objective, line, x):
    return objective.evaluate(line([x]))["loss"] / objective.evaluate(objective.params)["loss"]


def test_an_oval_bowl_is_as_wide_as_it_bends():
    """Along d it is 2 sqrt(2 / d . H d) wide."""
    curvature = torch.tensor([1.0, 2.0, 5.0, 20.0]).double()
    bowl = quadratic(curvature, [1.0, 1.0, 1.0, 1.0])
    found = ln.sharpness(bowl, "width", normalize="layer", seed=5, tolerance=1e-6)
    drawn = ln.directions.random(bowl, 20, normalize="layer", orthogonal=False, exclude=(), seed=5)
    assert np.allclose(found.samples, [2 * math.sqrt(2 / float(curvature @ d["x"] ** 2)) for d in drawn], rtol=1e-5)
    assert found.value == pytest.approx(np.median(found.samples))


@pytest.mark.parametrize("n", [6, 12, 20])
@pytest.mark.parametrize("limit", [math.inf, 1.2], ids=["all", "some end beyond the limit"])
def test_the_interval_is_honest(n, limit):
    """Widths of that bowl, drawn very often."""
    rng = np.random.default_rng(0)

    def widths(*shape):
        drawn = rng.normal(size=(*shape, 4))
        return np.sqrt(2 / (drawn**2 @ np.array([1.0, 2.0, 5.0, 20.0]) / (drawn**2).sum(-1)))

    wanted, held, wide = np.median(widths(400_000)), 0, 0.0
    for found in widths(1000, n):
        _, error, interval, _ = _median(np.minimum(found, limit), found > limit)
        held += interval[0] <= wanted <= interval[1]
        wide += min(error, 10.0)
    assert 930 <= held <= 995
    assert wide < 1000 * wanted or n == 6


def test_what_has_no_end_is_a_lower_bound():
    flat = quadratic(torch.zeros(3), torch.ones(3))
    found = ln.sharpness(flat, "width", limit=4.0)
    assert (found.value, found.interval, found.error) == (8.0, (8.0, math.inf), math.inf)
    assert found.settings["not_risen"] == list(range(20))
    assert "the value is a lower bound" in found.uncertainty
    ramp = quadratic(torch.zeros(1), torch.ones(1), slope=[1.0])  # rises to one side only
    found = ln.sharpness(ramp, "width", limit=4.0, tolerance=1e-6)
    assert np.allclose(found.samples, 5.0)  # 4 to the one side, 1 to the other
    assert found.interval[1] == math.inf
    oval = quadratic([0.0, 1.0], [1.0, 1.0])
    found = ln.sharpness(oval, "width", limit=3.0, normalize="layer", directions=40, tolerance=0.1)
    assert 0 < len(found.settings["not_risen"]) < 20
    assert "lower bound" not in found.uncertainty  # fewer than half


def test_a_wall_is_an_end():
    walled = ln.Objective.from_function(
        lambda p: torch.where((p["x"] - 1).abs().max() > 0.3, math.nan, 1.0), {"x": torch.ones(1)}
    )
    found = ln.sharpness(walled, "width", tolerance=1e-3, directions=2)
    assert np.allclose(found.samples, 0.6, rtol=1e-2)
    assert "not finite and count as risen" in found.uncertainty


@pytest.mark.parametrize("limit", [16.0, 1.0, 3.0])
@pytest.mark.parametrize("end", [1e-5, 0.02, 0.7, 1.0, 2.5, 15.9])
def test_a_crossing_is_found_or_is_beyond_the_limit(end, limit):
    asked = []

    def height(x):
        asked.append(x)
        return 1 + (x / end) ** 3

    found = crossing(height, limit, 1e-4)
    if end > limit:
        assert found is None
    else:
        assert found == pytest.approx(end, rel=1e-3, abs=1e-6)
    assert len(asked) == len(set(asked)) <= 25
    assert max(asked) <= limit


def test_a_rise_from_nothing_is_none():
    with pytest.raises(errors.OptionError, match="no rise from a loss of 0.*such as rise_by=0.1"):
        ln.sharpness(quadratic(torch.ones(2), torch.ones(2), floor=0.0), "width")
    with pytest.raises(errors.OptionError, match="no rise"):
        ln.sharpness(quadratic(torch.ones(2), torch.ones(2)), "width", rise=1.0)
