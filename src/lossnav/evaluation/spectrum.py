"""The spectrum of the Hessian at one point as a dataset: extreme eigenvalues, spectral density and trace."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossnav import params as algebra
from lossnav._utils.conclusion import conclude
from lossnav._utils.jsonable import jsonable
from lossnav._utils.lazy_import import lazily
from lossnav._utils.paths import Location, name_of
from lossnav._version import __version__
from lossnav.curvature.density import DensityOptions, Quadrature, SpectralDensity, density_of, quadrature, surely_known
from lossnav.curvature.eigen import LIMIT, Eigenpairs, doubts, require_count, require_reachable, search
from lossnav.curvature.hessian import operator_of
from lossnav.curvature.loss_operator import LossOperator
from lossnav.curvature.products import Entries, Products, Signs
from lossnav.curvature.trace import Estimate, entries, estimate, residual
from lossnav.errors import OptionError, PlanMismatchError
from lossnav.objective.objective import Objective
from lossnav.objective.reduction import Values
from lossnav.params import Params
from lossnav.surface.groups import SPECTRUM_SCHEMA, SPECTRUM_VERSION, require_spectrum, save_spectrum, spectrum_place

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")


_TRACE_PROBES = 20  # random vectors for a trace, including those of the density


def spectrum(
    of: Objective | LossOperator,
    *,
    top: int = 5,
    density: bool | DensityOptions = False,
    trace: bool = False,
    tolerance: float = 1e-3,
    limit: int = LIMIT,
    seed: int = 0,
    store: Location | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> xr.Dataset:
    """Compute extreme eigenvalues at a point and, if requested, the spectral density and the trace.

    Results are reused: the eigenpairs are removed exactly from the random estimates of density and trace, and the first
    step of the density's probes gives samples of the trace.

    Parameters
    ----------
    of : Objective, Hessian or GaussNewton
        For an objective, the Hessian at its centre over all parameters that move. Another point, a block or the
        Gauss-Newton matrix is an operator: ``ln.spectrum(ln.curvature.Hessian(objective, point, exclude="bias"))``.
    top : int
        Number of eigenvalues at each end; for a Gauss-Newton matrix, whose lower end is zero, at the upper end. 0:
        none.
    density : bool or curvature.DensityOptions
        Whether and how to estimate the density; True is ``DensityOptions(probes=5, steps=50, width=None)``.
    trace : bool
        Whether to estimate the trace.
    tolerance, limit
        As in `top_eigenpairs`.
    seed : int
        Seed of all random numbers.
    store : path, fsspec URL or zarr store, optional
        Where to write the result: alone, or in the group ``spectrum`` of a surface whose centre is this point.
    overwrite : bool
        Whether to replace an existing spectrum; an interrupted one is always replaced.
    progress : bool or None
        Whether to show bars (None: on a terminal).

    Returns
    -------
    xarray.Dataset
        See docs/schema.md: ``eigenvalue`` and ``eigenvalue_error`` over the dim ``eigenpair``, with the coordinate
        ``end``; with a density ``density`` and ``density_error`` over ``value``, ``node`` and ``weight`` over ``probe``
        and ``step``. The attributes contain ``loss``, ``gradient_norm``, ``trace``, ``passes`` and the provenance.
        `lossnav.open_spectrum` opens a stored spectrum.

    Raises
    ------
    OptionError
        If an option is invalid.
    OutputExistsError, OutputNotWritableError, StoreError
        If the store cannot be written.
    PlanMismatchError
        If the store contains a surface around another point.
    Interrupted
        After Ctrl-C, with the result so far in ``partial``; it is also in the store.
    Others
        As a `Hessian` or a `GaussNewton` does.

    Warns
    -----
    LossnavWarning
        If the derivatives are not finite, or an eigenvalue did not reach the tolerance.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> saddle = ln.Objective.from_function(lambda p: 3 * p["x"][0] ** 2 - p["x"][1] ** 2, {"x": torch.zeros(2)})
    >>> found = ln.spectrum(saddle, top=1, trace=True)
    >>> found["eigenvalue"].values.round(4), found["end"].values, round(found.attrs["trace"]["value"], 4)
    (array([-2.,  6.]), array(['smallest', 'largest'], dtype='<U8'), 4.0)
    """
    require_reachable(tolerance, limit, seed)
    matrix = operator_of(of)
    objective, point, both = matrix.original, matrix.point, matrix.kind == "hessian"
    how = density if isinstance(density, DensityOptions) else DensityOptions()
    if top != 0:
        require_count(top, top * (1 + both), matrix, limit)
    elif not (density or trace):
        raise OptionError("top=0 without density and trace requests nothing. Set one of them.")
    group = None if store is None else _group(store, overwrite, algebra.fingerprint(point))
    found, started = _SpectrumSoFar(objective, matrix), time.monotonic()
    found.options = {"seed": seed, "tolerance": tolerance, "limit": limit, "precision": matrix.precision}
    found.point = algebra.fingerprint(point)
    found.values = objective.evaluate(point)
    if top:
        with Products(matrix, "eigenvalues", None, progress) as multiply:
            smallest = top if both else 0
            found.pairs = search(multiply, smallest, top, seed=seed, tolerance=tolerance, limit=limit)
        found.note(multiply)
    known = None if found.pairs is None else surely_known(matrix, found.pairs)
    signs = Signs(matrix, seed + 2)  # the eigenpairs used the seed and the next one
    if density and found.goes_on:
        with Products(matrix, "density", how.probes * min(how.steps, matrix.size), progress) as multiply:
            found.quadrature = quadrature(multiply, signs, how.probes, how.steps, known, seed + 3)
        found.density = density_of(found.quadrature, how.steps, how.width, matrix.rounding, products=0, passes=0)
        found.note(multiply)
    if trace and found.goes_on:
        values, rows = (np.zeros(0), None) if known is None else known
        samples = list(found.quadrature.samples) if found.quadrature else []
        exact, certain = float(values.sum()), len(values) == matrix.size
        n = 0 if certain else max(0, _TRACE_PROBES - len(samples))
        few, variances = matrix.size <= n, list[float]()
        with Products(matrix, "trace", min(n, matrix.size), progress) as multiply:
            if few:
                values, samples = np.zeros(0), entries(multiply, Entries(matrix, seed + 2))
                certain = len(samples) == matrix.size
                exact = math.fsum(samples) / matrix.size if certain else 0.0
            else:
                samples, variances = residual(multiply, signs, n, rows, exact, samples=samples)
        rounding = matrix.rounding(max(multiply.norm, float(np.abs(values).sum())))
        about: dict[str, Any] = {"certain": certain, "rounding": 2 * rounding, "products": len(samples)}
        found.trace = estimate(exact, samples, variances, **about)
        found.taken_out = len(values)
        found.note(multiply)
    made = found.dataset(time.monotonic() - started)
    if store is not None:
        save_spectrum(made, store, group)
    doubt = "" if found.pairs is None else doubts(found.pairs, tolerance, matrix.title)
    if not found.finite:
        doubt = (
            "The second derivatives are not finite at this point, so the spectrum is NaN. Check the loss and "
            "the gradient "
            "there."
        )
    kept = "" if store is None else f"The result so far is stored in {name_of(store)}."
    return conclude(made, found.signal, f"{found.products} products", doubt, kept=kept)


class _SpectrumSoFar:
    """The results so far."""

    def __init__(self, objective: Objective, matrix: LossOperator) -> None:
        self.objective, self.matrix = objective, matrix
        self._before = matrix.count, matrix.passes
        self.options: dict[str, Any] = {}
        self.point = ""
        self.pairs: Eigenpairs[Params] | None = None
        self.quadrature: Quadrature | None = None
        self.density: SpectralDensity | None = None
        self.trace: Estimate | None = None
        self.taken_out = 0
        self.values: Values = {}
        self.signal: int | None = None

    def note(self, multiply: Products) -> None:
        """Take over the signal that stopped the products, if any."""
        self.signal = multiply.signal

    @property
    def products(self) -> int:
        """Number of products."""
        return self.matrix.count - self._before[0]

    @property
    def passes(self) -> int:
        """Number of passes over the data, including one for the loss."""
        return self.matrix.passes - self._before[1] + (2 if self.objective.bn == "recompute" else 1)

    @property
    def finite(self) -> bool:
        """Whether all results are finite."""
        values = [0.0] if self.pairs is None else list(self.pairs.values)
        values += [0.0] if self.density is None else [self.density.width]
        return bool(np.isfinite([*values, 0.0 if self.trace is None else self.trace.value]).all())

    @property
    def goes_on(self) -> bool:
        """Whether to compute more."""
        return self.signal is None and self.finite

    def dataset(self, seconds: float) -> xr.Dataset:
        """Return the dataset (docs/schema.md)."""
        pairs, unit = self.pairs, "unit of the loss"
        values, errors = (np.zeros(0), np.zeros(0)) if pairs is None else (pairs.values, pairs.errors)
        ends = np.full(len(values), "largest", dtype="<U8")
        if pairs is not None and self.matrix.kind == "hessian":
            ends[: len(values) // 2] = "smallest"
        made = xr.Dataset(
            {
                "eigenvalue": ("eigenpair", values, {"long_name": "eigenvalue, the most extreme first", "units": unit}),
                "eigenvalue_error": (
                    "eigenpair",
                    errors,
                    {"long_name": "an eigenvalue lies within this distance of the value", "units": unit},
                ),
            },
            coords={"end": ("eigenpair", ends, {"long_name": "which end of the spectrum"})},
        )
        if self.density is not None:
            per = f"1 / ({unit})"
            made["density"] = ("value", self.density.density, {"long_name": "density of eigenvalues", "units": per})
            said = {"long_name": "standard error of the density over the random vectors", "units": per}
            made["density_error"] = ("value", self.density.error, said)
            made = made.assign_coords(value=("value", self.density.values, {"long_name": "eigenvalue", "units": unit}))
            said = {"long_name": "nodes of the quadrature: known eigenvalues, then Ritz values", "units": unit}
            made["node"] = (("probe", "step"), self.density.nodes, said)
            said = {"long_name": "fraction of all eigenvalues represented by a node", "units": "1"}
            made["weight"] = (("probe", "step"), self.density.weights, said)
        made.attrs = jsonable(self._attributes() | {"seconds": seconds})
        return require_spectrum(made)

    def _attributes(self) -> dict[str, Any]:
        matrix = self.matrix
        said: dict[str, Any] = {
            "schema": SPECTRUM_SCHEMA,
            "schema_version": SPECTRUM_VERSION,
            "lossnav_version": __version__,
            "torch_version": torch.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "objective": self.objective.describe(),
            "point": self.point,
            **{name: value for name, value in self.values.items() if name in ("loss", "loss_se")},
            "gradient_norm": matrix.gradient_norm,
            "operator": matrix.kind,
            "parameters": matrix.size,
            "excluded": [name for name in self.objective.params if name not in matrix.names],
            **self.options,
            "converged": None if self.pairs is None else self.pairs.converged,
            "products": self.products,
            "passes": self.passes,
            "interrupted": self.signal is not None,
        }
        if self.density is not None and self.quadrature is not None:
            probes, steps = self.quadrature.nodes.shape
            said["density"] = {
                "method": "stochastic Lanczos quadrature",
                "probes": probes,
                "steps": steps - self.quadrature.known,
                "known": self.quadrature.known,
                "width": self.density.width,
                "mean": {"value": self.density.mean.value, "error": self.density.mean.error},
            }
        if self.trace is not None:
            said["trace"] = {
                "value": self.trace.value,
                "error": self.trace.error,
                "products": self.trace.products,
                "method": "Hutch++" if self.taken_out else "Hutchinson",
                "probes": self.trace.probes,
                "known": self.taken_out,
            }
        return said


def _group(store: Location, overwrite: bool, point: str) -> str | None:
    """Return the group of the store; raise if the surface there is around another point."""
    group, surface = spectrum_place(store, overwrite)
    if group is not None and surface["chart"]["center"] != point:
        raise PlanMismatchError(
            f"{name_of(store)} contains a surface around another point than this spectrum. Pass the centre of that "
            "surface, point=chart.center, or another store."
        )
    return group
