"""Checks of the centre: whether it is a minimum, and whether the picture shows the way down."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossnav.reports import curvature, thresholds
from lossnav.reports.digits import rounding
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import MEASURE_WITH_CHART, Finding, unknown
from lossnav.reports.fit import fitted


def check(subject: Subject) -> Iterator[Finding]:
    """Check if the centre is a minimum or a saddle, and if the loss is steeper than it looks."""
    if subject.surface is None:
        return
    known = subject.curvature_at_center
    minimum, little = _minimum(subject, known)
    yield minimum
    yield _descent(subject, known, little)
    found = fitted(subject) if len(subject.losses) else None
    yield curvature.saddle(subject, known, found, stationary=little)
    yield curvature.mean(subject, known, found)


class _Fall(NamedTuple):
    """A lower loss: by how much, its standard error, and where, as a description and as a point of the picture."""

    fall: float
    error: float
    where: str
    place: str = ""


def _minimum(subject: Subject, known: Mapping[str, Any]) -> tuple[Finding, bool]:
    """Compare the decrease at the lowest point, and by a step against the gradient, with the rise of the picture.

    The unit of a loss, and a constant added to it, are arbitrary. So a decrease is compared with the rise in the middle
    of the picture and with the errors of the two values, not with the loss itself.

    Returns
    -------
    Finding, bool
        The second is whether the decrease by a step against the gradient is negligible.
    """
    level = subject.center_loss
    if level is None or not math.isfinite(level) or not len(subject.losses):
        because = "the loss at the centre is missing."
        return unknown("minimum", because, "Evaluate it: check=True (the default)."), False
    found, beside = _lowest(subject, level)
    step, rise, off = _step(subject, known), subject.relief, rounding(subject)
    norm = known.get("gradient_norm")
    worst = max([found, *([] if step is None else [step])], key=lambda each: each.fall)
    part = _part(worst.fall, rise, off)
    sure = worst.fall > thresholds.SURE * worst.error
    values: dict[str, Any] = {"loss": level, "gradient_norm": norm, "rise": rise, "rounding": off}
    values |= {"fall": worst.fall, "fall_se": worst.error, "part": part}
    spread = _spread(subject)
    little = step is not None and _part(step.fall, rise, off) <= thresholds.NOT_QUITE
    little = little and step is not None and step.fall <= max(off, thresholds.OF_THE_SPREAD * spread)
    said = f"The loss at the centre, {level:.4g}, can be decreased by {worst.fall:.2g} ({_share(part)}) {worst.where}"
    further = "Minimise it further" if subject.is_function else "Train further, or use the training data"
    if part > thresholds.NOT_A_MINIMUM and sure:
        return Finding(
            "minimum",
            "warning",
            f"{said}: it is not a minimum of this loss, whatever the picture looks like.",
            f"{further}; do not describe this as the shape of a minimum.",
            values,
        ), little
    beside_spread = sure and worst.fall > max(off, thresholds.OF_THE_SPREAD * spread)
    if part > thresholds.NOT_QUITE or beside_spread:
        why = "little compared with the picture" if sure else "less than its standard error over the samples"
        if beside_spread:
            why += f" (the losses of single samples have a standard deviation of {spread:.2g})"
        return Finding(
            "minimum",
            "note",
            f"{said}, {why}: it is not exactly a minimum.",
            f"Describe it as “near a minimum”, or {'minimise it further' if subject.is_function else 'train further'}.",
            values,
        ), little
    lowest = "no point of the picture is lower than the centre"
    if beside is not None:
        lowest = f"a point of the picture is lower by {beside.fall:.2g}, {beside.place}, beyond a barrier"
    elif found.fall > 0:
        lowest += f" by more than {found.fall:.1g}"
    if norm is None:
        because = (
            f"the gradient at the centre was not measured; {lowest}, but the loss may decrease in other directions."
        )
        return unknown("minimum", because, subject.how_to_measure, values), little
    if step is None:
        because = f"the decrease by a step against the gradient (norm {norm:.2g}) was not measured; {lowest}."
        return unknown("minimum", because, subject.how_to_measure, values), little
    gain = f"a step against it decreases the loss by {max(0.0, step.fall):.1g}, {_share(_part(step.fall, rise, off))}"
    if _falls_off(known):
        return Finding(
            "minimum",
            "note",
            f"The gradient at the centre has norm {norm:.2g}: {gain}. But the Hessian has a negative eigenvalue "
            f"(λmin {known['lambda_min']:.3g}): the centre is stationary but not a minimum; {lowest}.",
            "Look along its eigenvector: ln.directions.hessian(objective, n=2).",
            values,
        ), little
    if beside is not None and _part(beside.fall, rise, off) > thresholds.NOT_A_MINIMUM:
        return Finding(
            "minimum",
            "note",
            f"The gradient at the centre has norm {norm:.2g}: {gain}. But {lowest}: the centre is not the lowest "
            "minimum of this loss.",
            "Describe it as “a minimum”, not “the minimum”.",
            values,
        ), little
    said = f"The gradient at the centre has norm {norm:.2g}: {gain}; {lowest}."
    return Finding("minimum", "ok", said, values=values), little


def _part(fall: float, rise: float, off: float) -> float:
    """Return a decrease relative to the rise of the picture; 0 if it is within the numerical error."""
    if not fall > off:
        return 0.0
    return fall / rise if rise > 0 else math.inf


def _spread(subject: Subject) -> float:
    """Return the standard deviation of single samples' losses at the centre, from loss_se; inf if unknown."""
    samples, population = subject.objective.get("samples"), subject.objective.get("population")
    if subject.errors is None or not samples:
        return math.inf
    error = float(subject.errors[int(subject.distances.argmin())])
    drawn = max(1 - samples / population, 1 / samples) if population else 1.0
    return error * math.sqrt(samples / drawn) if error > 0 else math.inf


