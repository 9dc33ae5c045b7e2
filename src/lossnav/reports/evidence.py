"""The subject of a report: a surface, the datasets beside it, and numbers that several checks use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav._utils.geometry import Array
from lossnav._utils.paths import SURFACE_SCHEMA, TRAJECTORY_SCHEMA
from lossnav.errors import NotASurfaceError, OptionError, SchemaTooNewError
from lossnav.reports import thresholds
from lossnav.reports.findings import MEASURE, MEASURE_WITH_CHART
from lossnav.storage.samples import LOSS, WEIGHT
from lossnav.surface.assemble import points_of
from lossnav.surface.difference import has_samples, paired
from lossnav.surface.groups import require_path
from lossnav.surface.seeds import of_one_seed
from lossnav.surface.variables import OK, is_straight, validate

REPORT_SCHEMA, REPORT_VERSION = "lossnav.report", 1  # of the measurements of a report
SPECTRUM_SCHEMA = "lossnav.spectrum"

_AT = 1e-9  # of the reach: a point closer than this is the centre


@dataclass(frozen=True, eq=False)
class Subject:
    """A surface, and the path, curvature, spectrum and measurements of the same run, if there are any.

    Attributes
    ----------
    surface : xarray.Dataset or None
        Of several seeds, their mean. None if there is only a path.
    seeds : xarray.Dataset or None
        The surface of several seeds, of which `surface` is the mean.
    path, curvature, spectrum, measured : xarray.Dataset or None
        Results of `evaluate_trajectory`, `evaluate_curvature`, `spectrum` and `reports.measuring.measure`.
    """

    surface: xr.Dataset | None = None
    seeds: xr.Dataset | None = None
    path: xr.Dataset | None = None
    curvature: xr.Dataset | None = None
    spectrum: xr.Dataset | None = None
    measured: xr.Dataset | None = None

    @classmethod
    def of(cls, datasets: Sequence[xr.Dataset]) -> Subject:
        """Make a subject from datasets, which are recognised by their attributes.

        Raises
        ------
        NotASurfaceError, NotATrajectoryError, SchemaTooNewError
            If one is not recognised.
        OptionError
            If there are two of a kind, or they are of different charts.
        """
        found: dict[str, xr.Dataset] = {}
        for dataset in datasets:
            name = _kind_of(dataset)
            if name in found:
                raise OptionError(
                    f"There are two datasets of one kind ({name}), but a report is about one run. Pass one."
                )
            found[name] = dataset
        if "surface" not in found and "curvature" in found:
            found["surface"] = found["curvature"]
        if not {"surface", "path"} & set(found):
            raise OptionError(
                "A report is of a surface or a path, and neither was passed. Pass what ln.evaluate or ln.project "
                "returned."
            )
        surface = found.get("surface")
        if not _is_same(found.get("measured"), surface):
            found.pop("measured", None)  # of an earlier run in the same store
        for name in ("curvature", "path"):
            _require_same_chart(surface, found.get(name))
        if surface is not None and "seed" in surface.dims:
            return cls(seeds=surface, **found | {"surface": surface.lossnav.over_seeds()})
        if surface is not None:
            found["surface"] = of_one_seed(surface)
        return cls(**found)

    # ------------------------------------------------------------------ its attributes

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of the surface, or else of the path."""
        found = self.surface if self.surface is not None else self.path
        return {} if found is None else found.attrs

    @property
    def objective(self) -> Mapping[str, Any]:
        """Description of the objective, in the surface or in the measurements."""
        return {**self.facts.get("objective", {}), **self.attrs.get("objective", {})}

    @property
    def is_function(self) -> bool:
        """Whether it is a bare function, whose model, layers and buffers are not visible."""
        objective = self.objective
        return "layers" in objective and objective["layers"] is None

    @property
    def layers(self) -> Mapping[str, Any] | None:
        """Number of layers of each kind; None if not known."""
        return self.objective.get("layers")

    @property
    def weights(self) -> str:
        """The word for what moves."""
        return "parameters" if self.is_function else "weights"

    @property
    def chart(self) -> Mapping[str, Any]:
        """Description of the chart."""
        return dict(self.attrs.get("chart", {}))

    @property
    def dims(self) -> list[str]:
        """Names of the chart's coordinates."""
        return [str(dim) for dim in self.chart.get("dims", [])]

    @property
    def axes(self) -> list[str]:
        """Names of the surface's coordinates, in the order of `places`; a slice has fewer than its chart."""
        assert self.surface is not None
        if "point" in self.surface.dims:
            return [dim for dim in self.dims if dim in self.surface.coords]
        return [str(dim) for dim in self.surface["loss"].dims]

    @property
    def recipes(self) -> list[Mapping[str, Any]]:
        """Recipes of the directions."""
        return list(self.chart.get("directions", []))

    @property
    def facts(self) -> Mapping[str, Any]:
        """Measurements at the centre for a report; empty if there are none."""
        return {} if self.measured is None else self.measured.attrs

    @property
    def how_to_measure(self) -> str:
        """What to type to measure with the objective, and with the chart if it could not be made."""
        return MEASURE_WITH_CHART if self.facts.get("without_chart") else MEASURE

    @property
    def is_subset(self) -> bool:
        """Whether the data is a random subset."""
        return self.objective.get("population") is not None

    @property
    def words(self) -> str:
        """A description in one line."""
        objective, kind = self.objective, self.chart.get("kind", "Surface")
        words = f"{kind} of {objective.get('model', 'a model')}"
        if self.surface is not None:
            sizes = self.surface["loss"].shape
            words += f", {'x'.join(map(str, sizes))} points"
        elif self.path is not None:
            words = f"Path on a {kind}, {self.path.sizes['snapshot']} snapshots"
        if objective.get("samples"):
            words += f", {objective['samples']:,} samples"
        if self.seeds is not None:
            words += f", mean over {self.seeds.sizes['seed']} seeds"
        return words

    # ------------------------------------------------------------------ its points

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """Status of each point, shape (m,)."""
        return self._flat("status").astype(np.uint8)

    @cached_property
    def places(self) -> Array:
        """Coordinates of the points with a finite loss, shape (n, k), in the order of `axes`."""
        assert self.surface is not None
        return points_of(self.surface)[self._finite]

    @cached_property
    def losses(self) -> Array:
        """Losses of these points, shape (n,)."""
        return self._flat("loss")[self._finite]

    @cached_property
    def errors(self) -> Array | None:
        """Standard errors of these losses, shape (n,); None if there are none."""
        assert self.surface is not None
        if "loss_se" not in self.surface:
            return None
        found = self._flat("loss_se")[self._finite]
        return found if np.isfinite(found).any() else None

    @property
    def has_samples(self) -> bool:
        """Whether the losses of single samples are stored."""
        return self.surface is not None and has_samples(self.surface)

    def paired_error(self, i: int, j: int) -> float | None:
        """Return the standard error of the difference of two losses from stored samples; None without samples."""
        if self.surface is None or not has_samples(self.surface):
            return None
        numbers = np.flatnonzero(self._finite)[[i, j]]
        a, b = (self._samples_of(int(number)) for number in numbers)
        weights = np.asarray(self.surface[WEIGHT].values, np.float64)
        found = paired(a, b, weights, self.surface)
        return found.error if math.isfinite(found.error) else None

    def _samples_of(self, number: int) -> Array:
        assert self.surface is not None
        place = tuple(int(i) for i in np.unravel_index(number, self.surface["loss"].shape))
        return np.asarray(self.surface[LOSS][place].values, np.float64)

    @property
    def is_constant(self) -> bool:
        """Whether the loss is exactly the same at all points."""
        return len(self.losses) > 1 and float(np.ptp(self.losses)) == 0.0

    @cached_property
    def distances(self) -> Array:
        """Distance of each point from the origin: its largest coordinate relative to the reach, shape (n,)."""
        if not len(self.places):
            return np.zeros(0)
        reach = np.abs(self.places).max(0)
        scaled: Array = (np.abs(self.places) / np.where(reach > 0, reach, 1.0)).max(1)
        return scaled

    @property
    def has_center(self) -> bool:
        """Whether the origin lies among the points."""
        n = len(self.places)
        return bool(n) and bool(((self.places.min(0) <= 0) & (self.places.max(0) >= 0)).all())

    @cached_property
    def edges(self) -> NDArray[np.intp] | None:
        """Pairs of neighbouring points, shape (e, 2); None if not known.

        On a grid also across corners, on a line the nearest on both sides, otherwise those of a Delaunay triangulation.
        """
        assert self.surface is not None
        if "point" not in self.surface.dims:
            return self._edges_of_grid(self.surface["loss"].shape)
        if self.places.shape[1] == 1:
            order = np.argsort(self.places[:, 0], kind="stable")
            return np.stack([order[:-1], order[1:]], 1)
        from scipy.spatial import Delaunay, QhullError

        try:
            simplices = Delaunay(self.places).simplices  # (m, k + 1)
        except (QhullError, ValueError):
            return None
        pairs = itertools.combinations(range(simplices.shape[1]), 2)
        return np.unique(np.sort(np.concatenate([simplices[:, pair] for pair in pairs]), 1), axis=0).astype(np.intp)

    def _edges_of_grid(self, shape: tuple[int, ...]) -> NDArray[np.intp]:
        numbers = np.full(self._finite.size, -1, np.intp)
        numbers[self._finite] = np.arange(len(self.losses))
        numbers = numbers.reshape(shape)
        found = [np.zeros((0, 2), np.intp)]
        for step in itertools.product((-1, 0, 1), repeat=len(shape)):
            if step <= (0,) * len(shape):
                continue  # each pair once
            here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(step, shape, strict=True))
            there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(step, shape, strict=True))
            pair = np.stack([numbers[here].reshape(-1), numbers[there].reshape(-1)], 1)
            found.append(pair[(pair >= 0).all(1)])
        return np.concatenate(found)

    @cached_property
    def middle(self) -> NDArray[np.intp]:
        """Numbers of the points in the middle of the picture, at least the 3^k nearest to the centre."""
        inside = np.flatnonzero(self.distances <= thresholds.CENTRAL + _AT)
        least = min(len(self.places), 3 ** self.places.shape[1])
        return inside if len(inside) >= least else np.argsort(self.distances, kind="stable")[:least]

    @cached_property
    def ends_of_middle(self) -> tuple[int, int]:
        """Numbers of the lowest and the highest point of the middle."""
        losses = self.losses[self.middle]
        return int(self.middle[losses.argmin()]), int(self.middle[losses.argmax()])

    @property
    def relief(self) -> float:
        """Rise of the loss in the middle of the picture."""
        low, high = self.ends_of_middle
        return float(self.losses[high] - self.losses[low])

    @cached_property
    def reach(self) -> float | None:
        """Largest distance of the middle of the picture from the centre, in parameter space; None if not known."""
        gram = self.facts.get("center", {}).get("gram")
        return self.reach_by(None if gram is None else np.asarray(gram, np.float64))

    def reach_by(self, gram: Array | None) -> float | None:
        """Return the reach for inner products of the basis, (k, k); by default those of the chart."""
        gram = gram_of(self.chart) if gram is None else gram
        if gram is None or not len(self.losses) or gram.shape != (self.places.shape[1],) * 2:
            return None
        places = self.places[self.middle]
        reach = float(np.sqrt(np.einsum("ni,ij,nj->n", places, gram, places).clip(0.0).max()))
        return reach if math.isfinite(reach) and reach > 0 else None

    @cached_property
    def center_loss(self) -> float | None:
        """Loss at the centre: measured before the run, or at the point there."""
        said = self.attrs.get("center", {}).get("loss")
        if said is not None:
            return float(said)
        if self.has_center and self.distances.min() <= _AT:
            return float(self.losses[self.distances.argmin()])
        return None

    def at(self, i: int) -> str:
        """Return the coordinates of a point as text."""
        return ", ".join(f"{dim} = {x:.3g}" for dim, x in zip(self.axes, self.places[i], strict=True))

    # ------------------------------------------------------------------ the centre

    @cached_property
    def curvature_at_center(self) -> Mapping[str, Any]:
        """What is known about gradient and Hessian at the centre; ``source`` says from where.

        Measurements for a report take precedence over a stored spectrum, and that over curvature on the chart.
        """
        found = self._of_curvature() | self._of_spectrum()
        measured = self.facts.get("center", {})
        if measured:
            found = found | {name: value for name, value in measured.items() if value is not None}
            found["source"] = "measured for this report"
        numbers = {name: _number(value) for name, value in found.items()}
        return {name: value for name, value in numbers.items() if value == value}  # nan is not known

    def _of_curvature(self) -> dict[str, Any]:
        if self.curvature is None or "lambda_min" not in self.curvature:
            return {}
        places = points_of(self.curvature)
        reach = np.abs(places).max(0)
        scaled = (np.abs(places) / np.where(reach > 0, reach, 1.0)).max(1)
        i = int(scaled.argmin())
        shape = self.curvature["status"].shape
        if scaled[i] > _AT or self.curvature["status"].values.reshape(-1)[i] != OK:
            return {}
        found: dict[str, Any] = {}
        for name in map(str, self.curvature.data_vars):
            values = self.curvature[name].values
            found[name] = values.reshape(math.prod(shape), *values.shape[len(shape) :])[i].tolist()
        return found | {
            "parameters": self.curvature.attrs.get("curvature", {}).get("parameters"),
            "excluded": self.curvature.attrs.get("curvature", {}).get("excluded"),
            "source": "the group curvature",
        }

    def _of_spectrum(self) -> dict[str, Any]:
        if self.spectrum is None or self.spectrum.attrs.get("operator") != "hessian":
            return {}
        said = self.spectrum.attrs
        same = said.get("objective", {}).get("fingerprint") == self.objective.get("fingerprint")
        if not same or said.get("point") != self.chart.get("center"):
            return {}  # of another network, or at another point
        found = {name: said.get(name) for name in ("loss", "gradient_norm", "trace", "parameters", "excluded")}
        if "eigenvalue" in self.spectrum:
            ends = np.array([str(end) for end in self.spectrum["end"].values])
            values, errors = (self.spectrum[name].values for name in ("eigenvalue", "eigenvalue_error"))
            for end, name, pick in (("smallest", "lambda_min", np.argmin), ("largest", "lambda_max", np.argmax)):
                of_end = np.flatnonzero(ends == end)
                if len(of_end):
                    i = of_end[int(pick(values[of_end]))]
                    found |= {name: float(values[i]), f"{name}_error": float(errors[i])}
        known = {name: value for name, value in found.items() if value is not None}
        return known | {"source": "the group spectrum"}

    # ------------------------------------------------------------------ inside

    @cached_property
    def _finite(self) -> NDArray[np.bool_]:
        finite: NDArray[np.bool_] = np.isfinite(self._flat("loss"))
        return finite

    def _flat(self, name: str) -> NDArray[Any]:
        assert self.surface is not None
        return np.asarray(self.surface[name].values).reshape(-1)


