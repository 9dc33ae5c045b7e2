"""Checks of the points: holes, an unfinished run, the grid, the range, and what was interpolated or averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lossnav import samplers
from lossnav._utils.geometry import Array
from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Finding, Level, unknown
from lossnav.surface.estimates import estimate_of
from lossnav.surface.variables import FAILED, NON_FINITE, NOT_EVALUATED

_RESUME = "Go on with the run: the same call, or lossnav resume."


def check(subject: Subject) -> Iterator[Finding]:
    """Say what of the picture was measured."""
    if subject.surface is None:
        return
    yield _holes(subject)
    yield _unfinished(subject)
    yield _constant(subject)
    if len(subject.losses) > 1 and not subject.is_constant:
        yield from _grid(subject)
        yield _range(subject)
    yield from _automatic(subject)
    yield from _adaptive(subject)
    yield from _interpolated(subject)
    yield from _corrected(subject)
    yield from _seeds(subject)


def _holes(subject: Subject) -> Finding:
    if said := subject.attrs.get("interpolation"):
        return _holes_between(said)
    status = subject.status
    failed, holes = int((status == FAILED).sum()), int((status == NON_FINITE).sum())
    done = int((status != NOT_EVALUATED).sum())
    values = {"points": done, "failed": failed, "non_finite": holes}
    if not done:
        return unknown("holes", "no point was evaluated.", _RESUME, values)
    if failed:
        first = next(iter(subject.attrs.get("failures", [])), "no reason is kept")
        also = f"; at {holes:,} others the loss is not finite" if holes else ""
        return Finding(
            "holes",
            "warning",
            f"{failed:,} of {done:,} points that were evaluated raised an error and are missing ({first}){also}.",
            "Mend what raised and go on with the run: the same call, or lossnav resume.",
            values,
        )
    if holes:
        part = holes / done
        return Finding(
            "holes",
            "warning" if part > thresholds.HOLES else "note",
            f"At {holes:,} of {done:,} points ({part:.1%}) the loss is not finite; they are drawn as holes.",
            "Take a smaller range, or more digits, if they are in the way.",
            values,
        )
    return Finding("holes", "ok", f"All points that were evaluated ({done:,}) have a finite loss.", values=values)


def _holes_between(said: Mapping[str, Any]) -> Finding:
    """Of an interpolated grid: how many of the points that it was made from have no finite loss."""
    done, holes = int(said["points"]), int(said.get("holes", 0))
    values = {"points": done, "holes": holes}
    if not holes:
        words = f"All points that were evaluated ({done:,}) have a finite loss; what is between is interpolated."
        return Finding("holes", "ok", words, values=values)
    return Finding(
        "holes",
        "warning" if holes / done > thresholds.HOLES else "note",
        f"At {holes:,} of {done:,} points that were evaluated ({holes / done:.1%}) the loss is not finite, or an error "
        "was raised; the interpolated grid has holes there.",
        "Take a smaller range, or look at the surface that was evaluated for what was raised.",
        values,
    )


def _unfinished(subject: Subject) -> Finding:
    assert subject.surface is not None
    attrs, total = subject.attrs, len(subject.status)
    left = int((subject.status == NOT_EVALUATED).sum())
    outside = int(attrs.get("control_variate", {}).get("outside", 0))
    stopped = bool(attrs.get("interrupted", False)) or attrs.get("finished") is False
    values = {"not_evaluated": left, "interrupted": bool(attrs.get("interrupted", False))}
    interpolated = "interpolation" in attrs  # places that its points do not reach are none of the run's
    if left > outside and not interpolated:
        said = f"The run was not finished: {left:,} of {total:,} points are not evaluated."
        return Finding("unfinished", "warning", said, _RESUME, values)
    sampler, on_grid = attrs.get("sampler", {}), "point" not in subject.surface.dims and not interpolated
    total = int(attrs["interpolation"]["points"]) if interpolated else total
    if sampler.get("kind") == "Explorer":
        said = f"The {total:,} points are those that were asked for in the explorer: no others are outstanding."
        return Finding("unfinished", "ok", said, values=values)
    planned = sampler.get("points") if sampler.get("kind") == "Points" else None
    if (on_grid and not _estimates(sampler)) or (planned is not None and total >= planned):
        return Finding("unfinished", "ok", f"All {total:,} points of the sampler are evaluated.", values=values)
    if stopped:
        return Finding(
            "unfinished",
            "warning",
            f"The run was stopped after {total:,} points, before its sampler had all that it asks for.",
            _RESUME,
            values,
        )
    if "finished" not in attrs:
        because = "the surface does not say whether its sampler had more to ask for."
        return unknown("unfinished", because, "Evaluate it with this version of lossnav.", values)
    return Finding("unfinished", "ok", f"The sampler asked for no more than these {total:,} points.", values=values)


def _constant(subject: Subject) -> Finding:
    """Whether the loss differs at all between the points, and along every axis of a grid."""
    assert subject.surface is not None
    n = len(subject.losses)
    if n < 2:
        because = (
            f"{n} point{'' if n == 1 else 's'} of the picture has a finite loss: it takes two to see a difference."
        )
        return unknown("constant", because, "Evaluate more points.", {"points": n})
    low, high = float(subject.losses.min()), float(subject.losses.max())
    values = {"lowest": low, "highest": high, "along": [] if low < high else list(subject.axes)}
    dtype = subject.objective.get("dtype", "the arithmetic")
    why = f"reaches the loss, or the range is too small to change a digit of {dtype}"
    inside = "a detached or clamped value, an argmax" + (
        "" if subject.is_function else ", a layer that is never called"
    )
    do = f"Look whether the loss uses what moves ({inside}), take a larger range, or move something else."
    if low == high:
        said = f"The loss is exactly {low:.6g} at all {n:,} points: nothing of what moves {why}."
        return Finding("constant", "warning", said, do, values)
    loss = subject.surface["loss"].values
    if "point" not in subject.surface.dims and "interpolation" not in subject.attrs:
        flat = [dim for i, dim in enumerate(subject.axes) if loss.shape[i] > 1 and _is_flat(np.moveaxis(loss, i, 0))]
        if flat:
            along = " and ".join(flat)
            said = f"Along {along} the loss is exactly the same everywhere: nothing of what moves there {why}."
            return Finding("constant", "warning", said, do, values | {"along": flat})
    return Finding("constant", "ok", f"The loss differs between the points ({low:.4g} to {high:.4g}).", values=values)


def _is_flat(loss: Array) -> bool:
    """Whether no line along the first axis has two different finite values, and some line has two."""
    lines = np.where(np.isfinite(loss), loss, np.nan).reshape(len(loss), -1)
    lines = lines[:, np.isfinite(lines).sum(0) > 1]
    return bool(lines.size) and bool((np.nanmax(lines, 0) == np.nanmin(lines, 0)).all())


def _grid(subject: Subject) -> Iterator[Finding]:
    """Whether the points are near enough to show the shape between them."""
    assert subject.surface is not None
    if "interpolation" in subject.attrs or _estimates(subject.attrs.get("sampler", {})) or estimate_of(subject.attrs):
        return
    if "point" in subject.surface.dims:
        because = "the points lie on no grid: how the loss runs between them was not looked at."
        yield unknown("grid", because, "Take ln.Grid, or ln.Adaptive, which tests itself between its points.")
        return
    loss = subject.surface["loss"].values
    shape = " x ".join(map(str, loss.shape))
    bends = {i: bend for i in range(loss.ndim) if (bend := _bend(np.moveaxis(loss, i, 0))) is not None}
    values = {"shape": list(loss.shape), "jagged": max(bends.values(), default=None)}
    if not bends:
        because = f"of {shape} points no three beside each other have a finite loss."
        yield unknown("grid", because, "Take more points along each axis.", values)
        return
    jagged = max((bend for i, bend in bends.items() if loss.shape[i] >= thresholds.COARSE), default=0.0)
    if jagged > thresholds.JAGGED:
        yield Finding(
            "grid",
            "warning",
            f"Neighbouring points differ so much that each lies {jagged:.0%} of their range off the chord of its "
            "neighbours (median): what is between them is a guess.",
            "Take more points or a smaller range.",
            values,
        )
    elif min(loss.shape) < thresholds.COARSE:
        yield Finding(
            "grid",
            "note",
            f"{shape} points show the large shape only.",
            f"Take {thresholds.COARSE} or more along each axis to speak of ripples.",
            values,
        )
    else:
        yield Finding("grid", "ok", f"{shape} points; their neighbours agree.", values=values)


def _bend(loss: Array) -> float | None:
    """Median over the lines of how far points lie off the chord of their neighbours, as a part of each line's range.

    Of each line as far as three neighbours are finite; None where that is so in no line.
    """
    lines = np.where(np.isfinite(loss), loss, np.nan).reshape(len(loss), -1)
    off = np.abs(lines[1:-1] - (lines[2:] + lines[:-2]) / 2)
    seen = np.isfinite(off).any(0) if len(loss) > 2 else np.zeros(0, bool)
    if not seen.any():
        return None
    lines, off = lines[:, seen], off[:, seen]
    ranges = np.nanmax(lines, 0) - np.nanmin(lines, 0)
    return float(np.median(np.nanmean(off, 0) / np.where(ranges > 0, ranges, 1.0)))


def _range(subject: Subject) -> Finding:
    """Whether the middle can be seen beside the rim."""
    if not subject.has_center:
        return Finding(
            "range",
            "note",
            "The origin of the chart, its centre, is not in the picture.",
            "Take a range around 0 if it is to be seen.",
        )
    whole = float(np.ptp(subject.losses))
    inner = subject.losses[subject.distances <= 0.5]
    values = {"lowest": float(subject.losses.min()), "highest": float(subject.losses.max())}
    if len(inner) < 2:
        because = "fewer than two points lie in the inner half of the picture."
        return unknown("range", because, "Take more points, or a smaller range.", values)
    share = float(np.ptp(inner)) / whole
    values["inner_share"] = share
    if share < thresholds.AT_THE_RIM:
        return Finding(
            "range",
            "note",
            f"Of the whole rise of {whole:.3g} the inner half of the picture has {share:.1g}: on a linear scale "
            "its middle is flat, whatever is there.",
            "Draw it with log=True, or take a smaller range.",
            values,
        )
    return Finding("range", "ok", f"The inner half of the picture has {share:.0%} of its rise.", values=values)


def _automatic(subject: Subject) -> Iterator[Finding]:
    """Whether a range that was found ends where it was asked to."""
    ranges = subject.attrs.get("sampler", {}).get("auto")
    if not ranges:
        return
    words, short = [], []
    for dim, said in ranges.items():
        if "found" not in said or "reach" not in said:
            because = f"the surface does not say what was found along {dim}."
            yield unknown("automatic range", because, "Evaluate it with this version of lossnav.")
            return
        reach, rise, found = (float(said[name]) for name in ("reach", "rise", "found"))
        where = f"along {dim} to ±{reach:.4g}, where the loss is {found:.3g} times the centre's"
        if not math.isfinite(found):
            short.append(f"along {dim} to ±{reach:.4g}, where the loss is not finite")
        elif found < rise:
            short.append(f"{where} and not {rise:g} times: it is capped there, and the ground may go on as flat")
        elif said.get("floored", False):
            short.append(f"{where} and not {rise:g} times: it is the smallest that is tried, and may be too large")
        words.append(where)
    values = {dim: dict(said) for dim, said in ranges.items()}
    if short:
        said = f"The range was found automatically: {'; '.join(short)}."
        yield Finding("automatic range", "note", said, "Give the ends of the axes yourself, alpha=(-1, 1).", values)
        return
    yield Finding("automatic range", "ok", f"The range was found automatically: {'; '.join(words)}.", values=values)


def _estimates(sampler: Mapping[str, Any]) -> bool:
    """Whether a finished run of the sampler says how far off the loss is between its points."""
    kind = samplers.kinds().get(str(sampler.get("kind")))
    return kind is not None and kind.estimates


def _adaptive(subject: Subject) -> Iterator[Finding]:
    sampler = subject.attrs.get("sampler", {})
    outcome = estimate_of(subject.attrs)
    if not outcome and not _estimates(sampler):
        return
    if not outcome:
        because = "the run was stopped before its sampler could estimate how far off the loss between the points is."
        yield unknown("adaptive", because, _RESUME)
        return
    cells, unresolved = int(outcome["cells"]), int(outcome.get("unresolved", 0))
    error, worst = float(outcome["estimated_error"]), float(outcome.get("estimated_error_p99", math.nan))
    names = ("cells", "unresolved", "untested", "non_finite", "estimated_error", "noise")
    values = {name: outcome[name] for name in names if name in outcome}
    of = "of the loss" if len(subject.losses) and (subject.losses > 0).all() else "of its range"
    yield _noise(outcome, float(sampler.get("tolerance", math.inf)), of)
    do = "Allow more points (max_points=), or a larger tolerance."
    if unresolved >= cells or not math.isfinite(error):
        said = f"None of {cells:,} cells is within the sampler's tolerance: what is between the points is a guess."
        yield Finding("adaptive", "warning", said, do, values)
        return
    off = f"the loss is off by {error:.2g} {of}"
    said = f"By the sampler's own estimate, which is no bound, {off} in the cells it resolved"
    if not unresolved:
        yield Finding("adaptive", "ok", f"{said}: all {cells:,}.", values=values)
        return
    part = unresolved / max(cells, 1)
    untested = int(outcome.get("untested", 0))
    rest = f" ({_untested(untested)})" if untested else ""
    if not untested and "untested" in outcome and math.isfinite(worst):
        rest = f" (99 % of all are within {worst:.2g})"
    yield Finding(
        "adaptive",
        "warning" if part > thresholds.UNRESOLVED else "note",
        f"{said}; {unresolved:,} of {cells:,} cells ({part:.0%}) are not{rest}.",
        do,
        values,
    )


def _noise(outcome: Mapping[str, Any], tolerance: float, of: str) -> Finding:
    """Say what the sampler saw of noise: from places evaluated twice, or from differences that do not fall."""
    noise, repeats = float(outcome.get("noise", math.nan)), bool(outcome.get("noise_repeats"))
    names = ("noise_largest", "noise_of_range", "noise_places", "noise_non_finite", "noise_at", "places_twice")
    values = {"noise": noise, "repeats": repeats} | {name: outcome[name] for name in names if name in outcome}
    if math.isnan(noise):
        because = "no place could be evaluated twice: whether the loss is noisy was not looked at."
        return unknown(
            "adaptive_noise", because, "Evaluate one point twice: objective.evaluate(chart(coords)).", values
        )
    if repeats:
        said = (
            f"Between the points the loss varies by about {noise:.2g} {of}, and no less where points lie closer: it is "
            f"rough, or has ripples finer than the points. {_same(outcome, of)}"
        )
        do = "Look at a smaller range, or compute in a higher precision."
    elif not noise > 0:
        return Finding("adaptive_noise", "ok", _same(outcome, of), values=values)
    else:
        said, do = _differs(outcome, noise, of), "Make the loss deterministic (eval mode, no augmentation)"
        do += ", or read no shape below three times that." if math.isfinite(noise) else "."
    large = noise > tolerance / 3 or float(outcome.get("noise_of_range", 0.0)) > thresholds.NOISE_OF_RANGE
    return Finding("adaptive_noise", "warning" if large else "note", said, do, values)


def _untested(count: int) -> str:
    return f"{count:,} of them untested: no point was left for them, or one beside them is not finite"


def _same(outcome: Mapping[str, Any], of: str) -> str:
    """Say where the loss was evaluated twice and came out alike, and to what."""
    count, largest = int(outcome.get("places_twice", 0)), float(outcome.get("noise_largest", math.nan))
    where = f"At the {count} places where it was evaluated twice" if count else "Where it was evaluated twice"
    if largest == 0:
        return f"{where} the loss came out the same."
    alike = f" within {largest:.1g} {of}" if math.isfinite(largest) else ""
    return f"{where} the loss came out the same{alike}."


def _differs(outcome: Mapping[str, Any], noise: float, of: str) -> str:
    """Say at how many places the loss differs from itself, by how much, and where."""
    places, count = int(outcome.get("noise_places", 0)), int(outcome.get("places_twice", 0))
    lost = int(outcome.get("noise_non_finite", 0))
    said = "The loss is noisy: evaluated twice at one place, it differs"
    if count:
        said += f" at {places} of {count} places"
    if math.isfinite(noise):
        said += f", by a standard deviation of {noise:.2g} {of}"
    if lost:
        said += f"; at {lost} of them it is finite once and once not"
    largest, part = float(outcome.get("noise_largest", math.nan)), float(outcome.get("noise_of_range", math.nan))
    if largest > 0:
        said += f"; the largest difference is {largest:.2g} {of}"
        if math.isfinite(part) and of != "of its range":
            said += f", and {part:.2g} of the picture's range"
    if at := outcome.get("noise_at"):
        said += f". It is largest at ({', '.join(f'{float(x):.3g}' for x in at[0])})"
    return said + "."


def _interpolated(subject: Subject) -> Iterator[Finding]:
    said = subject.attrs.get("interpolation")
    if not said:
        return
    error, do = (
        float(said.get("left_out_error_p99", math.nan)),
        "Evaluate more points before you speak of small shapes.",
    )
    values = {"points": said["points"], "left_out_error_p99": error}
    if math.isnan(error):
        because = f"none of the {said['points']:,} points it is interpolated from could be predicted from the others."
        yield unknown("interpolation", because, do, values)
        return
    words = f"Interpolated from {said['points']:,} points; left out, 99 % of them are predicted to within {error:.2g}"
    level: Level = "ok" if error <= thresholds.INTERPOLATED_NOTE else "note"
    if error > thresholds.INTERPOLATED:
        level = "warning"
    yield Finding("interpolation", level, f"{words}.", **({} if level == "ok" else {"do": do}), values=values)


def _corrected(subject: Subject) -> Iterator[Finding]:
    said = subject.attrs.get("control_variate")
    if not said:
        return
    error, unit = float(said["residual_error"]), "of the loss" if said.get("relative", True) else "in units of the loss"
    values = {"residual_error": error, "points": said["points"]}
    what = f"A subset's surface, corrected at {said['points']:,} points with all the data"
    if not math.isfinite(error):
        because = f"{what[0].lower()}{what[1:]}, leaves too few of them to see what error remains."
        yield unknown("correction", because, "Correct it at more points.", values)
        return
    yield Finding(
        "correction", "note", f"{what}; what remains is {error:.2g} {unit}.", "Say so in the caption.", values
    )


def _seeds(subject: Subject) -> Iterator[Finding]:
    """What the choice of the directions does to the picture."""
    if subject.seeds is None or subject.surface is None:
        return
    n, level = subject.seeds.sizes["seed"], subject.center_loss
    do = "Evaluate several seeds, with the centre of the chart among the points."
    if "loss_sd" not in subject.surface or level is None:
        what = "the picture has one seed alone." if n == 1 else "the loss at the centre is not known."
        yield unknown("seeds", what, do, {"seeds": n})
        return
    rise = np.abs(subject.surface["loss"].values - level).reshape(-1)
    spread = subject.surface["loss_sd"].values.reshape(-1)
    known = np.isfinite(rise) & np.isfinite(spread) & (rise > 0)
    if not known.any():
        because = "the mean loss rises nowhere above that of the centre."
        yield unknown("seeds", because, do, {"seeds": n})
        return
    part = float(np.median(spread[known] / rise[known]))
    values = {"part": part, "seeds": n}
    said = f"Over {n} seeds of the directions the loss differs by {part:.0%} of its rise (median of the points)"
    if part > thresholds.SEEDS_DIFFER:
        yield Finding(
            "seeds", "warning", f"{said}: one picture says little of the next.", "Show several, or the band.", values
        )
    else:
        yield Finding("seeds", "ok", f"{said}.", values=values)