def _share(part: float) -> str:
    if part == math.inf:
        return "while the middle of the picture does not rise"
    return f"{f'{part:.3g} times' if part >= 2 else f'{part:.1%} of'} the rise in the middle of the picture"


def _step(subject: Subject, known: Mapping[str, Any]) -> _Fall | None:
    """Return the decrease by a step against the gradient: measured, or else predicted; None if neither is known.

    If the curvature is at most lambda_max, a step of 1/lambda_max against the gradient decreases the loss by at least
    g^2 / (2 lambda_max) (Nesterov 2004, eq. 1.2.19), and a shorter one, t, by t g^2 (1 - lambda_max t / 2). No step is
    longer than the middle of the picture.
    """
    norm, largest = known.get("gradient_norm"), known.get("lambda_max")
    if norm is None or not math.isfinite(norm):
        return None
    where = f"by one step against the gradient (norm {norm:.2g}"
    if norm == 0:
        return _Fall(0.0, 0.0, f"{where})")
    if measured := subject.facts.get("step"):
        error = measured.get("error")
        where += f", length {norm * float(measured['length']):.2g})"
        return _Fall(float(measured["fall"]), float(_error(subject) if error is None else error), where)
    length = step_length(norm, largest, subject.reach)
    if length is None or largest is None or not largest > 0:  # without positive curvature there is no bound
        return None
    promised = length * norm**2 * (1 - largest * length / 2)
    return _Fall(promised, _error(subject), f"{where}, λmax {largest:.3g})")


def step_length(norm: float, largest: float | None, reach: float | None) -> float | None:
    """Return the factor of the gradient for a step: 1/λmax, but no longer than the middle of the picture."""
    if largest is None or not math.isfinite(largest) or not norm > 0:
        return None
    ways = ([1 / largest] if largest > 0 else []) + ([reach / norm] if reach is not None else [])
    ways = [way for way in ways if math.isfinite(way)]
    return min(ways) if ways else None


def _falls_off(known: Mapping[str, Any]) -> bool:
    """Return whether the Hessian has a negative eigenvalue that is significant and not negligible."""
    low, high, error = known.get("lambda_min"), known.get("lambda_max"), known.get("lambda_min_error", math.inf)
    if low is None or high is None or not low + error < 0 or known.get("bends_down") is False:
        return False
    return bool(high <= 0 or -low / high > thresholds.SADDLE)


