"""Numbers of planes whose relief is known: bowls, egg boxes, wells."""

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav import errors
from lossnav.surface.ruggedness import ruggedness


def plane(function, n=41, reach=1.0, se=None):
    objective = ln.Objective.from_function(lambda p: function(p["x"][0], p["x"][1]), {"x": torch.zeros(2).double()})
    axes = ({"x": torch.tensor([1.0, 0.0]).double()}, {"x": torch.tensor([0.0, 1.0]).double()})
    grid = ln.Grid(alpha=(-reach, reach, n), beta=(-reach, reach, n))
    engine = ln.Local(plan="plain")
    made = ln.evaluate(objective, ln.Plane(objective.params, *axes), grid, engine=engine, check=False)
    return made if se is None else made.assign(loss_se=made["loss"] * 0 + se)


def test_a_bowl_has_no_relief_but_its_own():
    found = ruggedness(plane(lambda a, b: a**2 + 3 * b**2 + a * b, n=11))
    assert (found.descending_fraction, found.nonconvex_fraction, found.local_minima, found.depth) == (0, 0, 0, 0)
    assert np.isnan(found.depth_se)
    a, b = np.meshgrid(np.linspace(-1, 1, 11), np.linspace(-1, 1, 11))
    assert found.rise == pytest.approx(np.median(a**2 + 3 * b**2 + a * b))


def test_a_hill_falls_everywhere():
    found = ruggedness(plane(lambda a, b: -(a**2) - b**2, n=11))
    assert (found.descending_fraction, found.nonconvex_fraction) == (1, 1)
    assert found.local_minima == 0  # its corners are low, but on the border


def test_a_saddle_is_half_of_each():
    found = ruggedness(plane(lambda a, b: a**2 - b**2, n=21))
    assert found.nonconvex_fraction == 0.5
    a, b = np.meshgrid(range(-9, 10), range(-9, 10))
    least, most = ((np.abs(b) > np.abs(a)).sum() / 360, (np.abs(b) >= np.abs(a)).sum() / 360)
    assert least <= found.descending_fraction <= most  # on the diagonals it is level


@pytest.mark.slow
def test_a_well_beside_the_bowl_is_one_pit_of_its_depth():
    """Along the way between (0, 0) and a well at (0.6, 0) the loss is 0, rises to its top, and falls to 0.2."""

    def wells(a, b):
        return torch.minimum(4 * (a**2 + b**2), 0.2 + 4 * ((a - 0.6) ** 2 + b**2))

    surface = plane(wells, n=41)
    found = ruggedness(surface)
    row = surface["loss"].sel(beta=0).values
    at = surface["alpha"].values
    top = row[(at >= 0) & (at <= 0.6)].max()
    assert found.local_minima == 1
    assert found.depth == pytest.approx(top - 0.2)
    assert 0 < found.descending_fraction < 0.3
    assert ruggedness(plane(wells, n=41, se=0.01)).local_minima_certain == 1
    shallow = ruggedness(plane(wells, n=41, se=0.3))
    assert (shallow.local_minima, shallow.local_minima_certain) == (1, 0)
    assert shallow.depth_se == pytest.approx(0.3 * 2**0.5)


def test_an_egg_box_has_a_pit_in_every_hollow():
    found = ruggedness(plane(lambda a, b: 0.01 * (a**2 + b**2) - torch.cos(np.pi * a) * torch.cos(np.pi * b), 61, 2.5))
    hollows = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if (i + j) % 2 == 0]
    assert found.local_minima == len(hollows) - 1
    assert found.depth < 1  # over the saddles at height 0, not over the tops


def test_what_is_sure_depends_on_the_standard_error():
    function = lambda a, b: torch.cos(6 * (a**2 + b**2) ** 0.5 + 1e-12)  # noqa: E731
    none, some, much = (ruggedness(plane(function, 21, se=se)) for se in (0.0, 0.05, 50.0))
    assert none.descending_fraction == some.descending_fraction == much.descending_fraction > 0.3
    assert (
        none.descending_fraction_certain
        == none.descending_fraction
        > some.descending_fraction_certain
        > much.descending_fraction_certain
        == 0
    )
    assert none.nonconvex_fraction == some.nonconvex_fraction
    assert (
        none.nonconvex_fraction_certain
        == none.nonconvex_fraction
        >= some.nonconvex_fraction_certain
        >= much.nonconvex_fraction_certain
        == 0
    )


def test_holes_are_left_out_and_coarse_grids_are_parts_of_fine_ones():
    surface = plane(lambda a, b: torch.where(a > 0.55, torch.inf, a**2 + b**2), 21)
    assert ruggedness(surface).descending_fraction == ruggedness(surface).nonconvex_fraction == 0
    rough = lambda a, b: a**2 + b**2 + 0.1 * torch.cos(7 * a + 3 * b)  # noqa: E731
    assert ruggedness(plane(rough, 41), 4) == ruggedness(plane(rough, 11))


def test_what_is_no_plane():
    line = plane(lambda a, b: a + b, 5).isel(beta=0, drop=True)
    with pytest.raises(errors.OptionError, match="no plane"):
        ruggedness(line)
    with pytest.raises(errors.OptionError, match="no inside"):
        ruggedness(plane(lambda a, b: a**2 + b**2, 5), 4)
