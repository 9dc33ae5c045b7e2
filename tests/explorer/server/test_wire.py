"""Messages are read word by word, and frames hold the numbers bit by bit."""

import contextlib
import itertools
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lossnav.errors import OptionError, RequestError
from lossnav.explorer.server import wire
from lossnav.explorer.stored.lattice import Lattice
from talking import unframe

numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(numbers, min_size=1, max_size=6), st.text(max_size=30))
def test_a_frame_holds_its_numbers_bit_by_bit(values, title):
    header = {"type": "grid", "axes": [list(range(len(values)))], "title": title, "loss": float("inf")}
    data = wire.frame(header, {"a": np.array(values), "status": np.arange(len(values), dtype=np.uint8)})
    read, arrays = unframe(data)
    assert read == header | {"loss": "inf", "arrays": ["a", "status"]}
    assert arrays["a"].tobytes() == np.array(values).tobytes()
    assert arrays["status"].tolist() == list(range(len(values)))


def test_a_frame_is_row_major_the_first_coordinate_first():
    values = np.arange(6.0).reshape(2, 3)
    _, arrays = unframe(wire.frame({"axes": [[0, 1], [0, 1, 2]]}, {"loss": values.T.copy().T}))
    assert arrays["loss"].tolist() == values.tolist()


def test_text_is_json_whatever_the_numbers():
    assert json.loads(wire.text({"a": [float("nan"), float("-inf"), np.float64(1.5)]})) == {"a": ["nan", "-inf", 1.5]}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["hello", "window", "point", "line", "ball", "place", "go", "stop", "code", "bookmark"])
WORDS = st.sampled_from(
    [
        "id",
        "ranges",
        "at",
        "from",
        "to",
        "points",
        "optimizer",
        "lr",
        "steps",
        "batch",
        "seed",
        "center",
        "axes",
        "place",
    ]
)


@given(KINDS, st.dictionaries(WORDS, JSON, max_size=6), st.integers(1, 3))
def test_whatever_comes_is_a_request_or_an_error_of_ours(type_, words, k):
    with contextlib.suppress(OptionError, RequestError):
        read = wire.read(json.dumps({"type": type_, **words}))
        assert wire.parse(read, k).type == type_


def test_words_that_are_left_out_have_their_defaults():
    ball = wire.parse({"type": "ball", "at": [1, 2]}, 2)
    assert (ball.optimizer, ball.lr, ball.steps, ball.batch, ball.seed) == ("sgd", 0.1, 200, None, 0)
    assert wire.parse({"type": "line", "from": [0], "to": [1]}, 1).points == 41
    place = wire.parse({"type": "place", "axes": {"kind": "keep"}}, 2)
    assert place.center is None and place.axes == "keep" and place.checkpoint is None


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
