"""What a part of the data says, corrected by what all of it says in a few places. No torch."""

from __future__ import annotations

import numpy as np
import xarray as xr

from lossnav.coordinates import nearest
from lossnav.errors import OptionError
from lossnav.interpolation import Interpolant
from lossnav.surface import OK, jsonable, points_of, validate


def control_variate(subset: xr.Dataset, full: xr.Dataset) -> xr.Dataset:
    """Correct a surface of a subset of the data by one of all the data at fewer points.

    The logarithm of full / subset is smooth, as both are losses of the same weights: it is interpolated between the
    points of the full surface and added to the subset's log-loss (without logarithms: the difference, to the loss).

    Parameters
    ----------
    subset : xarray.Dataset
        A surface of `Objective.subset`, at many points.
    full : xarray.Dataset
        A surface of the whole objective on the same chart, at points that the subset was evaluated at too.

    Returns
    -------
    xarray.Dataset
        The subset's surface with the corrected ``loss``. ``loss_se`` is the residual error: the root mean square, over
        the points of the full surface, of the correction against what the other points predict of it; 0 where all the
        data was evaluated. ``attrs["control_variate"]`` holds it relative to the loss (``residual_error``; ``largest``)
        and what the correction itself was (``correction``, the largest, relative).

    Raises
    ------
    OptionError
        If the charts differ, points are missing from the subset's surface, or there are fewer than six.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> x = torch.linspace(-1, 1, 200).reshape(-1, 1)
    >>> objective = ln.Objective(torch.nn.Linear(1, 1), "mse", (x, x**2))
    >>> line = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
    >>> few = ln.evaluate(objective.subset(40), line, ln.Grid(alpha=(-1, 1, 17)))
    >>> whole = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 9)))
    >>> better, truth = ln.control_variate(few, whole), ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 17)))
    >>> bool(abs(better["loss"] / truth["loss"] - 1).max() < 0.02)
    True
    """
    validate(subset)
    validate(full)
    charts = [surface.attrs["chart"] for surface in (subset, full)]
    if charts[0] != charts[1]:
        raise OptionError("The two surfaces are of different charts. Evaluate both on the same one.")
    places, losses = points_of(subset), subset["loss"].values.reshape(-1)
    done = full["status"].values.reshape(-1) == OK
    coarse, truth = points_of(full)[done], full["loss"].values.reshape(-1)[done]
    known = subset["status"].values.reshape(-1) == OK
    if len(coarse) < 6 or not known.any():
        raise OptionError(f"A correction needs six points of finite loss; there are {len(coarse)}. Evaluate more.")
    distance, same = nearest(places, coarse)
    if (distance > 1e-9).any():
        raise OptionError(
            f"{int((distance > 1e-9).sum())} points of the full surface are not among the subset's. Take a coarse grid "
            "whose points the fine one has: 11 and 51 points on the same range, for example."
        )
    usable = known[same]
    coarse, truth, there = coarse[usable], truth[usable], losses[same[usable]]
    log = bool((truth > 0).all() and (losses[known] > 0).all())
    offsets = np.log(truth) - np.log(there) if log else truth - there
    correction = Interpolant(coarse, offsets, log=False)
    steps = correction.heights(places[known])
    better = losses.copy()
    better[known] = losses[known] * np.exp(steps) if log else losses[known] + steps
    better[same[usable]] = truth
    errors = correction.left_out() * correction.range  # in units of the offsets: relative, or of the loss
    errors = errors[np.isfinite(errors)]
    residual = float(np.sqrt((errors**2).mean())) if len(errors) else float("nan")
    se = np.where(known, np.abs(better) * residual if log else residual, np.nan)
    se[same[usable]] = 0.0
    made = subset.copy()
    shape, dims = subset["loss"].shape, subset["loss"].dims
    meaning = {"long_name": "residual error of the control variate", "units": subset["loss"].attrs.get("units", "1")}
    made["loss"] = (dims, better.reshape(shape), subset["loss"].attrs)
    made["loss_se"] = (dims, se.reshape(shape), meaning)
    said = {
        "points": len(coarse),
        "residual_error": residual,
        "largest": float(errors.max()) if len(errors) else float("nan"),
        "correction": float(np.abs(np.expm1(offsets) if log else offsets).max()),
        "relative": log,
    }
    made.attrs = subset.attrs | {"control_variate": jsonable(said)}
    return validate(made)
