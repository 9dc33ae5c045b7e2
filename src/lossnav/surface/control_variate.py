"""Control variates: a surface of a subset, corrected by all the data at a few points. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.geometry import Array, nearest
from lossnav._utils.interpolation import Interpolant
from lossnav._utils.jsonable import jsonable
from lossnav.errors import OptionError
from lossnav.surface.assemble import points_of, without_samples
from lossnav.surface.seeds import FAILURES_KEPT, of_one_seed
from lossnav.surface.variables import NOT_EVALUATED, OK, validate

if TYPE_CHECKING:
    import xarray as xr


def control_variate(subset: xr.Dataset, full: xr.Dataset) -> xr.Dataset:
    """Correct a surface of a subset of the data by one of all the data at fewer points.

    The logarithm of full / subset is smooth, since both are losses of the same weights. It is interpolated between the
    points of the full surface and added to the log-loss of the subset (without logarithms: the difference to the loss).

    Parameters
    ----------
    subset : xarray.Dataset
        A surface of `Objective.subset`, at many points.
    full : xarray.Dataset
        A surface of the whole objective on the same chart, at points where the subset was evaluated too.

    Returns
    -------
    xarray.Dataset
        The subset's surface with the corrected ``loss``. At points of the full surface, its loss and status are used;
        points outside these are not evaluated (status 0), since no correction is known. ``loss_se`` is the residual
        error: the root mean square, over the points of the full surface, of the correction minus its prediction by the
        other points; 0 at the points of the full surface. ``attrs["control_variate"]`` has it relative to the loss
        (``residual_error``; ``largest``), and the largest relative ``correction``. ``center`` is of all the data;
        ``seconds`` are those of both runs.

    Raises
    ------
    OptionError
        If the two are not a subset and its whole, the charts differ, points are missing from the subset's surface, or
        there are fewer than six where both losses are finite.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> x = torch.linspace(-1, 1, 200).reshape(-1, 1)
    >>> model = torch.nn.Linear(1, 1)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[0.5]]), "bias": torch.tensor([0.2])})
    >>> objective = ln.Objective(model, "mse", (x, x**2))
    >>> line = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
    >>> few = ln.evaluate(objective.subset(40), line, ln.Grid(alpha=(-1, 1, 17)))
    >>> whole = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 9)))
    >>> better, truth = ln.control_variate(few, whole), ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 17)))
    >>> bool(abs(better["loss"] / truth["loss"] - 1).max() < 0.02)
    True
    """
    subset, full = (without_samples(of_one_seed(validate(surface))) for surface in (subset, full))
    _require_subset(subset, full)
    places, losses, status = points_of(subset), _flat(subset, "loss").copy(), _flat(subset, "status").copy()
    done = _flat(full, "status") != NOT_EVALUATED
    coarse, truth, became = points_of(full)[done], _flat(full, "loss")[done], _flat(full, "status")[done]
    same = _places_of(coarse, places)
    usable = (became == OK) & (status[same] == OK)
    if usable.sum() < 6:
        raise OptionError(
            f"A correction needs six points where both surfaces have a finite loss, and there are {int(usable.sum())}. "
            "Evaluate all the data at more points, or on a smaller range where the losses are finite."
        )
    known = status == OK
    few, whole = losses[same[usable]], truth[usable]
    log = bool((whole > 0).all() and (losses[known] > 0).all())
    offsets = np.log(whole) - np.log(few) if log else whole - few
    correction = Interpolant(coarse[usable], offsets, log=False)
    beyond = known & ~correction.reaches(places)
    known &= ~beyond
    steps = correction.heights(places[known])
    losses[known] = losses[known] * np.exp(steps) if log else losses[known] + steps
    losses[beyond], status[beyond] = np.nan, NOT_EVALUATED
    losses[same], status[same] = truth, became
    errors = correction.left_out() * correction.range  # in units of the offsets: relative, or of the loss
    errors = errors[np.isfinite(errors)]
    residual = float(np.sqrt((errors**2).mean())) if len(errors) else float("nan")
    se = np.where(status == OK, np.abs(losses) * residual if log else residual, np.nan)
    se[same[became == OK]] = 0.0
    made = subset.drop_vars("loss_skewness", errors="ignore")  # it belongs to the losses of the subset
    shape, dims = subset["loss"].shape, subset["loss"].dims
    meaning = {"long_name": "residual error of the control variate", "units": subset["loss"].attrs.get("units", "1")}
    made["loss"] = (dims, losses.reshape(shape), subset["loss"].attrs)
    made["loss_se"] = (dims, se.reshape(shape), meaning)
    made["status"] = (dims, status.reshape(shape), subset["status"].attrs)
    said = {
        "points": int(usable.sum()),
        "outside": int((status[beyond] == NOT_EVALUATED).sum()),
        "residual_error": residual,
        "largest": float(errors.max()) if len(errors) else float("nan"),
        "correction": float(np.abs(np.expm1(offsets) if log else offsets).max()),
        "relative": log,
        "sampler": {key: value for key, value in full.attrs.get("sampler", {}).items() if key != "outcome"},
    }
    made.attrs = subset.attrs | _of_both(subset.attrs, full.attrs) | {"control_variate": jsonable(said)}
    return validate(made)


_SHARED = ("model", "loss", "bn", "parameters")  # attributes that the two objectives must share


def _require_subset(subset: xr.Dataset, full: xr.Dataset) -> None:
    """Raise unless the two surfaces are of a subset and of all the data, on one chart."""
    few, whole = (surface.attrs.get("objective", {}) for surface in (subset, full))
    if few.get("population") is None and whole.get("population") is not None:
        raise OptionError(
            "The first surface is of all the data and the second of a subset. Swap them: control_variate(subset, full)."
        )
    if few.get("population") is None:
        raise OptionError("The first surface is not of a subset. Evaluate objective.subset(n) on the same chart.")
    if whole.get("population") is not None:
        raise OptionError("The second surface is of a subset too. Evaluate the whole objective on the same chart.")
    if different := [key for key in _SHARED if few.get(key) != whole.get(key)]:
        key = different[0]
        raise OptionError(
            f"The two surfaces are of different objectives: {key} is {few.get(key)!r} and {whole.get(key)!r}. "
            "Evaluate an objective and its objective.subset(n)."
        )
    if whole.get("samples") != few["population"]:
        raise OptionError(
            f"The subset was drawn from {few['population']} samples, but the second "
            f"surface has {whole.get('samples')}. "
            "Evaluate the objective from which the subset was drawn."
        )
    if subset.attrs["chart"] != full.attrs["chart"]:
        raise OptionError("The two surfaces have different charts. Evaluate both on the same one.")
    if "seed" in subset.dims or "seed" in full.dims:
        raise OptionError("control_variate corrects one seed, and a surface has several. Use surface.lossnav.seed(0).")


def _places_of(coarse: Array, places: Array) -> NDArray[np.intp]:
    """Return the number of the point that each coarse point is."""
    if coarse.shape[1] != places.shape[1]:
        raise OptionError(
            "One of the surfaces is a slice of the other's chart. Use both unsliced, or slice both in the same way."
        )
    distance, same = nearest(places, coarse)
    if (distance > 1e-9).any():
        raise OptionError(
            f"{int((distance > 1e-9).sum())} points of the full surface are not "
            "points of the subset. Use a coarse grid "
            "whose points are in the fine one, for example 11 and 51 points on the same range."
        )
    return same


def _flat(surface: xr.Dataset, name: str) -> NDArray[Any]:
    return np.asarray(surface[name].values).reshape(-1)


def _of_both(few: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that combine both runs."""
    seconds = [float(attributes.get("seconds", 0)) for attributes in (few, whole)]
    rates = [float(attributes.get("points_per_second", 0)) for attributes in (few, whole)]
    points = sum(time * rate for time, rate in zip(seconds, rates, strict=True) if time > 0)
    return {
        "center": whole.get("center", {}),
        "seconds": round(sum(seconds), 3),
        "points_per_second": points / sum(seconds) if sum(seconds) > 0 else "nan",
        "failures": [*whole.get("failures", []), *few.get("failures", [])][:FAILURES_KEPT],
        "interrupted": bool(few.get("interrupted", False) or whole.get("interrupted", False)),
        "finished": bool(few.get("finished", True) and whole.get("finished", True)),
    }
