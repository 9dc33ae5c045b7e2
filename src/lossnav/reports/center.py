"""Checks of the centre: whether it is a minimum, and what of its curvature the picture shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossnav.reports import thresholds
from lossnav.reports.digits import rounding
from lossnav.reports.evidence import Subject, gram_of
from lossnav.reports.findings import MEASURE_WITH_CHART, Finding, unknown
from lossnav.reports.fit import Fit, fitted

_ENDS = {"lambda_max": "λmax", "lambda_min": "λmin"}
_ALIKE = 1e-3  # relative: curvatures that differ by no more look the same


def check(subject: Subject) -> Iterator[Finding]:
    """Say whether the centre is a minimum, a saddle, or more steep than it looks."""
    if subject.surface is None:
        return
    known = subject.curvature_at_center
    minimum, little = _minimum(subject, known)
    yield minimum
    yield _descent(subject, known, little)
    found = fitted(subject) if len(subject.losses) else None
    yield _saddle(subject, known, found, stationary=little)
    yield _mean(subject, known, found)


# ---------------------------------------------------------------------- is it a minimum


class _Fall(NamedTuple):
    """By how much the loss is lower somewhere, how sure that is, and where, in words and as a place of the picture."""

    fall: float
    error: float
    where: str
    place: str = ""


def _minimum(subject: Subject, known: Mapping[str, Any]) -> tuple[Finding, bool]:
    """The lowest point of the picture, and what a step along the gradient gives, against the picture's rise and errors.

    A loss is known but for a constant and a unit, so its own size says nothing: what it can be lowered by counts beside
    how far it rises in the middle of the picture, and beside the errors of the two values.

    Returns
    -------
    Finding, bool
        Whether what the gradient promises is worth nothing, too.
    """
    level = subject.center_loss
    if level is None or not math.isfinite(level) or not len(subject.losses):
        because = "the loss at the centre is not known."
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
    said = f"The loss {level:.4g} of the centre can be lowered by {worst.fall:.2g} ({_share(part)}) {worst.where}"
    further = "Minimise it further" if subject.is_function else "Train on, or look at the data of the training"
    if part > thresholds.NOT_A_MINIMUM and sure:
        return Finding(
            "minimum",
            "warning",
            f"{said}: it is no minimum of this loss, whatever the picture looks like.",
            f"{further}; do not call this the shape of a minimum.",
            values,
        ), little
    beside_spread = sure and worst.fall > max(off, thresholds.OF_THE_SPREAD * spread)
    if part > thresholds.NOT_QUITE or beside_spread:
        why = "little of what the picture shows" if sure else "less than other samples would change"
        if beside_spread:
            why += f" (the losses of single samples have a standard deviation of {spread:.2g})"
        return Finding(
            "minimum",
            "note",
            f"{said}, {why}: it is no minimum to the last digit.",
            f"Say “near a minimum”, or {'minimise it further' if subject.is_function else 'train on'}.",
            values,
        ), little
    lowest = "no point of the picture is lower than the centre"
    if beside is not None:
        lowest = f"a point of the picture is lower by {beside.fall:.2g}, {beside.place}, behind higher ground"
    elif found.fall > 0:
        lowest += f" by more than {found.fall:.1g}"
    if norm is None:
        because = f"the gradient there is not; {lowest}, but in other directions it may lie on a slope."
        return unknown("minimum", because, subject.how_to_measure, values), little
    if step is None:
        because = f"how far a step against the gradient (norm {norm:.2g}) leads is not; {lowest}."
        return unknown("minimum", because, subject.how_to_measure, values), little
    gain = f"a step against it gives {max(0.0, step.fall):.1g}, {_share(_part(step.fall, rise, off))}"
    if _falls_off(known):
        return Finding(
            "minimum",
            "note",
            f"The gradient at the centre has norm {norm:.2g}: {gain}; but along some direction the loss bends "
            f"downwards (λmin {known['lambda_min']:.3g}): it is stationary and no minimum; {lowest}.",
            "Look along it: ln.directions.hessian(objective, n=2).",
            values,
        ), little
    if beside is not None and _part(beside.fall, rise, off) > thresholds.NOT_A_MINIMUM:
        return Finding(
            "minimum",
            "note",
            f"The gradient at the centre has norm {norm:.2g}: {gain}; but {lowest}: the centre is not the lowest "
            "minimum of this loss.",
            "Say “a minimum”, not “the minimum”.",
            values,
        ), little
    said = f"The gradient at the centre has norm {norm:.2g}: {gain}; {lowest}."
    return Finding("minimum", "ok", said, values=values), little


def _part(fall: float, rise: float, off: float) -> float:
    """A fall as a part of the picture's rise; 0 where it is no more than the losses are off by computing."""
    if not fall > off:
        return 0.0
    return fall / rise if rise > 0 else math.inf


