"""Checks of the directions: whether the picture's axes are what they look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lossnav.reports import thresholds
from lossnav.reports.findings import Finding, Level
from lossnav.reports.subject import Subject

_RESCALED = ("RescaledLine", "RescaledBilinear")  # charts that scale their directions to the weights, tensor by tensor
_INVARIANT = ("filter", "layer", "weight")  # normalisations that follow when a layer is multiplied


def check(subject: Subject) -> Iterator[Finding]:
    """Say what norms, cosines and scaling of the directions do to the picture."""
    if not subject.recipes:
        return
    yield from _angles(subject)
    yield from _lengths(subject)
    yield from _in_one_tensor(subject)
    yield from _radial(subject)
    yield _scale(subject)


def _charts(subject: Subject) -> list[Mapping[str, Any]]:
    """The chart, or those of every seed."""
    return list(subject.attrs.get("ensemble", {}).get("charts", [subject.chart]))


def _angles(subject: Subject) -> Iterator[Finding]:
    cosines = [
        (abs(float(cosine)), float(cosine), pair)
        for chart in _charts(subject)
        for pair, cosine in chart.get("cosines", {}).items()
    ]
    if not cosines:
        return
    size, cosine, pair = max(cosines)
    names = " and ".join(subject.dims[int(i)] for i in pair.split(","))
    values = {"cosine": cosine, "pair": pair}
    if size <= thresholds.NOT_ORTHOGONAL:
        yield Finding("angles", "ok", f"The directions are orthogonal (cosine {cosine:.1g}).", values=values)
        return
    level: Level = "warning" if size > thresholds.NEARLY_PARALLEL else "note"
    ratio = ((1 + size) / max(1 - size, 1e-12)) ** 0.5
    yield Finding(
        "angles",
        level,
        f"The directions of {names} have cosine {cosine:.2f}: a circle in the weights is drawn as an ellipse of "
        f"{ratio:.2g} : 1"
        + (", so both axes show nearly one direction and a thin sliver beside it." if level == "warning" else "."),
        "Draw directions that are orthogonal (orthogonal=True, the default), or read no angles off the picture.",
        values,
    )


def _lengths(subject: Subject) -> Iterator[Finding]:
    norms = [float(recipe["norm"]) for recipe in subject.recipes if recipe.get("norm")]
    if not norms:
        return
    words, values = ", ".join(f"{norm:.4g}" for norm in norms), {"norms": norms}
    ratio = max(norms) / min(norms)
    if ratio <= thresholds.UNEQUAL or subject.chart.get("kind") in _RESCALED:
        alike = f"Their lengths are alike ({words})" if len(norms) > 1 else f"The direction has length {words}"
        length = subject.chart.get("center_norm")
        yield Finding(
            "lengths", "ok", alike + (f"; the weights have {float(length):.4g}." if length else "."), values=values
        )
        return
    yield Finding(
        "lengths",
        "warning" if ratio > thresholds.VERY_UNEQUAL else "note",
        f"The directions have lengths {words}, so the same curvature of the loss is drawn {ratio**2:.3g} times as "
        "strong along one axis as along the other.",
        "Scale the directions to one length, or compare curvature in units of weights (ln.curvature.on_chart).",
        values,
    )


def _in_one_tensor(subject: Subject) -> Iterator[Finding]:
    for dim, recipe in zip(subject.dims, subject.recipes, strict=False):
        norms = {name: float(norm) for name, norm in recipe.get("norms", {}).items()}
        total = sum(norm**2 for norm in norms.values())
        if len(norms) < 3 or not total:
            continue
        name = max(norms, key=lambda each: norms[each])
        share = norms[name] ** 2 / total
        if share > thresholds.ONE_TENSOR:
            yield Finding(
                "one tensor",
                "note",
                f'{share:.0%} of the squared length of the direction of {dim} is in "{name}", one of {len(norms)} '
                "tensors: "
                "the picture is mostly one of that tensor.",
                "Leave it out with exclude=, or restrict the objective to it with params= and say so.",
                {"dim": dim, "tensor": name, "share": share},
            )


def _radial(subject: Subject) -> Iterator[Finding]:
    cosines = subject.facts.get("cosines_with_weights")
    if not cosines:
        return
    worst = max(cosines, key=lambda cosine: abs(float(cosine)))
    dim, values = subject.dims[cosines.index(worst)], {"cosines": cosines}
    if abs(float(worst)) <= thresholds.RADIAL:
        said = f"They do not lead along the weights themselves (cosine {float(worst):.2g} at most)."
        yield Finding("radial", "ok", said, values=values)
        return
    yield Finding(
        "radial",
        "note",
        f"The direction of {dim} has cosine {float(worst):.2f} with the weights: along it they mostly become longer or "
        "shorter, which a network with normalisation layers does not even notice.",
        "Look along a direction orthogonal to the weights too.",
        values,
    )


def _scale(subject: Subject) -> Finding:
    """Whether the picture changes where a layer is multiplied and the next one divided, and the network does not."""
    recipes, found = subject.recipes, subject.facts.get("rescaling", {})
    plain = [recipe for recipe in recipes if recipe.get("kind") == "random" and not recipe.get("normalize")]
    follows = all(recipe.get("normalize") in _INVARIANT for recipe in recipes)
    values = {"normalize": [recipe.get("normalize") for recipe in recipes], **found}
    if found.get("multiplied"):
        return _rescaled(found, values)
    if subject.chart.get("kind") in _RESCALED and all(recipe.get("kind") == "random" for recipe in recipes):
        said = "Each tensor of the directions has the norm of the weights' own, so the picture follows when a layer is "
        return Finding("scale", "ok", said + "multiplied and the next one divided.", values=values)
    if plain:
        return Finding(
            "scale",
            "warning",
            "The random directions are not normalised: a ReLU network with one layer multiplied and the next one "
            "divided computes the same and has another picture, so flat or sharp here says nothing of the network.",
            'Draw them with normalize="filter", and compare networks on such pictures only.',
            values,
        )
    if follows:
        how = str(recipes[0]["normalize"])
        said = (
            f"The directions are {how}-normalised, so they follow when a layer is multiplied and the next one divided."
        )
        return Finding("scale", "ok", said, values=values)
    return Finding(
        "scale",
        "note",
        "The directions do not follow when a layer is multiplied and the next one divided, which leaves a ReLU "
        "network the same: lengths and curvature are those of these weights, not of the function.",
        "Compare shapes along one path of one network, and no sharpness between networks.",
        values,
    )


def _rescaled(found: Mapping[str, Any], values: Mapping[str, Any]) -> Finding:
    """What a twin of the network that computes the same says of the picture."""
    pair = f'"{found["multiplied"]}" times {found["factor"]:g} and "{found["divided"]}" divided by it'
    same = f"leave the loss as it is ({found['loss']:.4g}, {found['loss_rescaled']:.4g})"
    change = found.get("picture_changes")
    before, after = (f"{float(found[name]):.3g}" for name in ("lambda_max", "lambda_max_rescaled"))
    moved = f"while λmax goes from {before} to {after}"
    if change is None:
        return Finding(
            "scale",
            "note",
            f"{pair} {same}, {moved}: lengths and curvature are those of these weights, not of the function.",
            "Compare no sharpness between networks by λmax, the trace or these directions.",
            values,
        )
    if float(change) <= thresholds.RESCALED:
        return Finding(
            "scale",
            "ok",
            f"{pair} {same}, {moved}; the curvature of this picture changes by {float(change):.1%}.",
            values=values,
        )
    return Finding(
        "scale",
        "warning",
        f"{pair} {same}, and the curvature of this picture changes by {float(change):.0%} ({moved}): flat or "
        "sharp here says nothing of the network.",
        'Draw the directions with normalize="filter", and compare networks on such pictures only.',
        values,
    )
