"""Measurements of a report at the centre of a surface, by its objective.

They are done one after the other, each in a few passes over the data; after Ctrl-C the finished ones are kept. This
file is longer than most because it is one list: each measurement is a method, in the order in which they are done.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lossnav import curvature, directions
from lossnav import params as algebra
from lossnav._utils import random_state, turns
from lossnav._utils.geometry import Array
from lossnav._utils.jsonable import jsonable
from lossnav._utils.paths import Location
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests, signal_of
from lossnav._version import __version__
from lossnav.charts import Chart, meet
from lossnav.curvature import Hessian
from lossnav.curvature.products import Signs
from lossnav.errors import ChartError, Interrupted, LossnavError, LossnavWarning, OptionError, PlanMismatchError
from lossnav.evaluation.resume import chart_of, objective_of
from lossnav.objective.batch_norm import BATCH_NORMS
from lossnav.objective.objective import Objective
from lossnav.objective.passes import FunctionPasses
from lossnav.reports.center import step_length
from lossnav.reports.evidence import REPORT_SCHEMA, REPORT_VERSION, Subject
from lossnav.reports.measuring.samples import batch_dependence, difference
from lossnav.reports.measuring.twins import rescaled_twin
from lossnav.reports.noise import local_minima_of
from lossnav.surface.run_identity import differences
from lossnav.surface.variables import is_straight

_TOLERANCE = 0.05  # of the extreme eigenvectors; the eigenvalues are much more precise
_AT_ONCE = 4  # vectors per pass: their products need as much memory as the weights
_MOST_MINIMA = 6  # minima whose depth is measured sample by sample, in two passes each
_STEPS, _SHORTER = 3, 8.0  # number of steps against the gradient, and the factor between their lengths
_INWARDS, _ABOVE_DIGITS = 5, 100.0  # steps along an eigenvector, and units in the last place that they must exceed
_CHECKED = 5  # points at which the losses are compared with float64


def measure(
    subject: Subject,
    objective: Objective | None,
    chart: Chart | None = None,
    *,
    place: Location | None = None,
    seed: int = 0,
    probes: int = 8,
    limit: int = 200,
    progress: bool | None = None,
) -> xr.Dataset:
    """Measure at the centre of a surface what its report needs.

    Parameters
    ----------
    subject : Subject
        With a surface.
    objective : Objective, optional
        By default made from the origin that the surface records. Whether code that it names may be run is up to the
        caller (`lossnav.specs.trust`), who then passes the objective.
    chart : Chart, optional
        By default made from the surface. If that is not possible, only the centre is measured; if the objective is not
        at the centre, only what does not depend on the point.
    place : path, fsspec URL or zarr store, optional
        Store of the surface, beside which directions may be stored.
    seed, probes, limit, progress
        As in `report`.

    Returns
    -------
    xarray.Dataset
        Without variables; its attributes are the measurements (docs/schema.md).

    Raises
    ------
    OptionError, PlanMismatchError
        If there is no objective, or the objective or chart is not that of the surface.
    Interrupted
        After Ctrl-C, with the measurements so far.
    """
    if probes < 2 or limit < 2:
        raise OptionError(f"probes and limit must be at least 2, got {probes} and {limit}. The defaults are 8 and 200.")
    if objective is None:
        objective = objective_of(subject.objective, place if place is not None else "The surface")
    objective = objective.moving_as(subject.objective)
    if chart is not None:
        objective, chart = meet(objective, chart)
    said = jsonable(objective.describe())
    if said["fingerprint"] != subject.objective.get("fingerprint"):
        different = differences(subject.attrs, {**subject.attrs, "objective": said}, "objective")
        raise PlanMismatchError(
            "The objective is not the one of the surface:\n  " + "\n  ".join(different) + "\nPass that one."
        )
    without = ""
    if chart is None:
        try:
            chart = chart_of(subject.attrs, objective, place)
        except ChartError as error:
            without = str(error)  # then only the centre is measured, or what does not depend on the point
    elif jsonable(chart.describe()) != subject.chart:
        raise PlanMismatchError("The chart is not that of the surface. Pass that one, or leave out chart=.")
    measuring = _Measuring(subject, objective, chart, seed, probes, limit, progress)
    started = time.monotonic()
    attributes = {
        "schema": REPORT_SCHEMA,
        "schema_version": REPORT_VERSION,
        "lossnav_version": __version__,
        "objective": said,
        "chart": dict(subject.chart),
        "seed": seed,
        "probes": probes,
        "limit": limit,
        **({"without_chart": without} if without else {}),
    }

    def made() -> xr.Dataset:
        spent = {"seconds": round(time.monotonic() - started, 3), "passes": measuring.passes}
        return xr.Dataset(attrs=attributes | spent | jsonable(measuring.found))

    with (
        random_state.preserved(device=objective.device),
        Progress("report", len(measuring.parts), "parts", progress) as bar,
    ):
        for part in measuring.parts:
            try:
                with StopRequests() as stop:
                    part()
            except Interrupted as error:  # from the search for eigenvalues
                raise Interrupted(
                    "Stopped. The report on the measurements so far is in the .partial of this exception.",
                    made(),
                    error.signal,
                ) from None
            except KeyboardInterrupt as error:
                stop.signal = stop.signal or signal_of(error)
            if stop.signal is not None:
                raise Interrupted(
                    "Stopped. The report on the measurements so far is in the .partial of this exception.",
                    made(),
                    stop.signal,
                )
            bar.advance()
    return made()


class _Measuring:
    """The measurements and their results."""

    def __init__(
        self,
        subject: Subject,
        objective: Objective,
        chart: Chart | None,
        seed: int,
        probes: int,
        limit: int,
        progress: bool | None,
    ) -> None:
        same = algebra.fingerprint(objective.params) == subject.chart.get("center")
        self.here = objective
        if chart is not None:
            center = chart(np.zeros(len(chart.dims)))
            if not same or isinstance(center, algebra.Checkpoint):
                self.here = objective.around(center)
        self.subject, self.chart = subject, chart
        self.seed, self.probes, self.limit, self.progress = seed, probes, limit, progress
        self.passes = 0
        self.found: dict[str, Any] = {}
        self.parts: tuple[Callable[[], None], ...] = (
            self.batches, self.center, self.ends, self.trace, self.others,
            self.step, self.pairs, self.rounding, self.twin,
        )  # fmt: skip
        if chart is None and not same:
            self.parts = (self.batches,)  # the centre cannot be reached
        self._gradient: Tensor | None = None
        self._exact: Objective | None = None
        self._inexact = False
        self._hessian = Hessian(self.here)

    # ------------------------------------------------------------------ the parts

    def batches(self) -> None:
        """Count BatchNorm layers; measure if a sample's loss depends on its batch, and the effect of another seed."""
        passes = self.here.forward_pass.passes
        modules = [] if isinstance(passes, FunctionPasses) else passes.whole.model.modules()
        if modules:
            self.found["batch_norms"] = sum(isinstance(module, BATCH_NORMS) for module in modules)
        exact = self.exact()  # for losses near zero, single precision has few digits
        self.found["batch_dependence"] = batch_dependence(self.here if exact is None else exact)
        self.passes += 2
        if self.here.draws and self.here.mode != "train":
            again = copy.copy(self.here)
            again.seed = self.here.seed + 1
            loss, other = (each.evaluate(each.params)["loss"] for each in (self.here, again))
            self.found["redrawn"] = {"seed": again.seed, "change": other - loss}
            self.passes += 2

    def center(self) -> None:
        """Measure loss, gradient and in-plane curvature, and the cosines of the directions with the weights."""
        if self.chart is None:
            self._gradient = self._hessian.derive().gradient
            self.passes += 1
            norm = float(torch.linalg.vector_norm(self._gradient))
            self.found["center"] = {"gradient_norm": norm, "parameters": self._hessian.size}
            return
        origin = np.zeros(len(self.chart.dims))
        basis = torch.stack([self._hessian.to_flat(tangent) for tangent in self.chart.tangents(origin)])  # (k, d)
        loss, gradient, images = self._hessian.derive(list(basis))
        self._gradient = gradient
        self.passes += 1
        within = (basis @ torch.stack(images).T).cpu().numpy()
        bent = self.chart.bending(origin, self._hessian.from_flat(gradient))
        gram = (basis @ basis.T).cpu().numpy()
        slopes = (basis @ gradient).cpu().numpy()
        norm = float(torch.linalg.vector_norm(gradient))
        inside = min(norm, math.sqrt(max(0.0, float(slopes @ np.linalg.pinv(gram, hermitian=True) @ slopes))))
        weights = self._hessian.to_flat(self.here.params)
        lengths = torch.linalg.vector_norm(basis, dim=1) * torch.linalg.vector_norm(weights)
        self.found["cosines_with_weights"] = (basis @ weights / lengths.clamp_min(1e-300)).tolist()
        self.found["center"] = {
            "loss": loss,
            "gradient_norm": norm,
            "gradient_in_plane": inside,
            "gradient_out_of_plane": math.sqrt(max(0.0, norm**2 - inside**2)),
            "hessian_in_plane": ((within + within.T) / 2 + bent).tolist(),
            "gram": gram.tolist(),
            "parameters": self._hessian.size,
        }

    def ends(self) -> None:
        """Measure the extreme eigenvalues, unless a stored spectrum has them."""
        known = self.subject._of_spectrum()
        if "lambda_min" in known and "lambda_max" in known:
            self.found["center"] |= {name: known[name] for name in known if name.startswith("lambda")}
            return
        if self._hessian.size == 1:
            self.found["center"] |= self._only()
            return
        with turns.hiding(LossnavWarning):  # their errors are recorded
            pairs = curvature.top_eigenpairs(
                Hessian(self.here),
                which="both",
                seed=self.seed,
                tolerance=_TOLERANCE,
                limit=self.limit,
                progress=self.progress,
            )
        self.passes += pairs.products
        for i, name in enumerate(("lambda_min", "lambda_max")):
            self.found["center"] |= {name: float(pairs.values[i]), f"{name}_error": float(pairs.errors[i])}
        if float(pairs.values[0]) + float(pairs.errors[0]) < 0 and len(pairs.vectors):
            self.found["center"]["bends_down"] = self._bends_down(pairs.vectors[0], float(pairs.values[0]))

    def trace(self) -> None:
        """Measure the trace, and that of each tensor's block, by random signs (Hutchinson 1990)."""
        known = self.subject._of_spectrum()
        sizes = [self.here.params[name].numel() for name in self._hessian.names]
        rows = []
        for signs in Signs(self._hessian, self.seed).blocks(self.probes, _AT_ONCE):
            for sign, image in zip(signs, self._products(list(signs)), strict=True):
                rows.append([float(part.sum()) for part in torch.split(sign * image, sizes)])
        samples = np.array(rows)  # (probes, tensors)
        whole = samples.sum(1)
        error = float(whole.std(ddof=1) / math.sqrt(len(whole)))
        found = {
            "value": float(whole.mean()),
            "error": error,
            "products": len(whole),
            "method": "Hutchinson, random signs",
        }
        self.found["center"]["trace"] = known.get("trace", found)
        self.found["traces"] = dict(zip(self._hessian.names, samples.mean(0).tolist(), strict=True))

    def others(self) -> None:
        """Measure the curvature along other random directions like the chart's."""
        options = None if self.chart is None else random_options(self.chart)
        if options is None:
            return
        seeds = [options["seed"] + 1 + i for i in range(self.probes)]
        values: list[float] = []
        for start in range(0, self.probes, _AT_ONCE):
            drawn = [
                self._hessian.to_flat(directions.random(self.here, **options | {"n": 1, "seed": each})[0])
                for each in seeds[start : start + _AT_ONCE]
            ]
            values += [float(v @ image) for v, image in zip(drawn, self._products(drawn), strict=True)]
        self.found["random_curvature"] = {
            "mean": float(np.mean(values)),
            "spread": float(np.std(values, ddof=1)),
            "count": len(values),
            "negative": sum(value < 0 for value in values),
            "first_seed": seeds[0],
        }

    def step(self) -> None:
        """Measure the decrease by a step against the gradient; shorten the step if it is far below the bound.

        The bound holds if the curvature along the step is that at the centre.
        """
        if self._gradient is None:
            return
        norm, largest = self.found["center"]["gradient_norm"], self.found["center"].get("lambda_max")
        gram = self.found["center"].get("gram")
        reach = self.subject.reach_by(None if gram is None else np.asarray(gram))
        length = step_length(norm, largest, reach)
        if length is None:
            return
        best: dict[str, Any] | None = None
        for _ in range(_STEPS):
            moved = algebra.combine(self.here.params, [-length], [self._hessian.from_flat(self._gradient)])
            fall, error = difference(self.here, self.here.params, moved)
            self.passes += 2
            if math.isfinite(fall) and (best is None or fall > best["fall"]):
                best = {"length": length, "fall": fall, "error": error}
            promised = length * norm**2 * (1 - max(largest, 0.0) * length / 2)
            if fall > promised / 2:
                break
            length /= _SHORTER
        if best is not None:
            self.found["step"] = best

    def pairs(self) -> None:
        """Measure standard errors of differences of the picture's losses, sample by sample."""
        subject = self.subject
        if self.chart is None:
            return
        near, lowest = int(subject.distances.argmin()), int(subject.losses.argmin())
        wanted = [("middle", *subject.ends_of_middle), ("lowest", lowest, near)]
        if subject.seeds is None:
            wanted += [("minimum", low, high) for _, low, high in local_minima_of(subject)[:_MOST_MINIMA]]
        made = []
        for what, low, high in wanted:
            places = subject.places[low], subject.places[high]
            if places[0].shape != (len(self.chart.dims),):
                return  # a slice of the chart
            found, error = difference(self.here, *(self.chart(place) for place in reversed(places)))
            self.passes += 2
            if error is None:
                return
            ends = {"low": places[0].tolist(), "high": places[1].tolist()}
            made.append({"what": what, **ends, "difference": found, "error": error})
        self.found["differences"] = made

    def rounding(self) -> None:
        """Compare differences of the picture's losses with float64."""
        subject = self.subject
        if self.chart is None:
            return
        low, high = subject.ends_of_middle
        chosen = list(dict.fromkeys([int(subject.distances.argmin()), low, high, *subject.middle.tolist()]))[:_CHECKED]
        places = subject.places[chosen]
        if subject.objective.get("dtype") == "float64":  # there is nothing more precise to compare with
            return
        if subject.seeds is not None or places.shape[1] != len(self.chart.dims) or subject.attrs.get("control_variate"):
            return
        exact = self.exact()
        if exact is None:
            return
        truth = np.array([exact.evaluate(self.chart(place))["loss"] for place in places])
        self.passes += len(chosen)
        off = subject.losses[chosen] - truth
        self.found["rounding"] = {"error": float(np.ptp(off)), "level": float(np.abs(off).max()), "points": len(chosen)}

    def twin(self) -> None:
        """Measure a twin with one layer multiplied and the next divided, which computes the same function."""
        if self.here.forward_pass.is_function:
            return  # its layers are not visible
        found, passes = rescaled_twin(
            self.here, self.found.get("traces", {}), self._curvature_of, self.seed, self.progress
        )
        self.passes += passes
        largest = self.found["center"].get("lambda_max")
        if found.get("multiplied") and largest is not None:
            found = {**found, "lambda_max": largest, "trace": self.found["center"]["trace"]["value"]}
        if found.get("multiplied") is None or largest is not None:
            self.found["rescaling"] = found

    # ------------------------------------------------------------------ inside

    def _bends_down(self, vector: Mapping[str, Tensor], curvature: float) -> bool | None:
        """Return whether the loss itself curves downwards along an eigenvector; at a kink the Hessian does not show it.

        By the sign of f(t) + f(-t) - 2 f(0), from the middle of the picture inwards; None if rounding hides it.
        """
        gram = self.found["center"].get("gram")
        step = self.subject.reach_by(None if gram is None else np.asarray(gram)) or 1.0
        here = self.exact() or self.here  # single precision hides small steps if the loss is large
        loss = here.evaluate(here.params)["loss"]
        eps = max(torch.finfo(tensor.dtype).eps for tensor in here.params.values())
        self.passes += 1
        for _ in range(_INWARDS):
            sides = [algebra.combine(here.params, [sign * step], [vector]) for sign in (1.0, -1.0)]
            values = [here.evaluate(point)["loss"] for point in sides]
            self.passes += 2
            size = max(map(abs, [loss, *values]))
            if math.isfinite(size) and abs(curvature) * step**2 < _ABOVE_DIGITS * eps * size:
                return None  # rounding hides what is closer to the centre
            if sum(values) < 2 * loss:
                return True
            step /= _SHORTER
        return False

    def _curvature_of(self, objective: Objective) -> Array | None:
        """Return the curvature along the chart's random directions, drawn again for the weights of an objective."""
        options = None if self.chart is None else random_options(self.chart)
        if options is None:
            return None
        hessian = Hessian(objective)
        drawn = [hessian.to_flat(direction) for direction in directions.random(objective, **options)]
        self.passes += 1
        return np.array([float(v @ image) for v, image in zip(drawn, hessian.derive(drawn).products, strict=True)])

    def exact(self) -> Objective | None:
        """Return the objective in float64; None if its loss or model has tensors that cannot be converted."""
        if self._exact is None and not self._inexact:
            try:
                self._exact = self.here.double()
                if not self.here.draws_as(self._exact):
                    self._exact, self._inexact = None, True
            except (LossnavError, RuntimeError):
                self._exact, self._inexact = None, True
        return self._exact

    def _only(self) -> dict[str, float]:
        (image,) = self._products([torch.ones(1, dtype=torch.float64, device=self.here.device)])
        value = float(image)
        error = self._hessian.rounding(abs(value))
        return {"lambda_min": value, "lambda_max": value, "lambda_min_error": error, "lambda_max_error": error}

    def _products(self, vectors: list[Tensor]) -> list[Tensor]:
        self.passes += len(vectors)
        return self._hessian.derive(vectors).products


def random_options(chart: Chart) -> dict[str, Any] | None:
    """Return the options of `directions.random` that draw the directions of an affine chart; None if not random."""
    recipes: list[Mapping[str, Any]] = [getattr(direction, "recipe", {}) for direction in chart.directions]
    names = ("n", "normalize", "distribution", "orthogonal", "exclude", "seed")
    options = [{name: recipe.get(name) for name in names} for recipe in recipes]
    if (
        not is_straight(chart.describe())
        or any(recipe.get("kind") != "random" for recipe in recipes)
        or any(o != options[0] for o in options)
    ):
        return None
    return options[0]
