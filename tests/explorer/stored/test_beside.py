"""Curvature and spectrum beside a stored surface: what a page is told is what the store holds, each with its error."""

import json

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav.curvature import DensityOptions
from lossnav.explorer.requests import parse
from lossnav.explorer.stored.beside import curvature_beside
from lossnav.explorer.stored.copy_as_code import code_of
from lossnav.explorer.stored.handlers import Client, Handler
from lossnav.explorer.stored.session import open_session

GRID = {"alpha": (-1, 1, 5), "beta": (-1, 1, 5)}


@pytest.fixture
def quartic():
    """loss = the sum of c_k x_k^4 / 12 + x_k^2 / 2 * d_k: its Hessian is diagonal, c_k x_k^2 + d_k."""
    c, d = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, -1.0, 0.5])
    return ln.Objective.from_function(
        lambda p: (c * p["x"] ** 4 / 12 + d * p["x"] ** 2 / 2).sum(), {"x": torch.zeros(3)}
    )


@pytest.fixture
def plane(quartic):
    return ln.Plane(quartic.params, *({"x": row} for row in torch.eye(3)[:2]))


@pytest.fixture
def store(quartic, plane, tmp_path):
    path = tmp_path / "run.zarr"
    ln.evaluate(quartic, plane, ln.Grid(**GRID), store=path, progress=False)
    return path


def hessian_ends(a, b):
    each = [2 + a**2, -1 + 2 * b**2, 0.5]
    return min(each), max(each)


def told(path, at):
    """What a page receives: the session's message, its frames, and the answer to a click."""
    handler, received = Handler(open_session(path)), []
    client = Client(received.append)
    handler.join(client)
    handler.show(client, 0)
    handler.answer(client, parse({"type": "point", "id": 1, "at": at}, 2))
    frames = [frame for frame in received if isinstance(frame, bytes)]
    headers = [json.loads(frame[4 : 4 + int.from_bytes(frame[:4], "little")]) for frame in frames]
    return received[0], headers, received[-1]


def test_without_them_nothing_is_said(store):
    session, headers, point = told(store, [0.5, 0.5])
    assert session["spectrum"] is None and len(headers) == 1 and "curvature" not in point
    assert not any(variable["name"].startswith("lambda") for variable in session["variables"])


@pytest.mark.parametrize("n", [3, 5])  # fewer points than the surface has, and the same
def test_curvature_is_a_picture_of_its_own_and_is_read_at_its_points(quartic, plane, store, n):
    grid = ln.Grid(alpha=(-1, 1, n), beta=(-1, 1, n))
    made = ln.evaluate_curvature(quartic, plane, grid, store=store, progress=False)
    session, headers, point = told(store, [1.0, 1.0])
    names = {variable["name"] for variable in session["variables"]}
    assert {"loss", "lambda_min", "lambda_max"} <= names
    assert not any(name.endswith("_error") for name in names)
    surface, curvature = headers
    assert surface.get("beside") is None and "lambda_max" not in surface["arrays"]
    assert curvature["beside"] == "curvature" and "loss" not in curvature["arrays"]
    assert curvature["axes"] == [made["alpha"].values.tolist(), made["beta"].values.tolist()]
    found, (low, high) = point["curvature"], hessian_ends(1.0, 1.0)
    for name, truth in ("lambda_min", low), ("lambda_max", high):
        assert abs(found[name] - truth) <= found[name + "_error"] + 1e-5
    assert abs(found["lambda_ratio"] - abs(low / high)) <= found["lambda_ratio_error"] + 1e-5
    if n == 3:  # this point of the surface has none
        assert told(store, [0.5, 0.5])[2]["curvature"] == {}


def test_the_error_of_a_ratio_covers_all_that_its_parts_allow(store, quartic, plane):
    ln.evaluate_curvature(quartic, plane, ln.Grid(**GRID), store=store, progress=False)
    curvature = curvature_beside(store, ("alpha", "beta"))
    for low, high in ((0.3, 0.2), (0.5, 4.9), (0.0, 0.1), (0.1, 5.0)):
        made = curvature.surface.copy()
        for name, value in ("lambda_min", -2.0), ("lambda_max", 5.0), ("lambda_ratio", 0.4):
            made[name] = made[name] * 0 + value
        made["lambda_min_error"], made["lambda_max_error"] = made["loss"] * 0 + low, made["loss"] * 0 + high
        found = type(curvature)(made).at([0, 0])
        ratios = [abs((-2 + s * low) / (5 + t * high)) for s in (-1, 0, 1) for t in (-1, 0, 1) if 5 + t * high > 0]
        assert max(abs(ratio - 0.4) for ratio in ratios) <= found["lambda_ratio_error"] * (1 + 1e-9)
        assert np.isinf(found["lambda_ratio_error"]) == (high >= 5)


def test_the_spectrum_has_its_numbers_and_errors(quartic, store):
    made = ln.spectrum(quartic, top=1, density=DensityOptions(probes=3, steps=3), store=store, progress=False)
    said = told(store, [0, 0])[0]["spectrum"]
    np.testing.assert_allclose(said["eigenvalues"], [-1.0, 2.0], atol=1e-5)
    assert sorted(made["eigenvalue"].values.tolist()) == said["eigenvalues"]
    assert len(said["errors"]) == 2 and said["ranks"] == [1, 1]
    finite = np.isfinite(said["density"])
    assert np.asarray(said["density"])[finite].tolist() == made["density"].values.tolist()
    assert np.asarray(said["density_error"])[finite].tolist() == made["density_error"].values.tolist()
    assert json.dumps(said["note"])


def test_curvature_at_single_points_is_read_there_and_is_no_picture(quartic, plane, store):
    points = ln.Points([[0.5, 0.5], [1.0, -1.0]])
    ln.evaluate_curvature(quartic, plane, points, store=store, progress=False)
    session, headers, point = told(store, [1.0, -1.0])
    assert len(headers) == 1 and not any(variable["name"] == "lambda_max" for variable in session["variables"])
    low, high = hessian_ends(1.0, -1.0)
    assert point["curvature"]["lambda_max"] == pytest.approx(high, abs=1e-4)
    assert point["curvature"]["lambda_min"] == pytest.approx(low, abs=1e-4)


def test_as_python_opens_the_curvature(quartic, plane, store):
    made = ln.evaluate_curvature(quartic, plane, ln.Grid(**GRID), store=store, progress=False)
    code = code_of(open_session(store), 0, {"metric": "lambda_max"})
    assert "variable='lambda_max'" in code
    line = next(line for line in code.split("\n") if "ln.open(" in line)
    scope = {"ln": ln}
    exec(line, scope)
    np.testing.assert_array_equal(scope["surface"]["lambda_max"], made["lambda_max"])
