"""Surfaces as a run would have stored them, and curvature to go with them."""

import numpy as np

from conftest import made

LAYERS = {
    "batch_norms": 1, "batch_statistics": 0, "running_statistics": 0, "norm_tensors": 2, "weights": 3, "rectifiers": 1,
}  # fmt: skip


ENGINE = {"kind": "Local", "plan": "plain", "precision": "native"}


def levels(report):
    return {line.check: line.level for line in report.lines}


def picture(values=None, se=1e-4, objective=None, chart=None, **attrs):
    """A bowl as a run of a trained network on all its data leaves it, with one thing else perhaps."""
    if values is None:
        x = np.linspace(-1, 2, 21)
        values = 0.3 + np.add.outer(x**2, x**2)
    objective = {
        "model": "Net", "loss": "cross_entropy", "samples": 1000, "bn": "recompute", "dtype": "float32",
        "layers": LAYERS, "buffers": 3, "cut_samples": 8, "batches": 1,
    } | (objective or {})  # fmt: skip
    recipe = {"kind": "random", "normalize": "filter", "norm": 3.0, "norms": {"a": 2.0, "b": 2.0, "c": 1.0}}
    k = np.ndim(values)
    chart = {
        "kind": "Plane", "dims": ["alpha", "beta"][:k], "directions": [recipe] * k, "cosines": {"0,1": 0.0},
        "center_norm": 3.0, "affine": True,
    } | (chart or {})  # fmt: skip
    if k == 1:
        chart["cosines"] = {}
    still = {"entries": 100, "of": {}}
    defaults = {
        "still": still,
        "engine": ENGINE,
        "center": {"loss": float(np.nanmin(values))},
        "finished": True,
        "interrupted": False,
    }
    return made(values, dims=chart["dims"], se=se, **defaults | attrs | {"objective": objective, "chart": chart})


def curvature_at(surface, low, high, error=1e-3):
    """The surface's curvature as `evaluate_curvature` stores it, on a coarse grid."""
    coarse = surface.isel({dim: slice(0, None, 5) for dim in surface["loss"].dims}).copy()
    coarse = coarse.assign_coords(
        {dim: coarse[dim] - coarse[dim].values[np.abs(coarse[dim].values).argmin()] for dim in coarse.dims}
    )
    for name, value in {"lambda_min": low, "lambda_max": high, "lambda_min_error": error}.items():
        coarse[name] = coarse["loss"] * 0 + value
    coarse.attrs = surface.attrs | {"curvature": {"parameters": 10}}
    return coarse