def _spread(subject: Subject) -> float:
    """Standard deviation of single samples' losses at the centre, by their standard error; inf where not known."""
    samples, population = subject.objective.get("samples"), subject.objective.get("population")
    if subject.errors is None or not samples:
        return math.inf
    error = float(subject.errors[int(subject.distances.argmin())])
    drawn = max(1 - samples / population, 1 / samples) if population else 1.0
    return error * math.sqrt(samples / drawn) if error > 0 else math.inf


def _share(part: float) -> str:
    if part == math.inf:
        return "where the middle of the picture does not rise"
    return f"{f'{part:.3g} times' if part >= 2 else f'{part:.1%} of'} the rise in the middle of the picture"


def _step(subject: Subject, known: Mapping[str, Any]) -> _Fall | None:
    """What a step against the gradient gives: measured, or promised; None where neither is known.

    For a loss of curvature lambda_max at most, a step of 1/lambda_max against the gradient lowers it by g^2 / (2
    lambda_max) at least (Nesterov 2004, eq. 1.2.19), and a shorter one, t, by t g^2 (1 - lambda_max t / 2). No step is
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
    if length is None or largest is None or not largest > 0:  # of a loss that bends nowhere it would be a guess
        return None
    promised = length * norm**2 * (1 - largest * length / 2)
    return _Fall(promised, _error(subject), f"{where}, λmax {largest:.3g})")


def step_length(norm: float, largest: float | None, reach: float | None) -> float | None:
    """By which the gradient is multiplied for a step: 1/λmax, but no farther than the middle of the picture reaches."""
    if largest is None or not math.isfinite(largest) or not norm > 0:
        return None
    ways = ([1 / largest] if largest > 0 else []) + ([reach / norm] if reach is not None else [])
    ways = [way for way in ways if math.isfinite(way)]
    return min(ways) if ways else None


def _falls_off(known: Mapping[str, Any]) -> bool:
    """Whether the Hessian surely has a negative eigenvalue that is worth speaking of."""
    low, high, error = known.get("lambda_min"), known.get("lambda_max"), known.get("lambda_min_error", math.inf)
    if low is None or high is None or not low + error < 0 or known.get("bends_down") is False:
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
    about = level + rounding(subject)  # a faster way rounds otherwise
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
    """Standard error of a difference of losses at the centre over a subset, as of independent samples."""
    if subject.errors is None or not subject.is_subset:
        return 0.0
    return float(np.nan_to_num(math.sqrt(2) * subject.errors[int(subject.distances.argmin())]))


def _descent(subject: Subject, known: Mapping[str, Any], little: bool) -> Finding:
    """How much of the way down lies in the picture; nothing leads down by a gradient of which a step gives little."""
    norm, out = known.get("gradient_norm"), known.get("gradient_out_of_plane")
    if norm is None or out is None or not math.isfinite(norm):
        what = "the gradient at the centre is not." if norm is None else "which part of the gradient lies in "
        because = what if norm is None else f"{what}the picture was not measured (its norm is {norm:.2g})."
        return unknown("descent", because, subject.how_to_measure if norm is None else MEASURE_WITH_CHART)
    if not norm > 0:
        said = "The gradient at the centre is zero: no way leads down from there at first order."
        return Finding("descent", "ok", said, values={"gradient_norm": norm})
    share = out / norm
    values = {"gradient_norm": norm, "out_of_plane": out, "share": share}
    said = f"Of the gradient's norm {norm:.2g} at the centre, {out:.2g} points out of the picture ({share:.1%})"
    if little:
        return Finding("descent", "ok", f"{said}; a step along it gives next to nothing.", values=values)
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


def _saddle(subject: Subject, known: Mapping[str, Any], found: Fit | None, *, stationary: bool) -> Finding:
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
        return unknown("saddle", because, subject.how_to_measure, values)
    ratio = -low / high if high > 0 else math.inf
    values |= {"ratio": ratio, "source": known.get("source")}
    hessian = _hessian(subject, known)
    ends = f"λmin = {low:.3g} ± {error:.1g}, λmax = {high:.3g}"
    if low + error >= 0:
        negligible = _negligible(subject)
        if not low - error >= -max(thresholds.SADDLE * high, negligible):  # a negative one may hide in the error
            because = f"the error of the smallest eigenvalue is too large: {ends}. {slice_words}"
            return unknown(
                "saddle", because, "Ask for more products: ln.report(…, objective=objective, limit=1000).", values
            )
        said = f"{slice_words} {hessian} has no negative eigenvalue that is more than its error: {ends}."
        return Finding("saddle", "ok", said, values=values)
    if known.get("bends_down") is False:
        because = (
            f"along the eigenvector of the smallest eigenvalue ({ends}) the loss itself does not bend downwards: it "
            f"has a kink at the centre, or ripples, of which a Hessian knows nothing. {slice_words}"
        )
        return unknown("saddle", because, "Look along it: ln.directions.hessian(objective, n=2).", values)
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
        bends = "there the loss bends downwards, which is not drawn."
        part = f"{ratio:.0%} of the largest" if math.isfinite(ratio) else "and none is positive"
        what = (
            f"This slice looks convex but {hessian[0].lower()}{hessian[1:]}" if convex else f"{slice_words} {hessian}"
        )
        return Finding(
            "saddle",
            "warning",
            f"{what} has eigenvalue {low:.3g} ± {error:.1g} ({part}, {high:.3g}): "
            + (f"the centre is a saddle{'' if ratio < math.inf else ' or a maximum'}." if stationary else bends),
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


def _negligible(subject: Subject) -> float:
    """Curvature by which the loss differs in the middle of the picture by no more than a line is wide; 0: not known."""
    return 0.0 if subject.reach is None else 2 * thresholds.NOT_QUITE * subject.relief / subject.reach**2


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
        low, high = (float(value) for value in found.eigenvalues[[0, -1]])
        curves = " and ".join(f"{value:.3g}" for value in dict.fromkeys((low, high)))
        curves += f" ± {found.error:.1g}"
        if max(abs(low), abs(high)) <= found.error:
            return None, f"The curvature of this slice at its centre is less than its error ({curves}, by its points)."
        convex, words = _seems(low, high, found.error, "This slice", f" at its centre ({curves}, by its points)")
        return convex, words + _finer(known, found)
    least, most = known.get("lambda_min_in_plane"), known.get("lambda_max_in_plane")
    if least is None or most is None or not math.isfinite(least):
        return None, "The points do not show the curvature at the centre."
    convex = _seems(least, most, 0.0, "", "")[0]
    return convex, f"In the slice the Hessian has eigenvalues {least:.3g} to {most:.3g}."


def _finer(known: Mapping[str, Any], found: Fit) -> str:
    """What the Hessian says of the slice where that is not what its points show: nothing drawn is as fine."""
    measured = np.asarray(known.get("hessian_in_plane"), np.float64)  # None where one is not finite
    if measured.shape != found.hessian.shape or not np.isfinite(measured).all():
        return ""
    values = np.linalg.eigvalsh(measured)
    off, size = float(np.abs(values - found.eigenvalues).max()), float(np.abs(found.eigenvalues).max())
    if off <= thresholds.SURE * found.error + thresholds.OTHERWISE * size:
        return ""
    curves = " and ".join(f"{value:.3g}" for value in dict.fromkeys(values[[0, -1]].tolist()))
    how = "otherwise than between the points: more narrowly than they lie, with a kink, or with ripples"
    return f" At the very centre its Hessian has {curves}: it bends there {how}."


def _seems(low: float, high: float, error: float, what: str, where: str) -> tuple[bool | None, str]:
    """Whether it looks convex with these least and largest curvatures, and that in words that fit the numbers."""
    if low >= error and high > 0:
        return True, f"{what} looks convex{where}."
    if high > error and -thresholds.HARDLY_BENT * high <= low:
        slight = "but for a slight bend downwards" if low < -error else "as far as its error lets see"
        return True, f"{what} looks convex{where}, {slight}."
    if low < -error:
        return False, f"{what} does not look convex{where}."
    return (
        None,
        f"{what} bends{where}: along one direction by less than the error, so whether it is convex is not seen.",
    )


# ---------------------------------------------------------------------- how steep it is


def _mean(subject: Subject, known: Mapping[str, Any], found: Fit | None) -> Finding:
    """The curvature of the picture against the mean along such directions, the mean of all, and the strongest."""
    others, trace = subject.facts.get("random_curvature", {}), known.get("trace")
    ends = {word: known[name] for name, word in _ENDS.items() if known.get(name) is not None}
    here = _here(subject, known, found)
    if here is None:
        because = "the points do not show how the loss bends at the centre of the picture."
        return unknown("mean curvature", because, subject.how_to_measure)
    curves = _listed(here.along) + (f" ± {here.error:.1g}" if here.error else "")
    if not others and trace is None and not ends:
        because = f"the curvature of the picture ({curves}) has nothing beside it: no other was measured."
        return unknown("mean curvature", because, subject.how_to_measure)
    values: dict[str, Any] = {"curvature": here.along, "curvature_error": here.error, "per_length": here.per_length}
    values |= {"lambda_max": known.get("lambda_max"), "strongest_drawn": here.strongest}
    words = [f"Along the directions of this picture the loss bends by {curves}"]
    untypical = False
    if others:
        mean, spread, count = (float(others[name]) for name in ("mean", "spread", "count"))
        words.append(f"along {count:.0f} other random ones by {mean:.3g} ± {spread:.2g}")
        allowed = thresholds.UNTYPICAL * spread * math.sqrt(1 + 1 / count) + here.error + _ALIKE * abs(mean)
        untypical = any(abs(value - mean) > allowed for value in here.along)
        values |= {"others": dict(others)}
    if here.per_length is not None:
        words.append(f"which is {_listed(here.per_length)} for a step of length 1")
    if trace is not None and known.get("parameters"):
        mean, error = (float(trace[name]) / float(known["parameters"]) for name in ("value", "error"))
        words.append(f"the mean eigenvalue (trace/N) is {mean:.3g} ± {error:.1g}")
        values |= {"trace": dict(trace), "mean_eigenvalue": mean, "mean_eigenvalue_error": error}
    words += [f"{word} {value:.3g}" for word, value in ends.items()]
    said = "; ".join(words)
    if untypical:
        return Finding(
            "mean curvature",
            "note",
            f"{said}: this picture is not what others of its kind look like.",
            "Look at several seeds: ln.ensemble.",
            values,
        )
    if ends and here.strongest is not None:
        word = max(ends, key=lambda each: abs(ends[each]))
        drawn, steepest = here.strongest + here.strongest_error, abs(float(ends[word]))
        if steepest > thresholds.FAR_BELOW * drawn:
            sure = here.strongest > here.strongest_error
            times = steepest / (here.strongest if sure else drawn) if drawn > 0 else math.inf
            many = f"{float(f'{times:.2g}'):,.0f} times as strongly as" if times < math.inf else "and nothing does of"
            return Finding(
                "mean curvature",
                "note",
                f"{said}: the loss bends most along a direction ({word}) that is not drawn, "
                f"{'' if sure or not drawn else 'more than '}{many} what is drawn.",
                "Do not read sharpness off this picture; λmax or ln.directions.hessian(objective) say it.",
                values,
            )
    if not others and (here.per_length is None or not (ends or values.get("mean_eigenvalue"))):
        because = "the curvature of the picture and that of all directions are in different units, and no other random "
        return unknown("mean curvature", f"{because}ones were measured. {said}.", subject.how_to_measure, values)
    return Finding("mean curvature", "ok", f"{said}.", values=values)


class _Here(NamedTuple):
    """Second derivatives at the centre, by the coordinates and, where lengths are known, for a step of length 1.

    Attributes
    ----------
    along, error : list of float, float
        By each coordinate; the error is that of a fit, 0 of what was measured.
    per_length : list of float or None
        Along each direction of the picture.
    strongest, strongest_error : float or None, float
        The largest in size along any direction in the picture, for a step of length 1.
    """

    along: list[float]
    error: float
    per_length: list[float] | None = None
    strongest: float | None = None
    strongest_error: float = 0.0


def _here(subject: Subject, known: Mapping[str, Any], found: Fit | None) -> _Here | None:
    """How the loss bends in the picture at its centre: measured, else by the points."""
    measured, error = known.get("hessian_in_plane"), 0.0
    if measured is not None and np.isfinite(np.asarray(measured, np.float64)).all():
        hessian = np.asarray(measured, np.float64)
    elif found is not None:
        hessian, error = found.hessian, found.error
    else:
        return None
    gram = known.get("gram")
    gram = gram_of(subject.chart) if gram is None else np.asarray(gram, np.float64)
    along = hessian.diagonal().tolist()
    if gram is None or gram.shape != hessian.shape or not np.linalg.eigvalsh(gram)[0] > 0:
        return _Here(along, error)
    per_length = (hessian.diagonal() / gram.diagonal()).tolist()
    root = np.linalg.inv(np.linalg.cholesky(gram))  # of an orthonormal basis of the plane
    strongest = float(np.abs(np.linalg.eigvalsh(root @ hessian @ root.T)).max())
    return _Here(along, error, per_length, strongest, error / float(np.linalg.eigvalsh(gram)[0]))


def _listed(values: list[float]) -> str:
    return " and ".join(f"{value:.3g}" for value in values)
