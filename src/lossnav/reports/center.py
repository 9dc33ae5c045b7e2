"""Checks of the centre: whether it is a minimum, and what of its curvature the picture shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossnav.reports import thresholds
from lossnav.reports.findings import MEASURE, Finding, Level, unknown
from lossnav.reports.fit import Fit, fitted
from lossnav.reports.subject import Subject, gram_of

_SAME = 1e-6  # of a loss: two ways to compute it


def check(subject: Subject) -> Iterator[Finding]:
    """Say whether the centre is a minimum, a saddle, or more steep than it looks."""
    if subject.surface is None:
        return
    known = subject.curvature_at_center
    minimum = _minimum(subject, known)
    yield minimum
    yield _descent(known, minimum.level)
    found = fitted(subject) if len(subject.losses) else None
    yield _saddle(subject, known, found)
    yield _mean(subject, known, found)


# ---------------------------------------------------------------------- is it a minimum


class _Fall(NamedTuple):
    """By how much the loss is lower somewhere, how sure that is, and where, in words and as a place of the picture."""

    fall: float
    error: float
    where: str
    place: str = ""


def _minimum(subject: Subject, known: Mapping[str, Any]) -> Finding:
    """The lowest point of the picture, and what a step along the gradient gives, against the loss and its error.

    For a loss of curvature lambda_max at most, a step of 1/lambda_max against the gradient lowers it by g^2 / (2
    lambda_max) at least (Nesterov 2004, eq. 1.2.19).
    """
    level = subject.center_loss
    if level is None or not math.isfinite(level) or not len(subject.losses):
        return unknown("minimum", "the loss at the centre is not known.", "Evaluate it: check=True (the default).")
    found, beside = _lowest(subject, level)
    falls = [found]
    norm, largest = known.get("gradient_norm"), known.get("lambda_max")
    values: dict[str, Any] = {"loss": level, "gradient_norm": norm}
    stepped = norm is not None and largest is not None and math.isfinite(largest) and largest > 0
    if norm is not None and largest is not None and stepped:
        promised = norm**2 / (2 * largest)
        measured = subject.facts.get("step", {})
        error = measured.get("error")
        if error is None:
            error = _error(subject) if subject.is_subset else 0.0
        fall = float(measured.get("fall", promised))
        falls.append(
            _Fall(fall, float(error), f"by one step against the gradient (norm {norm:.2g}, λmax {largest:.3g})")
        )
        values |= {"promised": promised}
    worst = max(falls, key=lambda each: each.fall)
    part = worst.fall / abs(level) if level else math.inf if worst.fall > 0 else 0.0
    sure = worst.fall > thresholds.SURE * worst.error
    seen = worst.fall > thresholds.UNSEEN * subject.relief
    values |= {"fall": worst.fall, "fall_se": worst.error, "part": part}
    share = f" ({part:.1%})" if math.isfinite(part) else ""
    said = f"The loss {level:.4g} of the centre can be lowered by {worst.fall:.2g}{share} {worst.where}"
    further = "Minimise it further" if subject.is_function else "Train on, or look at the data of the training"
    if part > thresholds.NOT_A_MINIMUM and sure and seen:
        return Finding(
            "minimum",
            "warning",
            f"{said}: it is no minimum of this loss, whatever the picture looks like.",
            f"{further}; do not call this the shape of a minimum.",
            values,
        )
    if part > thresholds.NOT_QUITE and worst.fall > 0:
        why = "less than other samples would change" if not sure else "little of what the picture shows"
        if sure and seen:
            why = "little of the loss"
        return Finding(
            "minimum",
            "note",
            f"{said}, {why}: it is no minimum to the last digit.",
            f"Say “near a minimum”, or {'minimise it further' if subject.is_function else 'train on'}.",
            values,
        )
    lowest = "no point of the picture is lower than the centre"
    if beside is not None:
        lowest = f"a point of the picture is lower by {beside.fall:.2g}, {beside.place}, behind higher ground"
    elif found.fall > 0:
        lowest += f" by more than {found.fall:.1g}"
    if norm is None:
        because = f"the gradient there is not; {lowest}, but in other directions it may lie on a slope."
        return unknown("minimum", because, MEASURE, values)
    if not math.isfinite(norm) or largest is None or math.isnan(largest):
        because = f"how far a step against the gradient (norm {norm:.2g}) leads is not; {lowest}."
        return unknown("minimum", because, MEASURE, values)
    if _falls_off(known):
        return Finding(
            "minimum",
            "note",
            f"The gradient at the centre has norm {norm:.2g}, but along some direction the loss bends downwards (λmin "
            f"{known['lambda_min']:.3g}): it is stationary and no minimum; {lowest}.",
            "Look along it: ln.directions.hessian(objective, n=2).",
            values,
        )
    if beside is not None and beside.fall > thresholds.NOT_A_MINIMUM * abs(level):
        return Finding(
            "minimum",
            "note",
            f"The gradient at the centre has norm {norm:.2g}, a step against it gives {max(0.0, worst.fall):.1g}; but "
            f"{lowest}: the centre is not the lowest minimum of this loss.",
            "Say “a minimum”, not “the minimum”.",
            values,
        )
    gain = f"a step against it gives {max(0.0, worst.fall):.1g} of {level:.4g}; {lowest}"
    return Finding("minimum", "ok", f"The gradient at the centre has norm {norm:.2g}: {gain}.", values=values)


def _falls_off(known: Mapping[str, Any]) -> bool:
    """Whether the Hessian surely has a negative eigenvalue that is worth speaking of."""
    low, high, error = known.get("lambda_min"), known.get("lambda_max"), known.get("lambda_min_error", math.inf)
    if low is None or high is None or not low + error < 0:
        return False
    return bool(high <= 0 or -low / high > thresholds.SADDLE)


def _lowest(subject: Subject, level: float) -> tuple[_Fall, _Fall | None]:
    """The lowest point that the ground leads down to from the centre, and one that is lower still elsewhere.

    A lower point behind higher ground is of another basin, and says nothing against this minimum.
    """
    near, lowest = int(subject.distances.argmin()), int(subject.losses.argmin())
    below = _downhill(subject, near, level)
    if below[lowest]:
        return _fall_to(subject, level, lowest, near), None
    inside = int(np.flatnonzero(below)[subject.losses[below].argmin()])
    beside = _fall_to(subject, level, lowest, near)
    return _fall_to(subject, level, inside, near), beside if beside.fall > 0 else None


def _downhill(subject: Subject, start: int, level: float) -> NDArray[np.bool_]:
    """Points that a way of steps to neighbours leads to from the centre and never up; it itself among them.

    The centre may lie between points: all that are about as near are begun from, where they are no higher than it.
    Where nothing is known of what lies beside what, every point that is lower.
    """
    about = level + _SAME * abs(level)  # a faster way rounds otherwise
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
    return _Fall(level - float(subject.losses[i]), error, f"{place} in the picture itself", place)


def _error(subject: Subject) -> float:
    """Standard error of a difference of losses at the centre, as of independent samples."""
    if subject.errors is None:
        return 0.0
    return float(np.nan_to_num(math.sqrt(2) * subject.errors[int(subject.distances.argmin())]))


def _descent(known: Mapping[str, Any], minimum: Level) -> Finding:
    """How much of the way down lies in the picture."""
    norm, out = known.get("gradient_norm"), known.get("gradient_out_of_plane")
    if norm is None or out is None or not math.isfinite(norm):
        what = "the gradient at the centre is not." if norm is None else "which part of the gradient lies in "
        because = what if norm is None else f"{what}the picture was not measured (its norm is {norm:.2g})."
        return unknown("descent", because, MEASURE if norm is None else f"{MEASURE[:-1]}, with chart=.")
    if not norm > 0:
        said = "The gradient at the centre is zero: no way leads down from there at first order."
        return Finding("descent", "ok", said, values={"gradient_norm": norm})
    share = out / norm
    values = {"gradient_norm": norm, "out_of_plane": out, "share": share}
    said = f"Of the gradient's norm {norm:.2g} at the centre, {out:.2g} points out of the picture ({share:.1%})"
    if minimum == "ok":
        return Finding("descent", "ok", f"{said}; it is too small to lead anywhere.", values=values)
    if share <= thresholds.DRAWN:
        return Finding("descent", "ok", f"{said}: the way down is drawn.", values=values)
    return Finding(
        "descent",
        "note",
        f"{said}: the way down is {'not' if share > 1 - thresholds.DRAWN else 'partly not'} drawn.",
        "Look along it: ln.directions.gradient(objective).",
        values,
    )


# ---------------------------------------------------------------------- is it a saddle


def _saddle(subject: Subject, known: Mapping[str, Any], found: Fit | None) -> Finding:
    """The picture's own curvature against the ends of the full spectrum (Böttcher and Wheeler 2022)."""
    convex, slice_words = _looks(known, found)
    low, high = known.get("lambda_min"), known.get("lambda_max")
    error = known.get("lambda_min_error", math.inf)
    values: dict[str, Any] = {"lambda_min": low, "lambda_min_error": error, "lambda_max": high, "looks_convex": convex}
    if found is not None:
        values |= {"slice": found.eigenvalues.tolist(), "slice_error": found.error}
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(error):
        because = (
            f"the ends of the full Hessian's spectrum are not. {slice_words} A random slice shows the mean of "
            "the spectrum, and in it a saddle looks like a minimum."
        )
        return unknown("saddle", because, MEASURE, values)
    ratio = -low / high if high > 0 else math.inf
    values |= {"ratio": ratio, "source": known.get("source")}
    hessian = _hessian(subject, known)
    ends = f"λmin = {low:.3g} ± {error:.1g}, λmax = {high:.3g}"
    if low + error >= 0:
        if not low - error >= -thresholds.SADDLE * max(high, 0.0):  # a negative one may hide in the error
            because = f"the error of the smallest eigenvalue is too large: {ends}. {slice_words}"
            return unknown(
                "saddle", because, "Ask for more products: ln.report(…, objective=objective, limit=1000).", values
            )
        said = f"{slice_words} {hessian} has no negative eigenvalue that is more than its error: {ends}."
        return Finding("saddle", "ok", said, values=values)
    if convex is False:
        said = f"{slice_words} {hessian} bends downwards too: {ends}."
        return Finding("saddle", "ok", said, values=values)
    if thresholds.SADDLE < ratio <= (noise := _noise_of_subset(subject)):
        return Finding(
            "saddle",
            "note",
            f"{slice_words} {hessian} has a negative eigenvalue, {low:.3g} ± {error:.1g} ({ratio:.1%} of the largest, "
            f"{high:.3g}), of these samples: of all the data it may have none, their choice moves it by about "
            f"{noise / thresholds.SURE:.1%}.",
            "Measure it on all the data before you call it a saddle.",
            values,
        )
    if ratio > thresholds.SADDLE:
        part = f"{ratio:.0%} of the largest" if math.isfinite(ratio) else "and none is positive"
        what = (
            f"This slice looks convex but {hessian[0].lower()}{hessian[1:]}" if convex else f"{slice_words} {hessian}"
        )
        return Finding(
            "saddle",
            "warning",
            f"{what} has eigenvalue {low:.3g} ± {error:.1g} ({part}, {high:.3g}): the centre is a saddle"
            f"{'' if ratio < math.inf else ' or a maximum'}.",
            "Look along its eigenvectors: ln.directions.hessian(objective, n=2).",
            values,
        )
    return Finding(
        "saddle",
        "note",
        f"{slice_words} {hessian} has a negative eigenvalue, {low:.3g} ± {error:.1g}, but a small one: "
        f"{ratio:.2%} of the largest, {high:.3g}.",
        "Say “nearly convex”; along that eigenvector the loss falls, slowly.",
        values,
    )


