"""Checks of a training run drawn on a chart: what of it is drawn, and whether that is more than a random walk shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Finding, Level, unknown

_ROUNDED = 1e-6  # relative: losses that differ by no more are the same in float32


def check(subject: Subject) -> Iterator[Finding]:
    """Say what of a path its picture shows."""
    yield from _explained(subject)
    if subject.path is not None:
        yield _residual(subject)
        yield _shadow(subject)


def _explained(subject: Subject) -> Iterator[Finding]:
    """What principal components explain, against a random walk of the same steps (Antognini, Sohl-Dickstein 2018)."""
    recipes = [recipe for recipe in subject.recipes if recipe.get("kind") == "pca"]
    if not recipes:
        return
    yield _walk(recipes)
    drift = float(recipes[0].get("norm_drift", math.nan))
    if math.isnan(drift):
        because = "the recipe of the components does not say how the norm of the weights changed."
        yield unknown("norm drift", because, "Find them with this version of lossnav: ln.directions.pca(trajectory).")
    elif drift > thresholds.GROWTH:
        yield Finding(
            "norm drift",
            "note",
            f"{drift:.0%} of the path's variation is that the weights become longer or shorter as a whole, which "
            "a normalisation layer after them does not notice.",
            "Compare with a path of weights scaled to one norm.",
            {"norm_drift": drift},
        )
    else:
        said = f"{drift:.1%} of the path's variation is a change of the weights' norm."
        yield Finding("norm drift", "ok", said, values={"norm_drift": drift})


def _walk(recipes: list[Mapping[str, Any]]) -> Finding:
    """Whether the components explain more than they do of a random walk; a path that stays at one place has less."""
    if any("random_walk" not in recipe or recipe.get("scale") for recipe in recipes):
        why = (
            "does not say what they explain" if "random_walk" not in recipes[0] else "is of components that are scaled"
        )
        because = f"the recipe {why}, and what these explain of the path is another part."
        do = "Take components as they are, ln.directions.pca(trajectory, scale=None), to compare with a random walk."
        return unknown("random walk", because, do)
    explained, chance = (sum(float(recipe[name]) for recipe in recipes) for name in ("explained", "random_walk"))
    beyond = (explained - chance) / (1 - chance) if chance < 1 else math.nan
    values = {"explained": explained, "random_walk": chance, "beyond": beyond, "snapshots": recipes[0].get("snapshots")}
    said = f"The components explain {explained:.1%} of the path's variation, and {chance:.1%} of a random walk's"
    if math.isnan(beyond) or chance > thresholds.NO_ROOM:
        because = f"{said[0].lower()}{said[1:]} of as few steps: so few snapshots look alike whatever the path."
        return unknown("random walk", because, "Record more snapshots.", values)
    if beyond < thresholds.BELOW_A_WALK:
        return Finding(
            "random walk",
            "warning",
            f"{said}: less than of a walk, as of a path that goes to and fro about one place. What this plane shows of "
            "it is mostly chance.",
            "Read nothing off the path's shape here; look how far it goes in all: ln.project(trajectory, chart).",
            values,
        )
    if beyond < thresholds.LIKE_A_WALK:
        return Finding(
            "random walk",
            "warning",
            f"{said}: the shape of the path on this plane is the one that pure diffusion has.",
            "Read nothing off the path's shape here: no turns, no valley it followed.",
            values,
        )
    if beyond < thresholds.HARDLY_MORE:
        return Finding(
            "random walk",
            "note",
            f"{said}: half and more of what is beyond chance is not on this plane.",
            "Look at more components before you read turns off the path.",
            values,
        )
    return Finding("random walk", "ok", f"{said}.", values=values)


def _residual(subject: Subject) -> Finding:
    """How far the path is from what is drawn of it."""
    assert subject.path is not None
    residual, distance = (subject.path[name].values.astype(np.float64) for name in ("residual", "distance"))
    known = np.isfinite(residual) & np.isfinite(distance)
    total = float(np.sqrt((distance[known] ** 2).sum()))
    if not total:
        because = "the path does not leave the centre." if known.any() else "no snapshot has a finite distance from it."
        return unknown("off the plane", because, "Look at what was recorded: a path needs snapshots of training.")
    part = float(np.sqrt((residual[known] ** 2).sum())) / total
    values = {"part": part, "largest": float(residual[known].max()), "snapshots": int(known.sum())}
    said = f"The path is {part:.0%} of its distance from the centre away from the plane (root mean square)"
    if not known.all():
        said += f"; of {int((~known).sum())} snapshots that is not known"
    level: Level = "ok"
    if part > thresholds.OFF_PLANE:
        level = "warning" if part > thresholds.FAR_FROM_PLANE else "note"
    if level == "ok":
        return Finding("off the plane", "ok", f"{said}.", values=values)
    return Finding(
        "off the plane",
        level,
        f"{said}: {part**2:.0%} of its variation is not drawn, and what is drawn is a shadow.",
        "Draw it on the plane of its principal components: ln.directions.pca(trajectory).",
        values,
    )


def _shadow(subject: Subject) -> Finding:
    """Whether the ground under the path is the loss that the run had."""
    assert subject.path is not None
    if "loss_projected" not in subject.path or "loss" not in subject.path:
        because = "the loss was not evaluated along the path."
        return unknown("shadow", because, "Evaluate it: ln.evaluate_trajectory(objective, chart, trajectory).")
    itself, below = (subject.path[name].values.astype(np.float64) for name in ("loss", "loss_projected"))
    known = np.isfinite(itself) & np.isfinite(below)
    if not known.any():
        because = "the loss is finite both at a snapshot and at its shadow nowhere."
        return unknown("shadow", because, "Compare the variables loss and loss_projected of the path themselves.")
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
    of = (
        f"{part:.0%} of the range of losses along the path ({span:.3g})"
        if span > 0
        else "and along the path not at all"
    )
    said = f"The loss at a snapshot and at its shadow on the plane differ by {middle:.3g} (median{some}), {of}"
    if part > thresholds.SHADOW_LOSS:
        return Finding(
            "shadow",
            "warning",
            f"{said}, at most by {apart.max():.3g}: the ground under the path is not the loss of the run.",
            "Read the loss of the run off its own curve (the path's variable loss), not off the surface.",
            values,
        )
    return Finding("shadow", "ok", f"{said}.", values=values)
