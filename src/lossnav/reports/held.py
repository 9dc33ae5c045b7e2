"""Checks of what the picture holds still: parameters, buffers, and the statistics of BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator

from lossnav.reports import thresholds
from lossnav.reports.findings import Finding
from lossnav.reports.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Say what does not move, and what BatchNorm does where the weights do."""
    if not subject.objective:
        return
    yield _still(subject)
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
    if left_out:
        words.append(f"{left_out} filters too small for so many directions do not move in all of them")
    if not words:
        said = "Every parameter moves along the directions; buffers stay, as always."
        return Finding("held still", "ok", said, values=values)
    return Finding(
        "held still",
        "note",
        f"{'; '.join(words)}: the picture says nothing of the loss along them.",
        "That is usual (Li et al. 2018); exclude=() moves everything.",
        values,
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