def _noise_of_subset(subject: Subject) -> float:
    """Two standard errors of an eigenvalue over the choice of a subset, as a part of the largest; 0 of all the data.

    As if the curvature of single samples varied by as much as the largest eigenvalue: s / sqrt(n), without replacement.
    """
    samples, population = subject.objective.get("samples"), subject.objective.get("population")
    if not samples or not population:
        return 0.0
    return thresholds.SURE * math.sqrt(max(0.0, 1 - samples / population) / samples)


def _hessian(subject: Subject, known: Mapping[str, Any]) -> str:
    """Which Hessian the eigenvalues are of, in words."""
    held = int(subject.objective.get("parameters_held") or 0)
    if known.get("excluded"):
        return f"The Hessian at its centre, without {len(known['excluded'])} tensors that were left out,"
    return "The Hessian at its centre" + (", of the parameters that move," if held else "")


def _looks(known: Mapping[str, Any], found: Fit | None) -> tuple[bool | None, str]:
    """Whether the picture looks convex at its centre, None where it does not show; and that in words."""
    if found is not None:
        low, high = found.eigenvalues[[0, -1]]
        curves = " and ".join(f"{value:.3g}" for value in dict.fromkeys((low, high)))
        if max(abs(low), abs(high)) <= found.error:
            return (
                None,
                f"The curvature of this slice at its centre is less than its error ({curves} ± {found.error:.1g}).",
            )
        convex = bool(high > 0 and low >= -max(found.error, thresholds.HARDLY_BENT * high))
        return convex, f"This slice {'looks convex' if convex else 'does not look convex'} at its centre ({curves})."
    low, high = known.get("lambda_min_in_plane"), known.get("lambda_max_in_plane")
    if low is None or high is None or not math.isfinite(low):
        return None, "The points do not show the curvature at the centre."
    convex = bool(high > 0 and low >= -thresholds.HARDLY_BENT * high)
    return convex, f"In the slice the Hessian has eigenvalues {low:.3g} to {high:.3g}."


