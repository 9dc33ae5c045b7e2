"""Checks of the directions: their angles, lengths, and invariance under rescaling of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Finding, Level, unknown
from lossnav.surface.variables import is_rescaled

_INVARIANT = ("filter", "layer", "weight")  # normalisations that scale with the weights of a layer


def check(subject: Subject) -> Iterator[Finding]:
    """Check what norms, cosines and scaling of the directions do to the picture."""
    if not subject.recipes:
        return
    yield from _angles(subject)
    yield _lengths(subject)
    yield _in_one_tensor(subject)
    if subject.surface is not None:
        yield _radial(subject)
        yield from _scale(subject)


def _charts(subject: Subject) -> list[Mapping[str, Any]]:
    """Return the chart, or the charts of all seeds."""
    return list(subject.attrs.get("ensemble", {}).get("charts", [subject.chart]))


def _angles(subject: Subject) -> Iterator[Finding]:
    cosines = [
        (abs(float(cosine)), float(cosine), pair)
        for chart in _charts(subject)
        for pair, cosine in chart.get("cosines", {}).items()
        if math.isfinite(float(cosine))
    ]
    if len(subject.recipes) < 2:
        return
    if not cosines:
        because = "the chart does not record the angles between its directions."
        yield unknown("angles", because, "Compute their cosines: ln.directions.cosines(chart.directions).")
        return
    size, cosine, pair = max(cosines)
    names = " and ".join(subject.dims[int(i)] for i in pair.split(","))
    values = {"cosine": cosine, "pair": pair}
    if size <= thresholds.NOT_ORTHOGONAL:
        how = "orthogonal" if size <= thresholds.ORTHOGONAL else "nearly orthogonal"
        yield Finding("angles", "ok", f"The directions are {how} (cosine {cosine:.1g}).", values=values)
        return
    level: Level = "warning" if size > thresholds.NEARLY_PARALLEL else "note"
    ratio = ((1 + size) / max(1 - size, 1e-12)) ** 0.5
    yield Finding(
        "angles",
        level,
        f"The directions of {names} have cosine {cosine:.2f}: a circle in the {subject.weights} is drawn as an ellipse "
        f"of {ratio:.2g} : 1" + (", so both axes show nearly the same direction." if level == "warning" else "."),
        "Use orthogonal directions (orthogonal=True, the default), or do not interpret angles in the picture.",
        values,
    )


def _lengths(subject: Subject) -> Finding:
    of_charts = [[recipe.get("norm") for recipe in chart.get("directions", [])] for chart in _charts(subject)]
    if not all(norms and all(norms) for norms in of_charts):
        because = "the chart does not record the lengths of its directions."
        return unknown("lengths", because, "Compute them: lossnav.params.norm(direction).")
    norms = max(([float(norm) for norm in each] for each in of_charts), key=lambda each: max(each) / min(each))
    words, values = ", ".join(f"{norm:.4g}" for norm in norms), {"norms": norms}
    ratio, length = max(norms) / min(norms), subject.chart.get("center_norm")
    center = f"; the {subject.weights} at the centre have length {float(length):.4g}" if length else ""
    if is_rescaled(subject.chart):
        said = (
            f"The chart scales its directions to the norms of the weights, so their own lengths ({words}) "
            "have no effect"
        )
        return Finding("lengths", "ok", f"{said}{center}.", values=values)
    if ratio <= thresholds.UNEQUAL:
        alike = f"The direction has length {words}"
        alike = alike if len(norms) == 1 else f"The lengths of the directions are similar ({words})"
        return Finding("lengths", "ok", f"{alike}{center}.", values=values)
    return Finding(
        "lengths",
        "warning" if ratio > thresholds.VERY_UNEQUAL else "note",
        f"The directions have lengths {words}, so the same curvature of the loss looks {ratio**2:.3g} times as strong "
        "along one axis as along the other.",
        f"Scale the directions to the same length, or compare curvature in units of {subject.weights} "
        "(ln.evaluate_curvature).",
        values,
    )


def _in_one_tensor(subject: Subject) -> Finding:
    shares = []
    for dim, recipe in zip(subject.dims, subject.recipes, strict=False):
        norms = {name: float(norm) for name, norm in recipe.get("norms", {}).items()}
        if not norms:
            because = f"the recipe of {dim} does not record its length in each tensor."
            return unknown("one tensor", because, "Compute the lengths: lossnav.params.norms(direction).")
        name = max(norms, key=lambda each: norms[each])
        shares.append((norms[name] ** 2 / sum(norm**2 for norm in norms.values()), name, len(norms), dim))
    share, name, count, dim = max(shares)
    values = {"dim": dim, "tensor": name, "share": share}
    total = max(_tensors(subject), count)
    if share > thresholds.ONE_TENSOR and total > 1:
        return Finding(
            "one tensor",
            "note",
            f'{share:.0%} of the squared length of the direction of {dim} is in "{name}", one of {total} tensors: the '
            "picture mostly shows that tensor.",
            "Leave it out with exclude=, or restrict the objective to it with params= and mention it in the caption.",
            values,
        )
    said = f'No direction has more than {share:.0%} of its squared length in one tensor ("{name}").'
    if total == 1:
        said = f'There is only one tensor ("{name}").'
    return Finding("one tensor", "ok", said, values=values)


def _tensors(subject: Subject) -> int:
    """Return the number of tensors of the chart that the attributes name."""
    still = (subject.attrs.get("still") or {}).get("of") or {}
    named = {name for recipe in subject.recipes for key in ("norms", "excluded") for name in recipe.get(key, ())}
    return len(named | set(still))


def _radial(subject: Subject) -> Finding:
    cosines, dims = subject.facts.get("cosines_with_weights"), subject.dims
    if not cosines or subject.chart.get("center_norm") == 0:
        because = "the cosines of the directions with the {0} were not measured."
        do = subject.how_to_measure
        if subject.chart.get("center_norm") == 0:
            because, do = "the {0} at the centre are zero and have no direction.", "Move the centre to other {0}."
        elif subject.facts:
            because, do = "the chart was missing when the rest was measured.", "Pass it: chart=."
        return unknown("radial", because.format(subject.weights), do.format(subject.weights))
    worst = max(cosines, key=lambda cosine: abs(float(cosine)))
    dim, values = dims[cosines.index(worst)], {"cosines": cosines}
    if abs(float(worst)) <= thresholds.RADIAL:
        said = (
            f"The directions have cosine {float(worst):.2g} with the {subject.weights} at most: they do not "
            "just rescale them."
        )
        return Finding("radial", "ok", said, values=values)
    unseen = ", which has no effect before a normalisation layer" if _is_normalized(subject) else ""
    return Finding(
        "radial",
        "note",
        f"The direction of {dim} has cosine {float(worst):.2f} with the {subject.weights}: along it mostly their norm "
        f"changes{unseen}.",
        f"Also look along a direction orthogonal to the {subject.weights}.",
        values,
    )


# ---------------------------------------------------------------------- scale


def _is_normalized(subject: Subject) -> bool:
    layers = subject.layers or {}
    names = ("batch_norms", "batch_statistics", "running_statistics", "norm_tensors")
    return any(layers.get(name) for name in names)


def _scale(subject: Subject) -> Iterator[Finding]:
    """Check if rescaling layers, which leaves the function of the network the same, changes the picture."""
    if subject.is_function:
        return  # its layers are not visible
    recipes, found, layers = subject.recipes, subject.facts.get("rescaling", {}), subject.layers
    kinds = [recipe.get("kind") for recipe in recipes]
    plain = [recipe for recipe in recipes if recipe.get("kind") == "random" and not recipe.get("normalize")]
    values = {"normalize": [recipe.get("normalize") for recipe in recipes], **found}
    if found.get("multiplied"):
        yield _rescaled(found, values)
        return
    if is_rescaled(subject.chart) and all(kind == "random" for kind in kinds):
        said = (
            "Each tensor of the directions is scaled to the norm of its weights, so rescaling layers does not change "
        )
        yield Finding("scale", "ok", said + "the picture.", values=values)
        return
    if all(recipe.get("normalize") in _INVARIANT for recipe in recipes):
        how = str(recipes[0]["normalize"])
        said = f"The directions are {how}-normalised, so rescaling layers does not change the picture."
        yield Finding("scale", "ok", said, values=values)
        return
    symmetry = _symmetry(subject)
    if symmetry is None:
        yield Finding("scale", "ok", _without_symmetry(found, layers), values=values)
    elif not symmetry:
        yield unknown(
            "scale",
            "the directions do not scale with the weights, and it was not measured whether this network has "
            "layers that "
            "can be rescaled without changing its function.",
            subject.how_to_measure,
            values,
        )
    elif plain:
        yield Finding(
            "scale",
            "warning",
            f"The random directions are not normalised. {symmetry} the network computes the same function but has a "
            "different picture, so a flat or sharp picture says nothing about the network.",
            'Draw them with normalize="filter", and compare networks only with such directions.',
            values,
        )
    else:
        yield Finding(
            "scale",
            "note",
            f"The directions do not scale with the weights. {symmetry} the network computes the same function, so "
            "lengths and curvature belong to these weights, not to the function.",
            "Compare shapes along paths of this network only; do not compare sharpness between networks.",
            values,
        )


def _symmetry(subject: Subject) -> str | None:
    """Return how this network can be rescaled without changing its function; empty if unknown, None if it cannot."""
    layers, tried = subject.layers, subject.facts.get("rescaling", {}).get("tried", 0)
    if _is_normalized(subject):
        return "If the weights before a normalisation layer (and its statistics) are multiplied,"
    if tried or (layers is not None and layers["weights"] < 2):
        return None
    if layers is not None and layers["rectifiers"]:
        return "If a layer before a ReLU is multiplied and the next one divided,"
    return ""


def _without_symmetry(found: Mapping[str, Any], layers: Mapping[str, int] | None) -> str:
    if layers is not None and layers["weights"] < 2:
        return "The parameters that move contain no two layers that could be rescaled."
    tried = f"{found['tried']} pair{'' if found['tried'] == 1 else 's'} of consecutive layers"
    return f"Multiplying one layer and dividing the next changes the loss in each of the {tried} tested."


def _rescaled(found: Mapping[str, Any], values: Mapping[str, Any]) -> Finding:
    """Return what the rescaled twin, which computes the same function, shows about the picture."""
    pair = f'Multiplying "{found["multiplied"]}" by {found["factor"]:g} and dividing "{found["divided"]}" by it'
    same = f"leaves the loss the same ({found['loss']:.4g}, {found['loss_rescaled']:.4g})"
    change = found.get("picture_changes")
    before, after = (f"{float(found[name]):.3g}" for name in ("lambda_max", "lambda_max_rescaled"))
    moved = f"while λmax changes from {before} to {after}"
    if change is None:
        return Finding(
            "scale",
            "note",
            f"{pair} {same}, {moved}: lengths and curvature belong to these weights, not to the function.",
            "Do not compare the sharpness of networks by λmax, the trace or these directions.",
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
        f"{pair} {same}, but changes the curvature of this picture by {float(change):.0%} ({moved}): a flat or sharp "
        "picture says nothing about the network.",
        'Draw the directions with normalize="filter", and compare networks only with such directions.',
        values,
    )
