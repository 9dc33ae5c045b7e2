"""The variables of a surface: status, units, words for axes; and whether a dataset is a surface. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossnav._utils.lazy_import import lazily
from lossnav._utils.paths import (
    SURFACE_SCHEMA,
)
from lossnav._utils.validation import no_surface
from lossnav._version import __version__
from lossnav.errors import (
    NotASurfaceError,
    OptionError,
    SchemaTooNewError,
)
from lossnav.storage import samples as kept
from lossnav.storage.schema import RESERVED

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

if TYPE_CHECKING:
    pass


SCHEMA_VERSION = 1

NOT_EVALUATED, OK, NON_FINITE, FAILED = 0, 1, 2, 3
STATUS_WORDS = {NOT_EVALUATED: "not evaluated", OK: "ok", NON_FINITE: "non-finite", FAILED: "failed"}

_CURVATURE = {  # variables of `evaluate_curvature`; weights have no unit
    "lambda_min": "smallest (most negative) eigenvalue of the Hessian",
    "lambda_max": "largest eigenvalue of the Hessian",
    "lambda_ratio": "|λmin / λmax| of the Hessian",
    "lambda_min_error": "an eigenvalue lies within this distance of lambda_min",
    "lambda_max_error": "an eigenvalue lies within this distance of lambda_max",
    "lambda_min_in_plane": "smallest eigenvalue of the Hessian within the tangent plane of the chart",
    "lambda_max_in_plane": "largest eigenvalue of the Hessian within the tangent plane of the chart",
    "gradient_norm": "norm of the gradient",
    "gradient_in_plane": "norm of the gradient's projection on the tangent plane of the chart",
    "gradient_out_of_plane": "norm of the gradient orthogonal to the tangent plane of the chart",
    "hessian_in_plane": "second derivatives of the loss by the coordinates, in the chart's order",
    "products": "Hessian-vector products, each a pass over the data",
}
_MATRIX = ("row", "column")  # dims of a variable that is a matrix at every point
_LOSS_UNITS = {"cross_entropy": "nat", "CrossEntropyLoss": "nat", "nll_loss": "nat", "NLLLoss": "nat"}
DIM_LETTERS = {"alpha": "α", "beta": "β", "gamma": "γ"}


def status_of(values: Mapping[str, float], error: str | None = None) -> int:
    """Return the status code of a point from its values."""
    if error is not None:
        return FAILED
    return OK if math.isfinite(values["loss"]) else NON_FINITE


def stored_values(values: Mapping[str, float], dims: Sequence[str]) -> dict[str, float]:
    """Return the stored values of a point, with the skewness of its samples after the standard error.

    Raises
    ------
    OptionError
        If there is no loss, a value is not a number, or has the name of another variable of a surface over `dims`.
    """
    if "loss" not in values:
        raise OptionError(f"The values {dict(values)} have no loss. Pass {{'loss': ...}}, or error= if there is none.")
    if taken := values.keys() & {*dims, *RESERVED}:
        raise OptionError(f"The name {taken.pop()!r} belongs to another variable of a surface. Rename the value.")
    made = dict(values)
    if (skewness := getattr(values, "skewness", None)) is not None:
        first = {name: values[name] for name in ("loss", "loss_se") if name in values}
        made = first | {"loss_skewness": skewness} | made
    try:
        return {name: float(value) for name, value in made.items()}
    except (TypeError, ValueError) as error:
        raise OptionError(f"The values {made} are not numbers: {error}. Pass one float per name.") from error


def describe_variables(dataset: xr.Dataset) -> None:
    """Give every variable and coordinate its description and unit."""
    objective, chart = dataset.attrs.get("objective", {}), dataset.attrs.get("chart", {})
    loss = objective.get("loss", "loss")
    unit = _LOSS_UNITS.get(loss, "1")
    for name, variable in dataset.data_vars.items():
        if name == "loss":
            variable.attrs = {"long_name": f"mean loss over the data ({loss})", "units": unit}
        elif name == "loss_se":
            variable.attrs = {"long_name": "standard error of the mean loss over the data", "units": unit}
        elif name == "loss_skewness":
            variable.attrs = {"long_name": "skewness of the losses of single samples", "units": "1"}
        elif name == kept.LOSS:
            variable.attrs = {"long_name": "losses of single samples (sums before weights)", "units": unit}
        elif name == kept.WEIGHT:
            variable.attrs = {"long_name": "weights of the samples in the mean", "units": "1"}
        elif name == "status":
            words = {word.replace(" ", "_"): code for code, word in STATUS_WORDS.items()}
            variable.attrs = {"long_name": "status of the point", "units": "1"}
            variable.attrs |= {"flag_values": list(words.values()), "flag_meanings": " ".join(words)}
        elif name in _CURVATURE and "curvature" in dataset.attrs:
            in_loss = name not in ("lambda_ratio", "products")
            variable.attrs = {"long_name": _CURVATURE[str(name)], "units": unit if in_loss else "1"}
        else:
            words = objective.get("metric_words", {}).get(name)
            said = f"{name} ({words})" if words else str(name)
            variable.attrs = {"long_name": f"{said}, mean over the data", "units": "1"}
    for dim, meaning in axis_words(chart).items():
        dataset[dim].attrs = {
            "long_name": f"{DIM_LETTERS.get(dim, dim)}, {meaning}",
            "units": "lengths of the direction" if chart.get("directions") else "1",
        }


def axis_words(chart: Mapping[str, Any]) -> dict[str, str]:
    """Return a short description of each coordinate of a chart.

    Examples
    --------
    >>> axis_words({"kind": "Line", "dims": ["alpha"], "directions": [{"kind": "gradient"}]})
    {'alpha': 'gradient of the loss'}
    >>> axis_words({"kind": "QuadraticPath", "dims": ["t"], "directions": [], "axes": {"t": "from a to c"}})
    {'t': 'from a to c'}
    """
    dims, recipes = list(chart.get("dims", [])), list(chart.get("directions", []))
    if len(recipes) == len(dims):
        words = {dim: direction_words(recipe) for dim, recipe in zip(dims, recipes, strict=True)}
    else:
        kind = f"coordinate of a {chart['kind']}" if chart.get("kind") else direction_words({})
        words = dict.fromkeys(dims, kind)
    return words | {dim: str(said) for dim, said in chart.get("axes", {}).items() if dim in words}


def is_straight(chart: Mapping[str, Any]) -> bool:
    """Return whether a chart is affine: its centre plus coordinates times its directions."""
    return chart.get("kind") in ("Line", "Plane", "Volume") and "signature" not in chart


def is_rescaled(chart: Mapping[str, Any]) -> bool:
    """Return whether a chart scales its directions to the weights, tensor by tensor."""
    return chart.get("kind") in ("RescaledLine", "RescaledBilinear") and "signature" not in chart


def direction_words(recipe: Mapping[str, Any]) -> str:
    """Return a short description of a direction for an axis label: ``words`` of its recipe, or its kind."""
    kind = str(recipe.get("kind", "given"))
    times = f", times {float(recipe['times']):.3g}" if "times" in recipe else ""
    words = recipe.get("words") or (_WORDS[kind](recipe) if kind in _WORDS else kind)
    return f"{words}{times}"


def _random_words(recipe: Mapping[str, Any]) -> str:
    drawn = "uniform" if recipe.get("distribution") == "uniform" else "Gaussian"
    how = recipe.get("normalize")
    return f"random {drawn}" + (f", {how}-normalised" if how else "")


def _component_words(recipe: Mapping[str, Any]) -> str:
    how = ", filter-normalised" if recipe.get("scale") else ""
    mine, chance = f"{recipe['explained']:.0%}", f"{recipe['random_walk']:.0%}"
    return f"component {recipe['index'] + 1}: {mine} of path, chance {chance}{how}"


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {  # recipes without words
    "random": _random_words,
    "pca": _component_words,
    "hessian": lambda recipe: f"eigenvector of the Hessian, λ = {float(recipe['eigenvalue']):.3g}",
    "between": lambda recipe: "from start to end",
    "through": lambda recipe: "through several models",
    "gradient": lambda recipe: "gradient of the loss",
    "moment": lambda recipe: f"Adam's {recipe.get('moment')}",
    "given": lambda recipe: "given direction",
}


def validate(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset if it is a surface with a known schema.

    Raises
    ------
    NotASurfaceError
        If the schema, the loss or the status is missing, or shapes or types are wrong.
    SchemaTooNewError
        If a newer lossnav wrote it.
    """
    if not isinstance(dataset, xr.Dataset):
        raise no_surface(dataset)
    _validate_header(dataset.attrs)
    for name, kind in (("loss", "f"), ("status", "u")):
        if name not in dataset or dataset[name].dtype.kind != kind:
            raise NotASurfaceError(f'This surface lacks the variable "{name}", so it is damaged. Evaluate it again.')
    dims = dataset["loss"].dims
    allowed = {kept.LOSS: ((*dims, kept.DIM),), kept.WEIGHT: ((kept.DIM,),)}
    every = dataset.data_vars.items()
    if any(variable.dims not in allowed.get(str(name), (dims, (*dims, *_MATRIX))) for name, variable in every):
        raise NotASurfaceError("The variables of this surface differ in shape, so it is damaged. Evaluate it again.")
    if "seed" in dims:
        seeds = dataset.attrs.get("ensemble", {}).get("seeds", ())
        if "seed" not in dataset.coords or not {*dataset["seed"].values.tolist()} <= {*seeds}:
            raise NotASurfaceError(
                "The seeds of this surface differ from those in its attributes, so it is damaged. Evaluate it again."
            )
    return dataset


def _validate_header(attributes: Mapping[str, Any]) -> None:
    """Raise if attributes are not those of a surface with a known schema."""
    if attributes.get("schema") != SURFACE_SCHEMA:
        raise NotASurfaceError(
            "This is not a lossnav surface: its attributes lack the schema. "
            "Pass what ln.evaluate returned, or a path that lossnav evaluate wrote."
        )
    version = attributes.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise NotASurfaceError("This surface lacks its schema version, so it is damaged. Evaluate it again.")
    if version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            f"This surface has schema version {version}, but this lossnav "
            f"({__version__}) reads up to {SCHEMA_VERSION}. "
            "Upgrade with: pip install --upgrade lossnav"
        )
