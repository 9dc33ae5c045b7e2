"""Checks of the points: missing values, unfinished runs, grid, range, interpolation, and the mean over seeds."""

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

_RESUME = "Resume the run: repeat the same call, or type lossnav resume."


def check(subject: Subject) -> Iterator[Finding]:
    """Check which points of the picture were measured."""
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
        first = next(iter(subject.attrs.get("failures", [])), "no reason is recorded")
        also = f"; at {holes:,} other points the loss is not finite" if holes else ""
        return Finding(
            "holes",
            "warning",
            f"{failed:,} of {done:,} evaluated points raised an error and are missing ({first}){also}.",
            f"Correct the error. {_RESUME}",
            values,
        )
    if holes:
        part = holes / done
        return Finding(
            "holes",
            "warning" if part > thresholds.HOLES else "note",
            f"At {holes:,} of {done:,} points ({part:.1%}) the loss is not finite; they are drawn as holes.",
            "If they matter, use a smaller range or a higher precision.",
            values,
        )
    return Finding("holes", "ok", f"All {done:,} evaluated points have a finite loss.", values=values)


def _holes_between(said: Mapping[str, Any]) -> Finding:
    """Check the points from which a grid was interpolated."""
    done, holes = int(said["points"]), int(said.get("holes", 0))
    values = {"points": done, "holes": holes}
    if not holes:
        words = f"All {done:,} evaluated points have a finite loss; values between them are interpolated."
        return Finding("holes", "ok", words, values=values)
    return Finding(
        "holes",
        "warning" if holes / done > thresholds.HOLES else "note",
        f"At {holes:,} of {done:,} evaluated points ({holes / done:.1%}) the loss is not finite or an "
        "error was raised; "
        "the interpolated grid has holes there.",
        "Use a smaller range, or read the errors in the surface before interpolation.",
        values,
    )


def _unfinished(subject: Subject) -> Finding:
    assert subject.surface is not None
    attrs, total = subject.attrs, len(subject.status)
    left = int((subject.status == NOT_EVALUATED).sum())
    outside = int(attrs.get("control_variate", {}).get("outside", 0))
    stopped = bool(attrs.get("interrupted", False)) or attrs.get("finished") is False
    values = {"not_evaluated": left, "interrupted": bool(attrs.get("interrupted", False))}
    interpolated = "interpolation" in attrs  # places outside its points do not belong to the run
    if left > outside and not interpolated:
        said = f"The run is unfinished: {left:,} of {total:,} points are not evaluated."
        return Finding("unfinished", "warning", said, _RESUME, values)
    sampler, on_grid = attrs.get("sampler", {}), "point" not in subject.surface.dims and not interpolated
    total = int(attrs["interpolation"]["points"]) if interpolated else total
    if sampler.get("kind") == "Explorer":
        said = f"All {total:,} points that were requested in the explorer are evaluated."
        return Finding("unfinished", "ok", said, values=values)
    planned = sampler.get("points") if sampler.get("kind") == "Points" else None
    if (on_grid and not _estimates(sampler)) or (planned is not None and total >= planned):
        return Finding("unfinished", "ok", f"All {total:,} points of the sampler are evaluated.", values=values)
    if stopped:
        return Finding(
            "unfinished",
            "warning",
            f"The run was stopped after {total:,} points, before its sampler had finished.",
            _RESUME,
            values,
        )
    if "finished" not in attrs:
        because = "the surface does not record whether its sampler had finished."
        return unknown("unfinished", because, "Evaluate it with this version of lossnav.", values)
    return Finding("unfinished", "ok", f"The sampler finished after {total:,} points.", values=values)


def _constant(subject: Subject) -> Finding:
    """Check if the loss differs between the points, and along every axis of a grid."""
    assert subject.surface is not None
    n = len(subject.losses)
    if n < 2:
        because = f"{n} point{' has' if n == 1 else 's have'} a finite loss, and a difference needs two."
        return unknown("constant", because, "Evaluate more points.", {"points": n})
    low, high = float(subject.losses.min()), float(subject.losses.max())
    values = {"lowest": low, "highest": high, "along": [] if low < high else list(subject.axes)}
    dtype = subject.objective.get("dtype", "the arithmetic")
    moving = f"the {subject.weights} that move"
    why = f"do not affect the loss, or the range is too small to change a digit of {dtype}"
    inside = "detached or clamped values, an argmax" + ("" if subject.is_function else ", a layer that is never called")
    do = f"Check if the loss uses {moving} ({inside}), use a larger range, or move others."
    if low == high:
        said = f"The loss is exactly {low:.6g} at all {n:,} points: {moving} {why}."
        return Finding("constant", "warning", said, do, values)
    loss = subject.surface["loss"].values
    if "point" not in subject.surface.dims and "interpolation" not in subject.attrs:
        flat = [dim for i, dim in enumerate(subject.axes) if loss.shape[i] > 1 and _is_flat(np.moveaxis(loss, i, 0))]
        if flat:
            along = " and ".join(flat)
            said = f"Along {along} the loss is exactly constant: {moving} there {why}."
            return Finding("constant", "warning", said, do, values | {"along": flat})
    return Finding("constant", "ok", f"The loss differs between the points ({low:.4g} to {high:.4g}).", values=values)