# ---------------------------------------------------------------------- how steep it is


def _mean(subject: Subject, known: Mapping[str, Any], found: Fit | None) -> Finding:
    """The curvature of the picture against the mean along such directions, the mean of all, and the largest."""
    others, trace = subject.facts.get("random_curvature", {}), known.get("trace")
    largest, here = known.get("lambda_max"), _here(subject, known, found)
    if here is None:
        because = "the points do not show how the loss bends at the centre of the picture."
        return unknown("mean curvature", because, MEASURE)
    if not others and trace is None and largest is None:
        because = f"the curvature of the picture ({_listed(here[0])}) has nothing beside it: no other was measured."
        return unknown("mean curvature", because, MEASURE)
    by_coordinate, per_length = here
    values: dict[str, Any] = {"curvature": by_coordinate, "per_length": per_length, "lambda_max": largest}
    words = [f"Along the directions of this picture the loss bends by {_listed(by_coordinate)}"]
    untypical = False
    if others:
        mean, spread, count = (float(others[name]) for name in ("mean", "spread", "count"))
        words.append(f"along {count:.0f} other random ones by {mean:.3g} ± {spread:.2g}")
        allowed = thresholds.UNTYPICAL * spread * math.sqrt(1 + 1 / count)
        untypical = any(abs(value - mean) > allowed for value in by_coordinate)
        values |= {"others": dict(others)}
    if per_length is not None:
        words.append(f"which is {per_length:.3g} for a step of length 1")
    if trace is not None and known.get("parameters"):
        mean, error = (float(trace[name]) / float(known["parameters"]) for name in ("value", "error"))
        words.append(f"the mean eigenvalue (trace/N) is {mean:.3g} ± {error:.1g}")
        values |= {"trace": dict(trace), "mean_eigenvalue": mean, "mean_eigenvalue_error": error}
    if largest is not None:
        words.append(f"λmax {largest:.3g}")
    said = "; ".join(words)
    if untypical:
        return Finding(
            "mean curvature",
            "note",
            f"{said}: this picture is not what others of its kind look like.",
            "Look at several seeds: ln.ensemble.",
            values,
        )
    if largest is not None and per_length is not None and largest > thresholds.FAR_BELOW * max(per_length, 0.0):
        times = f"{float(f'{largest / per_length:.2g}'):,.0f} times" if per_length > 0 else "beyond all"
        return Finding(
            "mean curvature",
            "note",
            f"{said}: the steepest direction bends {times} what is drawn.",
            "Do not read sharpness off this picture; λmax or ln.directions.hessian(objective) say it.",
            values,
        )
    if not others and (per_length is None or (largest is None and not values.get("mean_eigenvalue"))):
        because = "the curvature of the picture and that of all directions are in different units, and no other random "
        return unknown("mean curvature", f"{because}ones were measured. {said}.", MEASURE, values)
    return Finding("mean curvature", "ok", f"{said}.", values=values)


def _here(subject: Subject, known: Mapping[str, Any], found: Fit | None) -> tuple[list[float], float | None] | None:
    """Second derivatives by each coordinate, and the mean of them a unit of weights where that is known."""
    measured = known.get("hessian_in_plane")
    if measured is not None and np.isfinite(np.asarray(measured, np.float64)).all():
        hessian = np.asarray(measured, np.float64)
    elif found is not None:
        hessian = found.hessian
    else:
        return None
    gram = known.get("gram")
    gram = gram_of(subject.chart) if gram is None else np.asarray(gram, np.float64)
    k = len(hessian)
    if gram is None or gram.shape != hessian.shape:
        return hessian.diagonal().tolist(), None
    return hessian.diagonal().tolist(), float(np.trace(np.linalg.solve(gram, hessian)) / k)


def _listed(values: list[float]) -> str:
    return " and ".join(f"{value:.3g}" for value in values)
