"""Checks of the points: holes, an unfinished run, the grid, the range, and what was interpolated or averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lossnav.coordinates import Array
from lossnav.reports import thresholds
from lossnav.reports.findings import Finding, Level
from lossnav.reports.subject import Subject
from lossnav.surface import FAILED, NON_FINITE, NOT_EVALUATED


def check(subject: Subject) -> Iterator[Finding]:
    """Say what of the picture was measured."""
    if subject.surface is None:
        return
    yield _holes(subject)
    yield from _unfinished(subject)
    if len(subject.losses) > 1:
        yield from _grid(subject)
        yield from _range(subject)
    yield from _adaptive(subject)
    yield from _interpolated(subject)
    yield from _corrected(subject)
    yield from _seeds(subject)


def _holes(subject: Subject) -> Finding:
    status = subject.status
    failed, holes = int((status == FAILED).sum()), int((status == NON_FINITE).sum())
    values = {"points": len(status), "failed": failed, "non_finite": holes}
    if failed:
        first = next(iter(subject.attrs.get("failures", [])), "no reason is kept")
        return Finding(
            "holes",
            "warning",
            f"{failed:,} of {len(status):,} points raised an error and are missing ({first}).",
            "Mend what raised and go on with the run: lossnav resume.",
            values,
        )
    if holes:
        part = holes / len(status)
        return Finding(
            "holes",
            "warning" if part > thresholds.HOLES else "note",
            f"At {holes:,} of {len(status):,} points ({part:.1%}) the loss is not finite; they are drawn as holes.",
            "Take a smaller range, or more digits, if they are in the way.",
            values,
        )
    return Finding(
        "holes", "ok", f"All points that were evaluated ({len(status):,}) have a finite loss.", values=values
    )


def _unfinished(subject: Subject) -> Iterator[Finding]:
    left, total = int((subject.status == NOT_EVALUATED).sum()), len(subject.status)
    stopped = bool(subject.attrs.get("interrupted", False)) or subject.attrs.get("finished") is False
    outside = int(subject.attrs.get("control_variate", {}).get("outside", 0))
    values = {"not_evaluated": left, "interrupted": stopped}
    if stopped or left > outside:
        yield Finding(
            "unfinished",
            "warning",
            f"The run was not finished: {left:,} of {total:,} points are not evaluated"
            + (", and the sampler would ask for more." if not left else "."),
            "Go on with it: lossnav resume, or the same call.",
            values,
        )


def _grid(subject: Subject) -> Iterator[Finding]:
    """Whether the points are near enough to show the shape between them."""
    assert subject.surface is not None
    if "point" in subject.surface.dims or "interpolation" in subject.attrs:
        return
    loss = subject.surface["loss"].values
    least = min(loss.shape)
    bends = [_bend(np.moveaxis(loss, axis, 0)) for axis in range(loss.ndim)]
    jagged = max(bends)
    values = {"shape": list(loss.shape), "jagged": jagged}
    if jagged > thresholds.JAGGED:
        yield Finding(
            "grid",
            "warning",
            f"Neighbouring points differ so much that each lies {jagged:.0%} of their range off the chord of its "
            "neighbours (median): what is between them is a guess.",
            "Take more points or a smaller range.",
            values,
        )
    elif least < thresholds.COARSE:
        yield Finding(
            "grid",
            "note",
            f"{' x '.join(map(str, loss.shape))} points show the large shape only.",
            f"Take {thresholds.COARSE} or more along each axis to speak of ripples.",
            values,
        )
    else:
        yield Finding(
            "grid", "ok", f"{' x '.join(map(str, loss.shape))} points; their neighbours agree.", values=values
        )


def _bend(loss: Array) -> float:
    """Median over the lines of how far points lie off the chord of their neighbours, as a part of each line's range."""
    if len(loss) < 3:
        return 0.0
    lines = loss.reshape(len(loss), -1)
    lines = lines[:, np.isfinite(lines).all(0)]
    ranges = np.ptp(lines, axis=0)
    lines, ranges = lines[:, ranges > 0], ranges[ranges > 0]
    if not lines.size:
        return 0.0
    off = np.abs(lines[1:-1] - (lines[2:] + lines[:-2]) / 2) / ranges
    return float(np.median(off.mean(0)))


def _range(subject: Subject) -> Iterator[Finding]:
    """Whether the middle can be seen beside the rim."""
    if not subject.has_center:
        yield Finding(
            "range",
            "note",
            "The origin of the chart, where the network is, is not in the picture.",
            "Take a range around 0 if it is to be seen.",
        )
        return
    whole = float(np.ptp(subject.losses))
    inner = subject.losses[subject.distances <= 0.5]
    if not whole or len(inner) < 2:
        return
    share = float(np.ptp(inner)) / whole
    values = {"inner_share": share, "lowest": float(subject.losses.min()), "highest": float(subject.losses.max())}
    if share < thresholds.AT_THE_RIM:
        yield Finding(
            "range",
            "note",
            f"Of the whole rise of {whole:.3g} the inner half of the picture has {share:.1g}: on a linear scale "
            "its middle is flat, whatever is there.",
            "Draw it with log=True, or take a smaller range.",
            values,
        )
    else:
        said = f"The inner half of the picture has {share:.0%} of its rise."
        yield Finding("range", "ok", said, values=values)


