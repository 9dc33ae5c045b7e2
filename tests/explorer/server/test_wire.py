"""Frames hold the numbers bit by bit; text is JSON."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lossnav.explorer.server import wire
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
