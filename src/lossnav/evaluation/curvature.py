"""Gradient and Hessian at every point of a chart: curvature that the picture of a plane does not show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from lossnav._utils import jsonable
from lossnav._utils.conclusion import conclude
from lossnav._utils.geometry import Array
from lossnav._utils.paths import Location, inside, name_of
from lossnav._utils.validation import require
from lossnav.acceleration import ChartFunction
from lossnav.charts import Chart
from lossnav.curvature.eigen import LIMIT, random_vector, require_reachable
from lossnav.curvature.hessian import Hessian, operator_of
from lossnav.curvature.lanczos import lanczos
from lossnav.curvature.loss_operator import LossOperator, ProductPrecision
from lossnav.errors import Interrupted, OptionError, PlanMismatchError
from lossnav.evaluation.center import losses_of, require_fit
from lossnav.evaluation.evaluate import measure
from lossnav.objective.objective import Objective
from lossnav.samplers import Grid, Sampler
from lossnav.samplers.grid import Snake
from lossnav.surface import run_identity, variables, zarr_io

if TYPE_CHECKING:
    import xarray as xr

GROUP = "curvature"

_ASTRAY = 0.1  # length of the random part of a start vector, relative to the neighbour's eigenvectors


def evaluate_curvature(
    of: Objective | Hessian,
    chart: Chart,
    sampler: Sampler,
    *,
    seed: int = 0,
    tolerance: float = 1e-3,
    limit: int = LIMIT,
    store: Location | None = None,
    overwrite: bool = False,
    check: bool = True,
    progress: bool | None = None,
    resume: xr.Dataset | None = None,
    on_update: Callable[[xr.Dataset], object] | None = None,
) -> xr.Dataset:
    """Compute gradient and extreme Hessian eigenvalues at the points of a chart.

    A slice of weight space shows only the curvature within it: a point that looks like a minimum may be a saddle.
    |lambda_min / lambda_max| of the full Hessian measures how far from convex the loss is (Li et al. 2018, Fig. 7).

    The points of a grid are evaluated row by row, every second row backwards, and each starts from the eigenvectors of
    the previous one. So the last digits of an eigenvalue, within its error, depend on where a run was resumed.

    Parameters
    ----------
    of : Objective or Hessian
        ``ln.evaluate_curvature(ln.curvature.Hessian(objective, exclude="bias"), chart, sampler)``: the Hessian sets the
        block of lambda_min and lambda_max and the precision; its point is ignored. Gradient and in-plane values always
        use all parameters that move.
    chart : Chart
    sampler : Sampler
        Usually a coarse `Grid`: each point takes ten to a hundred passes over the data.
    seed, tolerance, limit
        As in `top_eigenpairs`; the limit is per point.
    store : path, fsspec URL or zarr store, optional
        Store of a surface on the same chart: the result is written to its group ``curvature`` during the run, and the
        same call resumes it. ``ln.open("run.zarr/curvature")`` opens it.
    overwrite : bool
        Whether to replace an existing group.
    check, progress, resume, on_update
        As in `evaluate`.

    Returns
    -------
    xarray.Dataset
        A surface (docs/schema.md) with ``loss``, ``status`` and, at each point: ``lambda_min``, ``lambda_max`` with
        ``lambda_min_error`` and ``lambda_max_error``, ``lambda_ratio``; ``gradient_norm``, ``gradient_in_plane``,
        ``gradient_out_of_plane``; ``hessian_in_plane`` (dims ``row``, ``column``), for an affine chart basis^T H basis;
        ``lambda_min_in_plane``, ``lambda_max_in_plane``, its eigenvalues in units of weights, which lie between those
        of the full Hessian; ``products``. NaN if not finite.

    Raises
    ------
    NotASurfaceError
        If the store is not a surface.
    PlanMismatchError
        If it is on another chart, or contains the curvature of something else.
    OptionError
        If an option is invalid, as in `top_eigenpairs`.
    Interrupted
        After Ctrl-C, with the points so far in ``partial``.
    Others
        As `evaluate` does.

    References
    ----------
    Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 6 and Fig. 7.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> saddle = ln.Objective.from_function(lambda p: 3 * p["x"][0] ** 2 - p["x"][1] ** 2, {"x": torch.zeros(2)})
    >>> line = ln.Line(saddle.params, {"x": torch.tensor([1.0, 0.0])})
    >>> found = ln.evaluate_curvature(saddle, line, ln.Grid(alpha=(-1, 1, 3)))
    >>> found["lambda_ratio"].values.round(4), found["hessian_in_plane"].values[0].round(4)
    (array([0.3333, 0.3333, 0.3333]), array([[6.]]))
    """
    require_reachable(tolerance, limit, seed)
    if isinstance(of, LossOperator) and not isinstance(of, Hessian):
        raise OptionError(
            f"evaluate_curvature needs a Hessian, got a {of.title}. Pass ln.curvature.Hessian(...), or use "
            "ln.spectrum for "
            f"a {of.title} at one point."
        )
    require(chart, "chart")
    require(sampler, "sampler")
    hessian = operator_of(of)
    objective, chart = require_fit(hessian.original, chart, sampler)
    place, signal = None, None
    if store is not None:
        _require_same_chart(store, chart)
        place = inside(store, GROUP)
    sampler = sampler.settle(losses_of(objective, chart))
    function = CurvatureFunction(objective, chart, hessian.names, hessian.precision, seed, tolerance, limit)
    try:
        made = measure(
            function,
            Snake(sampler) if isinstance(sampler, Grid) else sampler,
            store=place,
            overwrite=overwrite,
            check=check,
            progress=progress,
            resume=resume,
            on_update=on_update,
            about={"curvature": function.options()},
        )
    except Interrupted as stopped:
        made, signal = stopped.partial, stopped.signal
    kept, doubt = "They are in the .partial of this exception.", ""
    if place is not None:
        kept = f"They are stored in {name_of(place)}; the same call resumes the run."
    if function.unsure:
        doubt = (
            f"At {function.unsure:,} points an eigenvalue did not reach the tolerance {tolerance:g} within {limit} "
            "products. Its error is in lambda_min_error and lambda_max_error; allow more products with limit=."
        )
    done = int((made["status"] != variables.NOT_EVALUATED).sum())
    return conclude(made, signal, f"{done:,} points", doubt, kept=kept)


class CurvatureFunction(ChartFunction):
    """Maps coordinates to gradient and curvature; it starts from the eigenvectors of the previous point."""

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        names: Sequence[str],
        precision: ProductPrecision,
        seed: int,
        tolerance: float,
        limit: int,
    ) -> None:
        super().__init__(objective, chart)
        self.seed, self.tolerance, self.limit, self.precision = seed, tolerance, limit, precision
        self.names = tuple(names)
        self.unsure = 0
        self._computed = self.objective.double() if precision == "float64" else self.objective
        self._beside: Tensor | None = None

    def __call__(self, point: Array) -> Mapping[str, float]:
        """Return the loss and the values of `evaluate_curvature` at a point."""
        params = self.chart(point)
        hessian = Hessian(self._computed, params)
        tangents = torch.stack([hessian.to_flat(tangent) for tangent in self.chart.tangents(point)])  # (k, d)
        loss, gradient, images = hessian.derive(list(tangents))
        values = {"loss": loss} | dict.fromkeys(("lambda_min", "lambda_max", "lambda_ratio"), math.nan)
        values |= dict.fromkeys(("lambda_min_error", "lambda_max_error"), math.inf)
        values |= _split(gradient, tangents)
        values |= self._in_plane(point, hessian, gradient, tangents, torch.stack(images))
        count = hessian.count
        if math.isfinite(loss) and math.isfinite(values["gradient_norm"]):
            ends, products = self._ends(Hessian(self._computed, params, params=self.names))
            values, count = values | ends, count + products
        return values | {"products": float(count)}

    def accelerate(self, *given: Any) -> Any:
        """Return this function: it has no faster path."""
        return self

    def describe(self) -> dict[str, Any]:
        """Describe the plan, as an evaluation does."""
        return {"plan": "plain"}

    def options(self) -> dict[str, Any]:
        """Return how the eigenvalues are computed, as JSON values."""
        left_out = [name for name in self.objective.params if name not in self.names]
        return {
            "method": "Lanczos, thick restart, begun with the eigenvectors of the point before",
            "seed": self.seed,
            "tolerance": self.tolerance,
            "limit": self.limit,
            "precision": self.precision,
            "parameters": sum(self.objective.params[name].numel() for name in self.names),
            "excluded": left_out,
        }

    def _ends(self, hessian: Hessian) -> tuple[dict[str, float], int]:
        """Return both extreme eigenvalues, and the number of products."""
        start, chance = random_vector(hessian, self.seed), 1.0
        if self._beside is not None:
            start, chance = self._beside + _ASTRAY * start, _ASTRAY / (1 + _ASTRAY)
        found = lanczos(
            lambda vector: hessian.derive([vector]).products[0],
            start,
            1,
            1,
            tolerance=self.tolerance,
            limit=self.limit,
            seed=self.seed + 1,
            chance=chance,
        )
        if not np.isfinite(found.values).all():
            return {}, found.products
        self._beside = found.vectors.sum(0) / math.sqrt(len(found.vectors))
        self.unsure += not found.converged
        low, high = found.values[[0, -1]].tolist()
        errors = (found.errors + hessian.rounding(found.radius))[[0, -1]].tolist()
        values = {"lambda_min": low, "lambda_max": high, "lambda_ratio": abs(low / high) if high else math.inf}
        return values | {"lambda_min_error": errors[0], "lambda_max_error": errors[1]}, found.products

    def _in_plane(
        self, point: Array, hessian: Hessian, gradient: Tensor, tangents: Tensor, images: Tensor
    ) -> dict[str, float]:
        """Return second derivatives by the coordinates, and the extreme eigenvalues in units of weights."""
        k = len(tangents)
        within = (tangents @ images.T).cpu().numpy()
        within = (within + within.T) / 2
        bent = within + self.chart.bending(point, hessian.from_flat(gradient))
        gram = (tangents @ tangents.T).cpu().numpy()
        extremes = [math.nan, math.nan]
        if np.isfinite(within).all() and np.isfinite(gram).all():
            extremes = scipy.linalg.eigh(within, gram, eigvals_only=True)[[0, -1]].tolist()
        entries = {f"hessian_in_plane[{i}, {j}]": float(bent[i, j]) for i in range(k) for j in range(k)}
        return entries | dict(zip(("lambda_min_in_plane", "lambda_max_in_plane"), extremes, strict=True))


def _split(gradient: Tensor, tangents: Tensor) -> dict[str, float]:
    """Return the norms of a gradient, of its projection on the tangents, and of the remainder."""
    along = torch.linalg.pinv(tangents @ tangents.T, hermitian=True) @ (tangents @ gradient) @ tangents
    parts = {"norm": gradient, "in_plane": along, "out_of_plane": gradient - along}
    return {f"gradient_{name}": float(torch.linalg.vector_norm(part)) for name, part in parts.items()}


def _require_same_chart(store: Location, chart: Chart) -> None:
    """Raise if the surface of the store is on another chart."""
    said = zarr_io.open_surface(store).attrs
    asked = {**said, "chart": jsonable.jsonable(chart.describe())}
    if different := run_identity.differences(said, asked, "chart"):
        raise PlanMismatchError(
            f"{name_of(store)} contains a surface on another chart:\n  "
            + "\n  ".join(different)
            + "\nPass the store of "
            "a surface on this chart, or leave out store=."
        )
