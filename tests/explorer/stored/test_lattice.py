"""Windows lie on one lattice, whose finer levels hold the coarser ones."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lossnav.explorer.stored.lattice import Lattice

ends = st.floats(-50, 50).filter(lambda x: x == 0 or abs(x) > 1e-3)


@given(ends, st.floats(1e-3, 100), ends, st.floats(1e-5, 100))
def test_every_window_lies_on_one_lattice(low, width, left, span):
    """Finer levels hold coarser ones, and windows that overlap share their places, to the last bit."""
    lattice = Lattice([(low, low + width)])
    window, beside = [(left, left + span)], [(left + span / 3, left + 1.3 * span)]
    levels = [axis for (axis,) in lattice.levels(window, side=65)]
    for coarse, fine in itertools.pairwise(levels):
        inside = coarse[(coarse >= fine[0]) & (coarse <= fine[-1])]
        assert set(inside.tolist()) <= set(fine.tolist())
    for axis in levels:
        steps = np.diff(axis)
        assert (steps > 0).all() and steps.max() <= 1.001 * steps.min() + 1e-9
        assert axis[0] <= left + 1e-6 * span and axis[-1] >= left + span - 1e-6 * span
    assert 5 <= len(levels[0]) <= 11 and len(levels[-1]) <= 65
    other = [axis for (axis,) in lattice.levels(beside, side=65)][: len(levels)]
    for a, b in zip(levels, other, strict=False):
        if abs(np.diff(a)[0] - np.diff(b)[0]) < 1e-9 * np.diff(a)[0]:
            both = a[(a >= b[0]) & (a <= b[-1])]
            assert set(both.tolist()) <= set(b.tolist())


def test_levels_stop_at_the_number_of_points():
    sizes = [tuple(map(len, axes)) for axes in Lattice([(-1, 1)] * 3).levels([(-1, 1)] * 3)]
    assert sizes == [(5, 5, 5), (9, 9, 9)]
    sizes = [len(axis) for (axis,) in Lattice([(-1, 1)]).levels([(-1, 1)])]
    assert sizes == [5, 9, 17, 33, 65]