def _adaptive(subject: Subject) -> Iterator[Finding]:
    sampler = subject.attrs.get("sampler", {})
    outcome = sampler.get("outcome")
    if not outcome or "cells" not in outcome:
        return
    cells, unresolved = int(outcome["cells"]), int(outcome.get("unresolved", 0))
    error, worst = float(outcome["estimated_error"]), float(outcome.get("estimated_error_p99", math.nan))
    names = ("cells", "unresolved", "non_finite", "estimated_error", "noise")
    values = {name: outcome[name] for name in names if name in outcome}
    said = f"By the sampler's own estimate, which is no bound, the loss is off by {error:.2g} in the cells it resolved"
    noise = float(outcome.get("noise", 0.0))
    if noise > 0:
        yield _noise(noise, bool(outcome.get("noise_repeats")), float(sampler.get("tolerance", math.inf)))
    if not unresolved:
        yield Finding("adaptive", "ok", f"{said}: all {cells:,}.", values=values)
        return
    part = unresolved / max(cells, 1)
    yield Finding(
        "adaptive",
        "warning" if part > thresholds.UNRESOLVED else "note",
        f"{said}; {unresolved:,} of {cells:,} cells ({part:.0%}) are not (99 % of all are within {worst:.2g}).",
        "Allow more points (max_points=), or a larger tolerance.",
        values,
    )


def _noise(noise: float, repeats: bool, tolerance: float) -> Finding:
    """Say what the sampler saw of noise: from places evaluated twice, or from differences that do not fall."""
    if repeats:
        said = (
            f"Between the points the loss varies by about {noise:.2g}, and no less where points lie closer: it is "
            "rough, or has ripples finer than the points."
        )
        do = "Look at a smaller range, or compute in a higher precision."
    else:
        said = f"The loss is noisy: evaluated twice at one place, it differs by a standard deviation of {noise:.2g}."
        do = "Make the loss deterministic (model.eval(), no augmentation), or read no shape below three times that."
    level: Level = "warning" if noise > tolerance / 3 else "note"
    return Finding("adaptive_noise", level, said, do, {"noise": noise, "repeats": repeats})


def _interpolated(subject: Subject) -> Iterator[Finding]:
    said = subject.attrs.get("interpolation")
    if not said:
        return
    error = float(said.get("left_out_error_p99", math.nan))
    words = f"Interpolated from {said['points']:,} points; left out, 99 % of them are predicted to within {error:.2g}"
    level: Level = "ok" if error <= thresholds.INTERPOLATED_NOTE else "note"
    if not error <= thresholds.INTERPOLATED:
        level = "warning"
    do = "Evaluate more points before you speak of small shapes."
    values = {"points": said["points"], "left_out_error_p99": error}
    yield Finding("interpolation", level, f"{words}.", **({} if level == "ok" else {"do": do}), values=values)


def _corrected(subject: Subject) -> Iterator[Finding]:
    said = subject.attrs.get("control_variate")
    if not said:
        return
    error, unit = float(said["residual_error"]), "of the loss" if said.get("relative", True) else "in units of the loss"
    yield Finding(
        "correction",
        "note",
        f"A subset's surface, corrected at {said['points']:,} points with all the data; what remains is "
        f"{error:.2g} {unit}.",
        "Say so in the caption.",
        {"residual_error": error, "points": said["points"]},
    )


def _seeds(subject: Subject) -> Iterator[Finding]:
    """What the choice of the directions does to the picture."""
    if subject.seeds is None or subject.surface is None or "loss_sd" not in subject.surface:
        return
    level = subject.center_loss
    if level is None:
        return
    rise = np.abs(subject.surface["loss"].values - level).reshape(-1)
    spread = subject.surface["loss_sd"].values.reshape(-1)
    known = np.isfinite(rise) & np.isfinite(spread) & (rise > 0)
    if not known.any():
        return
    part, n = float(np.median(spread[known] / rise[known])), subject.seeds.sizes["seed"]
    values = {"part": part, "seeds": n}
    said = f"Over {n} seeds of the directions the loss differs by {part:.0%} of its rise (median of the points)"
    if part > thresholds.SEEDS_DIFFER:
        yield Finding(
            "seeds", "warning", f"{said}: one picture says little of the next.", "Show several, or the band.", values
        )
    else:
        yield Finding("seeds", "ok", f"{said}.", values=values)