def _lowest(subject: Subject, level: float) -> tuple[_Fall, _Fall | None]:
    """Return the lowest point of the centre's basin, and the lowest point of another basin if it is lower still.

    A lower point beyond a barrier does not contradict this minimum.
    """
    near, lowest = int(subject.distances.argmin()), int(subject.losses.argmin())
    below = _downhill(subject, near, level)
    if below[lowest]:
        return _fall_to(subject, level, lowest, near), None
    inside = int(np.flatnonzero(below)[subject.losses[below].argmin()])
    beside = _fall_to(subject, level, lowest, near)
    return _fall_to(subject, level, inside, near), beside if beside.fall > 0 else None


def _downhill(subject: Subject, start: int, level: float) -> NDArray[np.bool_]:
    """Return the points that a path of neighbours reaches from the centre without rising, and the start itself.

    The centre may lie between points: paths start from all nearest points that are not higher than it. If the
    neighbours are unknown, return every point that is lower.
    """
    about = level + rounding(subject)  # a faster path rounds differently
    if subject.edges is None:
        reached: NDArray[np.bool_] = subject.losses <= about
    else:
        both = np.concatenate([subject.edges, subject.edges[:, ::-1]])
        above, below = both[subject.losses[both[:, 1]] <= subject.losses[both[:, 0]]].T
        reach = float(subject.distances[start]) * (1 + 1e-6)
        reached = (subject.distances <= reach) & (subject.losses <= about)
        while (new := reached[above] & ~reached[below]).any():
            reached[below[new]] = True
    reached[start] = True
    return reached


def _fall_to(subject: Subject, level: float, i: int, near: int) -> _Fall:
    error = 0.0
    if subject.errors is not None:
        error = float(np.nan_to_num(np.hypot(subject.errors[i], subject.errors[near])))
    measured = [pair for pair in subject.facts.get("differences", []) if pair["what"] == "lowest"]
    if measured and measured[0]["low"] == subject.places[i].tolist():
        error = float(measured[0]["error"])
    if (kept := subject.paired_error(i, near)) is not None:
        error = kept
    place = f"at ({subject.at(i)})"
    return _Fall(level - float(subject.losses[i]), error, f"{place} in the picture", place)


def _error(subject: Subject) -> float:
    """Return the standard error of a difference of losses at the centre over a subset, for independent samples."""
    if subject.errors is None or not subject.is_subset:
        return 0.0
    return float(np.nan_to_num(math.sqrt(2) * subject.errors[int(subject.distances.argmin())]))


def _descent(subject: Subject, known: Mapping[str, Any], little: bool) -> Finding:
    """Check if the picture shows the gradient; a gradient whose step decreases the loss negligibly does not count."""
    norm, out = known.get("gradient_norm"), known.get("gradient_out_of_plane")
    if norm is None or out is None or not math.isfinite(norm):
        because = "the gradient at the centre was not measured."
        if norm is not None:
            because = f"the part of the gradient outside the picture was not measured (its norm is {norm:.2g})."
        return unknown("descent", because, subject.how_to_measure if norm is None else MEASURE_WITH_CHART)
    if not norm > 0:
        said = "The gradient at the centre is zero: the loss decreases in no direction at first order."
        return Finding("descent", "ok", said, values={"gradient_norm": norm})
    share = out / norm
    values = {"gradient_norm": norm, "out_of_plane": out, "share": share}
    said = (
        f"Of the gradient at the centre (norm {norm:.2g}), a part of norm {out:.2g} ({share:.1%}) is "
        "outside the picture"
    )
    if little:
        return Finding("descent", "ok", f"{said}; a step against it hardly decreases the loss.", values=values)
    if share <= thresholds.DRAWN:
        return Finding("descent", "ok", f"{said}: the picture shows the direction of steepest descent.", values=values)
    return Finding(
        "descent",
        "note",
        f"{said}: the picture shows {'none' if share > 1 - thresholds.DRAWN else 'only part'} of the "
        "direction of steepest "
        "descent.",
        "Look along it: ln.directions.gradient(objective).",
        values,
    )
