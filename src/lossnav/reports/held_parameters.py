"""Checks of what does not move in the picture: parameters, buffers, and the statistics of BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lossnav._utils.simplex import Triangulation
from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject, gram_of
from lossnav.reports.findings import Finding, unknown

_BY_CHANCE = 1e-6  # fraction of a tensor: a random number of 23 bits is zero once in eight million


def check(subject: Subject) -> Iterator[Finding]:
    """Check what does not move, and what BatchNorm does where the weights move."""
    if not subject.objective:
        return
    yield _still(subject)
    yield from _buffers(subject)
    yield from _train_mode(subject)
    yield from _random_numbers(subject)
    yield from _batch_norm(subject)


def _still(subject: Subject) -> Finding:
    """Check which entries no direction moves, and which parameters the objective holds constant."""
    objective, recipes, still = subject.objective, subject.recipes, subject.attrs.get("still")
    moving = {name for recipe in recipes for name in recipe.get("norms", {})}
    excluded = {name for recipe in recipes for name in recipe.get("excluded", [])} - moving
    held, moves = int(objective.get("parameters_held") or 0), objective.get("moves") or {}
    left_out = sum(int(recipe.get("filters_left_out") or 0) for recipe in recipes)
    values: dict[str, Any] = {
        "excluded": sorted(excluded),
        "parameters_held": held,
        "filters_left_out": left_out,
        "moving_tensors": len(moving),
    }
    words = []
    if excluded:
        count = len(excluded | moving | set((still or {}).get("of", {})))
        words.append(f"{len(excluded)} of {count} tensors are excluded from the directions ({_some(sorted(excluded))})")
    if still is not None:
        words += _zeros(subject, still, excluded, values)
    if held:
        names = f" ({_some(objective['held'])})" if objective.get("held") else ""
        untrained = ", which are not trained (requires_grad is False)" if moves.get("params") == "trainable" else ""
        move = f"; {int(objective['parameters']):,} may move" if "parameters" in objective else ""
        words.append(f"{held:,} parameters of the model{names} are held constant by the objective{untrained}{move}")
    if of_loss := int(objective.get("loss_parameters_held") or 0):
        words.append(f"{of_loss:,} trainable parameters of the loss are held constant")
    if left_out:
        words.append(f"{left_out} filters have fewer entries than there are directions and do not move in all of them")
    frozen = moves.get("frozen") or {}
    also = ""
    if frozen.get("numbers"):
        values |= {"frozen_that_move": dict(frozen)}
        also = (
            f" {frozen['numbers']:,} parameters that are not trained (requires_grad is False: "
            f"{_some(frozen['names'])}) may move too ({_why_frozen_moves(moves)})."
        )
    if words or also:
        said = f"{'; '.join(words)}: the picture does not show the loss along these." if words else ""
        return Finding(
            "held still",
            "note",
            f"{said}{also}".strip(),
            _how_to_move(bool(excluded), bool(held and moves.get("params") == "trainable")),
            values,
        )
    if still is None:
        because = "the surface does not record which entries of the directions are zero."
        return unknown("held still", because, "Evaluate one of lossnav's charts with this version of lossnav.", values)
    what = "entry" if subject.is_function else "parameter"
    said = f"Every {what} ({still['entries']:,}) moves along the directions."
    return Finding("held still", "ok", said, values=values)


def _why_frozen_moves(moves: Mapping[str, Any]) -> str:
    also = moves.get("also")
    return "checkpoints on the chart differ in them" if also else f"params={moves.get('params')!r}"


def _how_to_move(excluded: bool, untrained: bool) -> str:
    ways = ["exclude=() moves the excluded tensors"] if excluded else []
    ways += ['Objective(..., params="all") moves untrained parameters'] if untrained else []
    usual = "This is usual (Li et al. 2018); " if excluded else ""
    return f"{usual}{', and '.join(ways)}." if ways else "Mention it in the caption."


def _zeros(subject: Subject, still: Mapping[str, Any], excluded: set[str], values: dict[str, Any]) -> list[str]:
    """Return descriptions of entries that are zero in every direction though they are not excluded."""
    drawn = all(recipe.get("kind") == "random" for recipe in subject.recipes)
    of = {name: (int(n), int(size)) for name, (n, size) in still["of"].items() if n and name not in excluded}
    whole = [name for name, (n, size) in of.items() if n == size]
    # a random number may be zero by chance, one in some millions
    parts = [name for name, (n, size) in of.items() if n < size and not (drawn and n < size * _BY_CHANCE)]
    why = _why_zero(subject)
    words = []
    if whole:
        entries, tensors = sum(of[name][0] for name in whole), len({*still["of"], *_moving(subject)})
        many = f"{len(whole)} of {tensors} tensors ({_some(whole)}; {entries:,} {_plural(entries, 'entry', 'entries')})"
        words.append(f"{many} {_plural(len(whole), 'does', 'do')} not move{why}")
    if parts:
        entries, sizes = (sum(of[name][i] for name in parts) for i in (0, 1))
        what = f"{entries:,} of {sizes:,} entries of {_some(parts)}"
        words.append(f"{what} {_plural(entries, 'does', 'do')} not move{why}")
    left = sum(int(n) for n, _ in still["of"].values())
    values |= {"still": left, "entries": still["entries"], "whole": whole, "parts": parts}
    if (words or excluded) and left:
        words.append(f"together {left / still['entries']:.1%} of {still['entries']:,} entries")
    return words


def _why_zero(subject: Subject) -> str:
    kinds = {recipe.get("kind") for recipe in subject.recipes}
    if kinds == {"random"} and all(recipe.get("normalize") for recipe in subject.recipes):
        return " (they are zero at the centre, and the directions are scaled to it)"
    if kinds <= {"between", "through"}:
        return " (the checkpoints are equal there)"
    return ""


def _moving(subject: Subject) -> set[str]:
    return {name for recipe in subject.recipes for name in recipe.get("norms", {})}


def _plural(n: int, one: str, many: str) -> str:
    return one if n == 1 else many


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _buffers(subject: Subject) -> Iterator[Finding]:
    """Check which buffers move on a chart through checkpoints, and whose they are elsewhere."""
    said = subject.chart.get("buffers")
    if not said:
        if foreign := list(subject.attrs.get("foreign_buffers", ())):
            yield Finding(
                "buffers",
                "warning",
                f"The weights at the centre are not those of the objective, but {len(foreign)} buffers "
                f"({_some(foreign)}) are at every point: weights of one network with the statistics of another.",
                "Make the chart around objective.at(checkpoint), which has both; if the centre is not a checkpoint, "
                'pass bn="recompute".',
                {"foreign": foreign},
            )
        elif subject.surface is not None and not subject.is_function:
            yield _own_buffers(subject)
        return
    names, places = _read_and_moved(subject), [point["at"] for point in said["points"]]
    unread = [name for name in said["moved"] if name not in names]
    values = {"moved": names, "unread": unread, "others": said["others"], "places": places}
    instead = f" BatchNorm statistics are {_instead(subject)}." if subject.objective.get("buffers_unread") else ""
    if unread and not names:
        what = f"the buffers in which they differ ({len(unread)}) are BatchNorm statistics"
        words = f"{len(places)} checkpoints lie on the chart, and {what}, {_instead(subject)}: none is interpolated."
        yield Finding("buffers", "ok", words, values=values)
        return
    if not names:
        words = f"At every point the buffers are those of the chart's centre, not of the objective.{instead}"
        yield Finding("buffers", "ok", words, values=values)
        return
    where = f"{len(places)} checkpoints lie on the chart, each with its own buffers, of which {len(names)} differ"
    if unread:
        where += f", apart from BatchNorm statistics, {_instead(subject)}"
    moves = (
        f"{where} ({_some(names)}): between checkpoints they are interpolated like the weights (integers: the nearest)"
    )
    points = np.zeros((0, len(places[0]))) if subject.surface is None else subject.places
    if points.shape[1] != len(places[0]):  # a slice of the chart
        points = np.zeros((0, len(places[0])))
    outside, count = int((~Triangulation(places, gram_of(subject.chart)).holds(points)).sum()), len(points)
    if not outside:
        yield Finding("buffers", "ok", f"{moves}.", values=values)
        return
    remedy = (
        'bn="recompute" recomputes BatchNorm statistics at every point.'
        if _has_statistics_of_batch_norm(subject)
        else ""
    )
    yield Finding(
        "buffers",
        "note",
        f"{moves}. {outside:,} of {count:,} points lie outside the checkpoints: there the buffers stay "
        "constant, at the "
        "nearest interpolated values (an extrapolated variance could be negative), while the weights move.",
        f"Interpret the ends of the picture with care{'; ' if remedy else '.'}{remedy}",
        values | {"outside": outside},
    )


def _read_and_moved(subject: Subject) -> list[str]:
    """Return the buffers that differ between checkpoints and are used, without those that BatchNorm recomputes."""
    unread = set(subject.objective.get("buffers_unread") or ())
    return [name for name in subject.chart.get("buffers", {}).get("moved", ()) if name not in unread]


def _instead(subject: Subject) -> str:
    """Return where the statistics come from that BatchNorm uses instead of its buffers."""
    anew = subject.objective.get("bn") == "recompute"
    return "recomputed from the data at every point" if anew else "taken from each batch"


def _has_statistics_of_batch_norm(subject: Subject) -> bool:
    """Return whether the model has BatchNorm layers that use their running statistics."""
    return subject.objective.get("bn", "frozen") == "frozen" and bool((subject.layers or {}).get("batch_norms"))


def _own_buffers(subject: Subject) -> Finding:
    """Report the buffers of a chart without its own: those of the objective."""
    count = subject.objective.get("buffers")
    values = {"buffers": count}
    if count is None or "still" not in subject.attrs:  # older surfaces do not record whose weights the centre has
        because = "the surface does not record whether the model has buffers, and whose they are."
        return unknown("buffers", because, "Evaluate it with this version of lossnav.", values)
    if not count:
        return Finding("buffers", "ok", "The model has no buffers.", values=values)
    unread = len(subject.objective.get("buffers_unread") or ())
    values |= {"unread": unread}
    if unread == count:
        are = _plural(count, "buffer is a BatchNorm statistic", "buffers are BatchNorm statistics")
        said = f"The model's {count} {are}, {_instead(subject)}."
        return Finding("buffers", "ok", said, values=values)
    keep = _plural(count - unread, "buffer keeps", "buffers keep")
    beside = f" The {unread} others are BatchNorm statistics, {_instead(subject)}." if unread else ""
    said = f"The model's {count - unread} {keep} the objective's values at every point.{beside}"
    return Finding("buffers", "ok", said, values=values)


def _in_training(subject: Subject) -> bool:
    return bool(subject.objective.get("mode") == "train")


def _train_mode(subject: Subject) -> Iterator[Finding]:
    """Report train mode, and the seed of its noise."""
    if not _in_training(subject):
        return
    seed, draws = subject.objective.get("seed"), subject.objective.get("draws")
    if seed is None:
        because = "the network is in train mode, and the surface does not record the seed of its noise."
        yield unknown("train mode", because, "Evaluate it with this version of lossnav.")
        return
    said = "The loss is evaluated in train mode, as it is minimised in training."
    do = "Leave out mode= to evaluate the network in eval mode"
    if draws is False:
        said += " It draws no random numbers."
        yield Finding("train mode", "note", said, f"{do}.", {"seed": seed, "draws": False})
        return
    noise = "Its random numbers (dropout)" if draws else "Its random numbers, if there are any,"
    yield Finding(
        "train mode",
        "note",
        f"{said} {noise} are drawn with seed {seed}, the same at every point; in eval mode the loss is different.",
        f"{do}; another seed= shows how much the random numbers matter.",
        {"seed": seed, "draws": draws},
    )


def _random_numbers(subject: Subject) -> Iterator[Finding]:
    """Check if the loss draws random numbers in eval mode, and from which seed."""
    if _in_training(subject):
        return
    draws, seed = subject.objective.get("draws"), subject.objective.get("seed")
    if draws is None or seed is None:
        because = "the surface does not record whether the loss draws random numbers, and from which seed."
        yield unknown("random numbers", because, "Evaluate it with this version of lossnav.")
        return
    values = {"draws": draws, "seed": seed}
    if not draws:
        said = "The loss draws no random numbers from the generators of torch, NumPy and Python."
        yield Finding("random numbers", "ok", said, values=values)
        return
    such = "" if subject.is_function else " (dropout that is always on, a sampled latent variable)"
    found = subject.facts.get("redrawn") or {}
    where = f"The loss draws random numbers{such}"
    another = "may be different"
    if found:
        values |= dict(found)
        if not float(found["change"]):
            said = f"{where}, but with seed {found['seed']} instead of {seed} it is the same at the centre."
            yield Finding("random numbers", "ok", said, values=values)
            return
        another = f"differs, by {abs(float(found['change'])):.2g} at the centre with seed {found['seed']}"
    yield Finding(
        "random numbers",
        "note",
        f"{where}: the picture shows one draw, of seed {seed}, the same at every point. With another seed "
        f"it {another}.",
        f"Try other seeds (seed={int(seed) + 1}), or let the loss return the mean over many draws.",
        values,
    )


def _batch_norm(subject: Subject) -> Iterator[Finding]:
    policy, known = subject.objective.get("bn", "frozen"), subject.layers
    depends = subject.facts.get("batch_dependence")
    layers, own, others = (
        (known or {}).get(name, 0) for name in ("batch_norms", "batch_statistics", "running_statistics")
    )
    values = {"bn": policy, "layers": None if known is None else layers + own, "batch_dependence": depends}
    values |= {"own_statistics": own, "other_statistics": others}
    if policy == "batch" and layers + own:
        seen = (
            "" if depends is None else f" (in other batches losses of the same samples differ by {_of_spread(depends)})"
        )
        yield Finding(
            "batch norm",
            "note" if _in_training(subject) else "warning",
            "BatchNorm uses each batch's own statistics, as in training, so the loss depends on how the data is split "
            f"into batches{seen}: the picture is not that of the network in eval mode.",
            'Use bn="frozen" for the stored statistics, or bn="recompute" to recompute them for the weights '
            "of each point.",
            values,
        )
    elif depends is not None and float(depends) > thresholds.SAME_LOSS and not _in_training(subject):
        yield Finding(
            "batch norm",
            "warning",
            f"The loss of a sample depends on its batch: in another batch it differs by {_of_spread(depends)}, so the "
            "model uses statistics of the batch or draws random numbers.",
            "Look for track_running_stats=False, F.batch_norm(training=True), or dropout that is always on.",
            values,
        )
    elif subject.is_function:
        return  # its layers are not visible
    elif known is None:
        yield unknown(
            "batch norm",
            "the surface does not record whether the model has layers with running statistics. Such "
            "statistics stay those "
            "of the centre, which causes part of the rise far from it.",
            "Check the model, or measure it: ln.report(…, objective=objective).",
            values,
        )
    elif own:
        yield Finding(
            "batch norm",
            "note" if _in_training(subject) else "warning",
            f"{own} BatchNorm {_plural(own, 'layer has', 'layers have')} no running statistics and "
            f"{_plural(own, 'uses', 'use')} those of each batch, also in eval mode: the loss depends on how "
            "the data is "
            "split into batches.",
            "State the batch size in the caption, or use layers with statistics (track_running_stats=True).",
            values,
        )
    elif others and not layers and _in_training(subject):
        yield unknown(
            "batch norm",
            f"{others} {_plural(others, 'layer has', 'layers have')} running statistics but "
            f"{_plural(others, 'is', 'are')} not BatchNorm, so what is used in train mode cannot be seen.",
            "Check the forward pass of the layer.",
            values,
        )
    elif not layers + others:
        yield _without_statistics(subject, values)
    elif policy == "recompute" and not others:
        yield Finding(
            "batch norm",
            "ok",
            "BatchNorm statistics are recomputed from the data at every point, so that they fit the weights there.",
            values=values,
        )
    else:
        yield _frozen(subject, policy, layers, others, values)


def _of_spread(depends: Any) -> str:
    part = float(depends)
    return f"{part:.1%} of their spread" if part < float("inf") else "more than the samples differ from each other"


def _without_statistics(subject: Subject, values: dict[str, Any]) -> Finding:
    """Report on a model without BatchNorm and without buffers named like running statistics."""
    none = "the model has no BatchNorm, and no layer with buffers named running_mean or running_var"
    if not subject.objective.get("buffers", 1):
        return Finding("batch norm", "ok", f"{none[0].upper()}{none[1:]}: it has no buffers at all.", values=values)
    own = (subject.layers or {}).get("own_buffers")
    if own is None:
        because = f"{none}, but the surface does not record what its other buffers are."
        return unknown("batch norm", because, "Evaluate it with this version of lossnav.", values)
    values |= {"own_buffers": dict(own)}
    if not own["tensors"]:
        said = f"{none[0].upper()}{none[1:]}, and no other floating-point buffers that could be statistics."
        return Finding("batch norm", "ok", said, values=values)
    many = f"{own['tensors']} other floating-point {_plural(own['tensors'], 'buffer', 'buffers')}"
    names = ", ".join(own["names"]) + (", …" if own["tensors"] > len(own["names"]) else "")
    return unknown(
        "batch norm",
        f"{none}, but {many} ({names}), which may be statistics of the data. Statistics would stay constant while the "
        "weights move.",
        "Check these buffers: constants are harmless.",
        values,
    )


def _frozen(subject: Subject, policy: str, layers: int, others: int, values: dict[str, Any]) -> Finding:
    """Report statistics that stay constant while the weights move."""
    count = others if policy == "recompute" else layers + others
    which = "BatchNorm" if not others else "normalisation" if layers else "other normalisation"
    names = f"{count} {which} {_plural(count, 'layer', 'layers')}"
    do = "Interpret the rise far from the centre with care: only the weights move."
    if policy != "recompute" and layers:
        do = 'If the rise far from the centre matters, compare with bn="recompute".'
    if _read_and_moved(subject):
        return Finding(
            "batch norm",
            "note",
            f"{names} {_plural(count, 'has', 'have')} the statistics of each checkpoint there and interpolated ones "
            "between, which do not fit the activations there: this may cause part of a barrier.",
            'Compare with bn="recompute" before you measure a barrier.' if layers else do,
            values,
        )
    return Finding(
        "batch norm",
        "note",
        f"{names} {_plural(count, 'keeps', 'keep')} the statistics of the centre. They fit the "
        "activations less and less "
        "with the distance from it, which causes part of the rise.",
        do,
        values,
    )