def _is_flat(loss: Array) -> bool:
    """Return whether all lines along the first axis are constant, and one has two finite values."""
    lines = np.where(np.isfinite(loss), loss, np.nan).reshape(len(loss), -1)
    lines = lines[:, np.isfinite(lines).sum(0) > 1]
    return bool(lines.size) and bool((np.nanmax(lines, 0) == np.nanmin(lines, 0)).all())


def _grid(subject: Subject) -> Iterator[Finding]:
    """Check if the points are close enough to show the shape between them."""
    assert subject.surface is not None
    if "interpolation" in subject.attrs or _estimates(subject.attrs.get("sampler", {})) or estimate_of(subject.attrs):
        return
    if "point" in subject.surface.dims:
        because = "the points are not on a grid, so the loss between them was not checked."
        yield unknown("grid", because, "Use ln.Grid, or ln.Adaptive, which tests its own prediction between points.")
        return
    loss = subject.surface["loss"].values
    shape = " x ".join(map(str, loss.shape))
    bends = {i: bend for i in range(loss.ndim) if (bend := _bend(np.moveaxis(loss, i, 0))) is not None}
    values = {"shape": list(loss.shape), "jagged": max(bends.values(), default=None)}
    if not bends:
        because = f"no three neighbours among {shape} points have a finite loss."
        yield unknown("grid", because, "Use more points along each axis.", values)
        return
    jagged = max((bend for i, bend in bends.items() if loss.shape[i] >= thresholds.COARSE), default=0.0)
    if jagged > thresholds.JAGGED:
        yield Finding(
            "grid",
            "warning",
            f"The points lie {jagged:.0%} of their range off the chord of their neighbours (median): the shape between "
            "them is not resolved.",
            "Use more points or a smaller range.",
            values,
        )
    elif min(loss.shape) < thresholds.COARSE:
        yield Finding(
            "grid",
            "note",
            f"{shape} points show only the coarse shape.",
            f"Use {thresholds.COARSE} or more along each axis before you describe ripples.",
            values,
        )
    else:
        said = f"{shape} points resolve the shape: each is close to the chord of its neighbours."
        yield Finding("grid", "ok", said, values=values)


