"""What a notebook shows of a surface: a picture that is there, and numbers that are right."""

import base64
import re

import numpy as np
import pytest

from conftest import made


@pytest.mark.parametrize(("shape", "pictures"), [((7,), 1), ((4, 5), 1), ((3, 3, 3), 0)])
def test_a_surface_shows_itself(shape, pictures):
    values = 0.5 + np.random.default_rng(0).uniform(size=shape)
    values.reshape(-1)[1] = np.inf
    surface = made(values, dims=("alpha", "beta", "gamma")[: len(shape)])
    said = surface.lossnav._repr_html_()
    found = re.findall(r"base64,([^']+)", said)
    assert len(found) == pictures and all(base64.b64decode(data).startswith(b"\x89PNG") for data in found)
    lowest = values.min()
    assert f"{lowest:.5g} at " in said and "non-finite" in said and "cross_entropy" in said


def test_names_are_no_tags():
    surface = made(np.ones((2, 2)))
    surface.attrs["objective"]["model"] = "<script>"
    assert "<script>" not in surface.lossnav._repr_html_()


def test_nothing_finite_is_no_picture():
    assert "<img" not in made(np.full((2, 3), np.nan)).lossnav._repr_html_()
