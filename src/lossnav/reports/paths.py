"""Checks of a training run drawn on a chart: how much of it is drawn, and whether a random walk would look alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Finding, Level, unknown

_ROUNDED = 1e-6  # relative: losses that differ by less are equal in float32


def check(subject: Subject) -> Iterator[Finding]:
    """Check how much of a path its picture shows."""
    yield from _explained(subject)
    if subject.path is not None:
        yield _residual(subject)
        yield _shadow(subject)


def _explained(subject: Subject) -> Iterator[Finding]:
    """Compare explained variance with that of a random walk of as many steps (Antognini, Sohl-Dickstein 2018)."""
    recipes = [recipe for recipe in subject.recipes if recipe.get("kind") == "pca"]
    if not recipes:
        return
    yield _walk(recipes)
    drift = float(recipes[0].get("norm_drift", math.nan))
    if math.isnan(drift):
        because = "the recipe of the components does not record how the norm of the weights changed."
        yield unknown("norm drift", because, "Find them with this version of lossnav: ln.directions.pca(trajectory).")
    elif drift > thresholds.GROWTH:
        yield Finding(
            "norm drift",
            "note",
            f"{drift:.0%} of the path's variation is a change of the weights' norm, which has no effect before a "
            "normalisation layer.",
            "Compare with the path of weights scaled to a constant norm.",
            {"norm_drift": drift},
        )
    else:
        said = f"{drift:.1%} of the path's variation is a change of the weights' norm."
        yield Finding("norm drift", "ok", said, values={"norm_drift": drift})


def _walk(recipes: list[Mapping[str, Any]]) -> Finding:
    """Compare the variance that the components explain with that of a random walk."""
    if any("random_walk" not in recipe or recipe.get("scale") for recipe in recipes):
        because = "the components are scaled, so they explain another share of the path's variance."
        if "random_walk" not in recipes[0]:
            because = "the recipe of the components does not record the variance that they explain."
        do = "Use unscaled components: ln.directions.pca(trajectory, scale=None)."
        return unknown("random walk", because, do)
    explained, chance = (sum(float(recipe[name]) for recipe in recipes) for name in ("explained", "random_walk"))
    beyond = (explained - chance) / (1 - chance) if chance < 1 else math.nan
    values = {"explained": explained, "random_walk": chance, "beyond": beyond, "snapshots": recipes[0].get("snapshots")}
    said = f"The components explain {explained:.1%} of the path's variance, and {chance:.1%} of that of a random walk"
    if math.isnan(beyond) or chance > thresholds.NO_ROOM:
        because = f"{said[0].lower()}{said[1:]} with as few steps: with so few snapshots every path looks alike."
        return unknown("random walk", because, "Record more snapshots.", values)
    if beyond < thresholds.BELOW_A_WALK:
        return Finding(
            "random walk",
            "warning",
            f"{said}: less than for a random walk, as for a path that moves to and fro around one point. Its shape on "
            "this plane is mostly chance.",
            "Do not interpret the shape of the path; see how far it moves in all: ln.project(trajectory, chart).",
            values,
        )
    if beyond < thresholds.LIKE_A_WALK:
        return Finding(
            "random walk",
            "warning",
            f"{said}: pure diffusion gives a path of the same shape on this plane.",
            "Do not interpret the shape of the path: its turns, or a valley that it seems to follow.",
            values,
        )
    if beyond < thresholds.HARDLY_MORE:
        return Finding(
            "random walk",
            "note",
            f"{said}: of the variance that a random walk does not explain, more than half is not on this plane.",
            "Look at more components before you interpret turns of the path.",
            values,
        )
    return Finding("random walk", "ok", f"{said}.", values=values)


def _residual(subject: Subject) -> Finding:
    """Check the distance of the path from its projection."""
    assert subject.path is not None
    residual, distance = (subject.path[name].values.astype(np.float64) for name in ("residual", "distance"))
    known = np.isfinite(residual) & np.isfinite(distance)
    total = float(np.sqrt((distance[known] ** 2).sum()))
    if not total:
        because = "the path does not leave the centre."
        because = because if known.any() else "no snapshot has a finite distance from the plane."
        return unknown("off the plane", because, "Check what was recorded: a path needs snapshots during training.")
    part = float(np.sqrt((residual[known] ** 2).sum())) / total
    values = {"part": part, "largest": float(residual[known].max()), "snapshots": int(known.sum())}
    said = f"The distance of the path from the plane is {part:.0%} of its distance from the centre (root mean square)"
    if not known.all():
        said += f"; {int((~known).sum())} snapshots are not finite"
    level: Level = "ok"
    if part > thresholds.OFF_PLANE:
        level = "warning" if part > thresholds.FAR_FROM_PLANE else "note"
    if level == "ok":
        return Finding("off the plane", "ok", f"{said}.", values=values)
    return Finding(
        "off the plane",
        level,
        f"{said}: {part**2:.0%} of its variation is not drawn; the picture shows its projection.",
        "Draw it on the plane of its principal components: ln.directions.pca(trajectory).",
        values,
    )


def _shadow(subject: Subject) -> Finding:
    """Check if the surface under the path shows the loss that the run had."""
    assert subject.path is not None
    if "loss_projected" not in subject.path or "loss" not in subject.path:
        because = "the loss was not evaluated along the path."
        return unknown("shadow", because, "Evaluate it: ln.evaluate_trajectory(objective, chart, trajectory).")
    itself, below = (subject.path[name].values.astype(np.float64) for name in ("loss", "loss_projected"))
    known = np.isfinite(itself) & np.isfinite(below)
    if not known.any():
        because = "at no snapshot is the loss finite both there and at its projection."
        return unknown("shadow", because, "Compare the variables loss and loss_projected of the path.")
    apart, span = np.abs(itself - below)[known], float(np.ptp(itself[known]))
    middle = float(np.median(apart))
    part = middle / span if span > 0 else math.inf if middle > _ROUNDED * float(np.abs(itself[known]).max()) else 0.0
    values = {
        "median": middle,
        "largest": float(apart.max()),
        "range": span,
        "part": part,
        "snapshots": int(known.sum()),
    }
    some = "" if known.all() else f", of {known.sum()} of {len(known)} snapshots"
    of = f"{part:.0%} of the range of losses along the path ({span:.3g})"
    of = of if span > 0 else "while the loss is constant along the path"
    said = f"The losses at a snapshot and at its projection on the plane differ by {middle:.3g} (median{some}), {of}"
    if part > thresholds.SHADOW_LOSS:
        return Finding(
            "shadow",
            "warning",
            f"{said}, at most by {apart.max():.3g}: the surface under the path does not show the loss of the run.",
            "Take the loss of the run from the path itself (its variable loss), not from the surface.",
            values,
        )
    return Finding("shadow", "ok", f"{said}.", values=values)
