"""Checks of a training run drawn on a chart: what of it is drawn, and whether that is more than a random walk shows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lossnav.reports import thresholds
from lossnav.reports.findings import Finding, Level
from lossnav.reports.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Say what of a path its picture shows."""
    yield from _explained(subject)
    if subject.path is not None:
        yield from _residual(subject)
        yield from _shadow(subject)


def _explained(subject: Subject) -> Iterator[Finding]:
    """What principal components explain, against a random walk of the same steps (Antognini, Sohl-Dickstein 2018)."""
    recipes = [recipe for recipe in subject.recipes if recipe.get("kind") == "pca"]
    if not recipes:
        return
    explained, chance = (sum(float(recipe[name]) for recipe in recipes) for name in ("explained", "random_walk"))
    beyond = (explained - chance) / (1 - chance) if chance < 1 else 0.0
    values = {"explained": explained, "random_walk": chance, "beyond": beyond, "snapshots": recipes[0].get("snapshots")}
    said = f"The components explain {explained:.1%} of the path's variation, and {chance:.1%} of a random walk's"
    if beyond < thresholds.LIKE_A_WALK:
        yield Finding(
            "random walk",
            "warning",
            f"{said}: the shape of the path on this plane is the one that pure diffusion has.",
            "Read nothing off the path's shape here: no turns, no valley it followed.",
            values,
        )
    elif beyond < thresholds.HARDLY_MORE:
        yield Finding(
            "random walk",
            "note",
            f"{said}: half and more of what is beyond chance is not on this plane.",
            "Look at more components before you read turns off the path.",
            values,
        )
    else:
        yield Finding("random walk", "ok", f"{said}.", values=values)
    drift = float(recipes[0].get("norm_drift", 0.0))
    if drift > thresholds.GROWTH:
        yield Finding(
            "norm drift",
            "note",
            f"{drift:.0%} of the path's variation is that the weights become longer or shorter as a whole, which "
            "normalisation layers do not notice.",
            "Compare with a path of weights scaled to one norm.",
            {"norm_drift": drift},
        )
    else:
        said = f"{drift:.1%} of the path's variation is a change of the weights' norm."
        yield Finding("norm drift", "ok", said, values={"norm_drift": drift})


def _residual(subject: Subject) -> Iterator[Finding]:
    """How far the path is from what is drawn of it."""
    assert subject.path is not None
    residual, distance = (subject.path[name].values.astype(np.float64) for name in ("residual", "distance"))
    total = float(np.sqrt((distance**2).sum()))
    if not total:
        return
    part = float(np.sqrt((residual**2).sum())) / total
    values = {"part": part, "largest": float(residual.max()), "snapshots": len(residual)}
    said = f"The path is {part:.0%} of its distance from the centre away from the plane (root mean square)"
    level: Level = "ok"
    if part > thresholds.OFF_PLANE:
        level = "warning" if part > thresholds.FAR_FROM_PLANE else "note"
    if level == "ok":
        yield Finding("off the plane", "ok", f"{said}.", values=values)
        return
    yield Finding(
        "off the plane",
        level,
        f"{said}: {part**2:.0%} of its variation is not drawn, and what is drawn is a shadow.",
        "Draw it on the plane of its principal components: ln.directions.pca(trajectory).",
        values,
    )


def _shadow(subject: Subject) -> Iterator[Finding]:
    """Whether the ground under the path is the loss that the run had."""
    assert subject.path is not None
    if "loss_projected" not in subject.path:
        return
    itself, below = (subject.path[name].values.astype(np.float64) for name in ("loss", "loss_projected"))
    known = np.isfinite(itself) & np.isfinite(below) & (itself > 0) & (below > 0)
    if not known.any():
        return
    factors = np.exp(np.abs(np.log(itself[known] / below[known])))
    factor = float(np.median(factors))
    values = {"median_factor": factor, "largest_factor": float(factors.max())}
    said = f"The loss at a snapshot and at its shadow on the plane differ by a factor {factor:.3g} (median)"
    if factor > thresholds.SHADOW_LOSS:
        yield Finding(
            "shadow",
            "warning",
            f"{said}, at most {factors.max():.3g}: the ground under the path is not the loss of the run.",
            "Read the loss of the run off its own curve (the path's variable loss), not off the surface.",
            values,
        )
    else:
        yield Finding("shadow", "ok", f"{said}.", values=values)