def _bend(loss: Array) -> float | None:
    """Return the mean distance of points from the chord of their neighbours, relative to the range; median over lines.

    Only where three neighbours are finite; None if there are no such points.
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
    """Check if the centre is in the picture, and visible beside the rim."""
    if not subject.has_center:
        return Finding(
            "range",
            "note",
            "The centre of the chart is outside the picture.",
            "Use a range around 0 to show it.",
        )
    whole = float(np.ptp(subject.losses))
    inner = subject.losses[subject.distances <= 0.5]
    values = {"lowest": float(subject.losses.min()), "highest": float(subject.losses.max())}
    if len(inner) < 2:
        because = "the inner half of the picture has fewer than two points."
        return unknown("range", because, "Use more points, or a smaller range.", values)
    share = float(np.ptp(inner)) / whole
    values["inner_share"] = share
    if share < thresholds.AT_THE_RIM:
        return Finding(
            "range",
            "note",
            f"The inner half of the picture has a fraction of {share:.1g} of the whole rise ({whole:.3g}): on a linear "
            "scale it looks flat, whatever its shape.",
            "Draw it with log=True, or use a smaller range.",
            values,
        )
    return Finding("range", "ok", f"The inner half of the picture has {share:.0%} of the whole rise.", values=values)


def _automatic(subject: Subject) -> Iterator[Finding]:
    """Check if the automatic range reached the requested rise."""
    ranges = subject.attrs.get("sampler", {}).get("auto")
    if not ranges:
        return
    words, short = [], []
    for dim, said in ranges.items():
        if "found" not in said or "reach" not in said:
            because = f"the surface does not record the range search along {dim}."
            yield unknown("automatic range", because, "Evaluate it with this version of lossnav.")
            return
        reach, rise, found = (float(said[name]) for name in ("reach", "rise", "found"))
        where = f"along {dim} to ±{reach:.4g}, where the loss is {found:.3g} times the centre's"
        if not math.isfinite(found):
            short.append(f"along {dim} to ±{reach:.4g}, where the loss is not finite")
        elif found < rise:
            short.append(f"{where}, not {rise:g} times: the range is capped, and the loss may stay flat beyond it")
        elif said.get("floored", False):
            short.append(f"{where}, not {rise:g} times: this is the smallest range tried, and may be too large")
        words.append(where)
    values = {dim: dict(said) for dim, said in ranges.items()}
    if short:
        said = f"The range was found automatically: {'; '.join(short)}."
        yield Finding("automatic range", "note", said, "Set the ends of the axes yourself: alpha=(-1, 1).", values)
        return
    yield Finding("automatic range", "ok", f"The range was found automatically: {'; '.join(words)}.", values=values)


def _estimates(sampler: Mapping[str, Any]) -> bool:
    """Return whether a finished run of the sampler has an estimated error of the loss between its points."""
    kind = samplers.kinds().get(str(sampler.get("kind")))
    return kind is not None and kind.estimates


def _adaptive(subject: Subject) -> Iterator[Finding]:
    sampler = subject.attrs.get("sampler", {})
    outcome = estimate_of(subject.attrs)
    if not outcome and not _estimates(sampler):
        return
    if not outcome:
        because = "the run was stopped before its sampler could estimate the error between the points."
        yield unknown("adaptive", because, _RESUME)
        return
    cells, unresolved = int(outcome["cells"]), int(outcome.get("unresolved", 0))
    error, worst = float(outcome["estimated_error"]), float(outcome.get("estimated_error_p99", math.nan))
    names = ("cells", "unresolved", "untested", "non_finite", "estimated_error", "noise")
    values = {name: outcome[name] for name in names if name in outcome}
    of = "of the loss" if len(subject.losses) and (subject.losses > 0).all() else "of its range"
    yield _noise(outcome, float(sampler.get("tolerance", math.inf)), of)
    do = "Allow more points (max_points=) or a larger tolerance."
    if unresolved >= cells or not math.isfinite(error):
        said = (
            f"None of {cells:,} cells is within the sampler's tolerance: the loss between the points is not resolved."
        )
        yield Finding("adaptive", "warning", said, do, values)
        return
    said = f"The sampler estimates an error of {error:.2g} {of} (not a bound) in the cells that it resolved"
    if not unresolved:
        yield Finding("adaptive", "ok", f"{said}, which are all {cells:,}.", values=values)
        return
    part = unresolved / max(cells, 1)
    untested = int(outcome.get("untested", 0))
    rest = f" ({_untested(untested)})" if untested else ""
    if not untested and "untested" in outcome and math.isfinite(worst):
        rest = f" (99 % of all cells are within {worst:.2g})"
    yield Finding(
        "adaptive",
        "warning" if part > thresholds.UNRESOLVED else "note",
        f"{said}; {unresolved:,} of {cells:,} cells ({part:.0%}) are unresolved{rest}.",
        do,
        values,
    )


def _noise(outcome: Mapping[str, Any], tolerance: float, of: str) -> Finding:
    """Check what the sampler found about noise: repeated evaluations, or differences that do not decrease."""
    noise, repeats = float(outcome.get("noise", math.nan)), bool(outcome.get("noise_repeats"))
    names = ("noise_largest", "noise_of_range", "noise_places", "noise_non_finite", "noise_at", "places_twice")
    values = {"noise": noise, "repeats": repeats} | {name: outcome[name] for name in names if name in outcome}
    if math.isnan(noise):
        because = "no place could be evaluated twice, so noise of the loss was not checked."
        return unknown(
            "adaptive_noise", because, "Evaluate one point twice: objective.evaluate(chart(coords)).", values
        )
    if repeats:
        said = (
            f"The loss varies by about {noise:.2g} {of} between the points, also where they are closer: it is "
            "rough, or "
            f"has ripples finer than the points. {_same(outcome, of)}"
        )
        do = "Use a smaller range, or a higher precision."
    elif not noise > 0:
        return Finding("adaptive_noise", "ok", _same(outcome, of), values=values)
    else:
        said, do = _differs(outcome, noise, of), "Make the loss deterministic (eval mode, no augmentation)"
        do += ", or ignore shapes below three times that." if math.isfinite(noise) else "."
    large = noise > tolerance / 3 or float(outcome.get("noise_of_range", 0.0)) > thresholds.NOISE_OF_RANGE
    return Finding("adaptive_noise", "warning" if large else "note", said, do, values)


def _untested(count: int) -> str:
    return f"{count:,} of them untested: no points were left, or a neighbouring point is not finite"


def _same(outcome: Mapping[str, Any], of: str) -> str:
    """Return a sentence about the places where repeated evaluation gave the same loss."""
    count, largest = int(outcome.get("places_twice", 0)), float(outcome.get("noise_largest", math.nan))
    where = f"Repeated evaluation at {count} places" if count else "Repeated evaluation"
    if largest == 0:
        return f"{where} gave the same loss."
    alike = f" within {largest:.1g} {of}" if math.isfinite(largest) else ""
    return f"{where} gave the same loss{alike}."


def _differs(outcome: Mapping[str, Any], noise: float, of: str) -> str:
    """Return a sentence about the places where repeated evaluation gave different losses."""
    places, count = int(outcome.get("noise_places", 0)), int(outcome.get("places_twice", 0))
    lost = int(outcome.get("noise_non_finite", 0))
    said = "The loss is noisy: repeated evaluation at the same place gives different values"
    if count:
        said += f" at {places} of {count} places"
    if math.isfinite(noise):
        said += f", with a standard deviation of {noise:.2g} {of}"
    if lost:
        said += f"; at {lost} of them only one of the two values is finite"
    largest, part = float(outcome.get("noise_largest", math.nan)), float(outcome.get("noise_of_range", math.nan))
    if largest > 0:
        said += f"; the largest difference is {largest:.2g} {of}"
        if math.isfinite(part) and of != "of its range":
            said += f", and {part:.2g} of the picture's range"
    if at := outcome.get("noise_at"):
        said += f". The difference is largest at ({', '.join(f'{float(x):.3g}' for x in at[0])})"
    return said + "."


def _interpolated(subject: Subject) -> Iterator[Finding]:
    said = subject.attrs.get("interpolation")
    if not said:
        return
    error, do = (
        float(said.get("left_out_error_p99", math.nan)),
        "Evaluate more points before you interpret small shapes.",
    )
    values = {"points": said["points"], "left_out_error_p99": error}
    if math.isnan(error):
        because = f"none of the {said['points']:,} interpolated points could be predicted from the others."
        yield unknown("interpolation", because, do, values)
        return
    words = (
        f"Interpolated from {said['points']:,} points; leave-one-out predictions of 99 % of them are within {error:.2g}"
    )
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
    what = f"The surface of a subset, corrected at {said['points']:,} points with all the data"
    if not math.isfinite(error):
        because = f"{what[0].lower()}{what[1:]}, has too few of them to estimate the residual error."
        yield unknown("correction", because, "Correct it at more points.", values)
        return
    yield Finding(
        "correction",
        "note",
        f"{what}, has a residual error of {error:.2g} {unit}.",
        "Mention it in the caption.",
        values,
    )


def _seeds(subject: Subject) -> Iterator[Finding]:
    """Check how much the picture depends on the seed of the directions."""
    if subject.seeds is None or subject.surface is None:
        return
    n, level = subject.seeds.sizes["seed"], subject.center_loss
    do = "Evaluate several seeds, with the centre of the chart among the points."
    if "loss_sd" not in subject.surface or level is None:
        what = "the picture has only one seed." if n == 1 else "the loss at the centre is not known."
        yield unknown("seeds", what, do, {"seeds": n})
        return
    rise = np.abs(subject.surface["loss"].values - level).reshape(-1)
    spread = subject.surface["loss_sd"].values.reshape(-1)
    known = np.isfinite(rise) & np.isfinite(spread) & (rise > 0)
    if not known.any():
        because = "the mean loss is nowhere above that of the centre."
        yield unknown("seeds", because, do, {"seeds": n})
        return
    part = float(np.median(spread[known] / rise[known]))
    values = {"part": part, "seeds": n}
    said = f"The standard deviation of the loss over {n} seeds of the directions is {part:.0%} of its rise (median)"
    if part > thresholds.SEEDS_DIFFER:
        yield Finding(
            "seeds",
            "warning",
            f"{said}: one picture says little about another.",
            "Show several seeds, or their band.",
            values,
        )
    else:
        yield Finding("seeds", "ok", f"{said}.", values=values)