def gram_of(chart: Mapping[str, Any]) -> Array | None:
    """Return inner products of the basis of a straight chart, (k, k), from norms and cosines; None if not known."""
    recipes = chart.get("directions", [])
    norms = [recipe.get("norm") for recipe in recipes]
    if not is_straight(chart) or not norms or any(norm is None for norm in norms):
        return None
    made = np.diag(np.array(norms, np.float64) ** 2)
    for pair, cosine in chart.get("cosines", {}).items():
        i, j = (int(part) for part in pair.split(","))
        made[i, j] = made[j, i] = float(cosine) * norms[i] * norms[j]
    return made


def _kind_of(dataset: xr.Dataset) -> str:
    """Return the kind of a dataset by its schema."""
    schema = dataset.attrs.get("schema") if isinstance(dataset, xr.Dataset) else None
    if schema == TRAJECTORY_SCHEMA:
        require_path(dataset)
        return "path"
    if schema in (SPECTRUM_SCHEMA, REPORT_SCHEMA):
        if dataset.attrs.get("schema_version", 1) > REPORT_VERSION:
            raise SchemaTooNewError(
                f"A dataset beside the surface has schema version {dataset.attrs['schema_version']}, but this lossnav "
                f"reads up to {REPORT_VERSION}. Upgrade with: pip install --upgrade lossnav"
            )
        return "spectrum" if schema == SPECTRUM_SCHEMA else "measured"
    if schema != SURFACE_SCHEMA:
        raise NotASurfaceError(
            "This dataset is neither a surface of lossnav nor one that belongs to a surface. Pass what ln.evaluate "
            "returned, or the path of a run."
        )
    validate(dataset)
    return "curvature" if "curvature" in dataset.attrs else "surface"


def _require_same_chart(surface: xr.Dataset | None, other: xr.Dataset | None) -> None:
    if surface is None or other is None or surface is other:
        return
    if surface.attrs.get("chart") != other.attrs.get("chart"):
        raise OptionError(
            "The datasets are of different charts, but a report is about one run. Pass datasets of one run."
        )


def _is_same(measured: xr.Dataset | None, surface: xr.Dataset | None) -> bool:
    """Return whether this was measured at the centre of the surface."""
    if measured is None or surface is None:
        return measured is None
    there, here = measured.attrs, surface.attrs
    same = there.get("objective", {}).get("fingerprint") == here.get("objective", {}).get("fingerprint")
    return same and there.get("chart") == here.get("chart")


def _number(value: Any) -> Any:
    """Return the strings for numbers that JSON lacks as numbers."""
    return float(value) if value in ("nan", "inf", "-inf") else value
