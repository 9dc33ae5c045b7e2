"""Checks of what the picture holds still: parameters, buffers, and the statistics of BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lossnav.reports import thresholds
from lossnav.reports.findings import Finding
from lossnav.reports.subject import Subject, gram_of
from lossnav.simplex import Triangulation


def check(subject: Subject) -> Iterator[Finding]:
    """Say what does not move, and what BatchNorm does where the weights do."""
    if not subject.objective:
        return
    yield _still(subject)
    yield from _buffers(subject)
    yield from _batch_norm(subject)


def _still(subject: Subject) -> Finding:
    objective, recipes = subject.objective, subject.recipes
    moving = {name for recipe in recipes for name in recipe.get("norms", {})}
    excluded = sorted({name for recipe in recipes for name in recipe.get("excluded", [])} - moving)
    held, left_out = (
        int(objective.get("parameters_held") or 0),
        sum(int(r.get("filters_left_out") or 0) for r in recipes),
    )
    values = {
        "excluded": excluded,
        "parameters_held": held,
        "filters_left_out": left_out,
        "moving_tensors": len(moving),
    }
    words = []
    if excluded:
        some = ", ".join(excluded[:3]) + (", …" if len(excluded) > 3 else "")
        words.append(f"{len(excluded)} of {len(excluded) + len(moving)} tensors stay at the centre ({some})")
    if held:
        words.append(f"{held:,} parameters of the model are held by the objective")
    if of_loss := int(objective.get("loss_parameters_held") or 0):
        words.append(f"{of_loss:,} trainable parameters of the loss are held")
    if left_out:
        words.append(f"{left_out} filters too small for so many directions do not move in all of them")
    if not words:
        stay = "" if subject.chart.get("buffers", {}).get("moved") else "; buffers stay"
        said = f"Every parameter moves along the directions{stay}."
        return Finding("held still", "ok", said, values=values)
    return Finding(
        "held still",
        "note",
        f"{'; '.join(words)}: the picture says nothing of the loss along them.",
        "That is usual (Li et al. 2018); exclude=() moves everything.",
        values,
    )


def _buffers(subject: Subject) -> Iterator[Finding]:
    """Of a chart through checkpoints: which buffers move, and where they are nobody's own."""
    said = subject.chart.get("buffers")
    if not said:
        if foreign := list(subject.attrs.get("foreign_buffers", ())):
            some = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
            yield Finding(
                "buffers",
                "warning",
                f"The weights at the centre are not the objective's, and its {len(foreign)} buffers ({some}) stay the "
                "objective's at every point: weights of one network with the statistics of another.",
                "Make the chart around objective.at(checkpoint), which has both; where the centre is no checkpoint, "
                'pass bn="recompute".',
                {"foreign": foreign},
            )
        return
    names, places = [*said["moved"]], [point["at"] for point in said["points"]]
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    values = {"moved": names, "others": said["others"], "places": places}
    if not names:
        yield Finding(
            "buffers", "ok", "The buffers are those of the chart's centre, not of the objective, at every point.",
            values=values,
        )  # fmt: skip
        return
    where = f"{len(places)} checkpoints lie on the chart, each with its own buffers, and {len(names)} of these differ"
    moves = f"{where} ({some}): between them they are interpolated as the weights are (integers: the nearest)"
    points = np.zeros((0, len(places[0]))) if subject.surface is None else subject.places
    if points.shape[1] != len(places[0]):  # a slice of the chart
        points = np.zeros((0, len(places[0])))
    outside, count = int((~Triangulation(places, gram_of(subject.chart)).holds(points)).sum()), len(points)
    if not outside:
        yield Finding("buffers", "ok", f"{moves}.", values=values)
        return
    yield Finding(
        "buffers",
        "note",
        f"{moves}. {outside:,} of {count:,} points lie outside, where buffers are held at the nearest point between "
        "checkpoints (an extrapolated variance could be negative), so the weights move on alone.",
        'Read the ends of the picture with care; bn="recompute" makes BatchNorm statistics anew at every point.',
        values | {"outside": outside},
    )


def _batch_norm(subject: Subject) -> Iterator[Finding]:
    policy, layers = subject.objective.get("bn", "frozen"), subject.facts.get("batch_norms")
    depends = subject.facts.get("batch_dependence")
    values = {"bn": policy, "layers": layers, "batch_dependence": depends}
    if policy == "batch" and layers != 0:
        seen = (
            "" if depends is None else f" (in other batches that of the same samples differs by {float(depends):.1%})"
        )
        yield Finding(
            "batch norm",
            "warning",
            "BatchNorm takes each batch's own statistics, as in training, so the loss depends on how the data is "
            f"cut into batches{seen}: this is no surface of the network that is used.",
            'Use bn="frozen" for the network as it is, or bn="recompute" for one whose statistics follow the weights.',
            values,
        )
    elif depends is not None and float(depends) > thresholds.SAME_LOSS:
        yield Finding(
            "batch norm",
            "warning",
            f"The loss of a sample depends on its batch: in other company it differs by {float(depends):.1%}, so "
            "something in the model takes statistics of the batch, or draws random numbers, though it is in eval mode.",
            "Look for track_running_stats=False, F.batch_norm(training=True), or dropout that is always on.",
            values,
        )
    elif layers == 0:
        yield Finding("batch norm", "ok", "The model has no BatchNorm.", values=values)
    elif policy == "recompute":
        yield Finding(
            "batch norm",
            "ok",
            "BatchNorm statistics are made anew from the data at every point, so each is a network as training "
            "leaves it.",
            values=values,
        )
    elif layers and subject.chart.get("buffers", {}).get("moved"):
        yield Finding(
            "batch norm",
            "note",
            f"{layers} BatchNorm layers have each checkpoint's statistics there and interpolated ones between, which "
            "are not those of the activations there: part of a barrier may be only that.",
            'Compare with bn="recompute" before a barrier is read off.',
            values,
        )
    elif layers:
        yield Finding(
            "batch norm",
            "note",
            f"{layers} BatchNorm layers keep the statistics of the centre, so the further from it, the less the "
            "activations fit them: part of the rise is only that.",
            'Compare with bn="recompute" where the rise far from the centre matters.',
            values,
        )
    else:
        yield Finding(
            "batch norm",
            "note",
            "If the model has BatchNorm it keeps the statistics of the centre, and part of the rise far from it "
            "is only that.",
            'Compare with bn="recompute" if it has such layers; ln.report(…, objective=objective) says whether it has.',
            values,
        )
