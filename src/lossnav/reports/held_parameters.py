"""Checks of what the picture holds still: parameters, buffers, and the statistics of BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lossnav._utils.simplex import Triangulation
from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject, gram_of
from lossnav.reports.findings import Finding, unknown

_BY_CHANCE = 1e-6  # part of a tensor: numbers of 23 bits are zero once in eight millions


def check(subject: Subject) -> Iterator[Finding]:
    """Say what does not move, and what BatchNorm does where the weights do."""
    if not subject.objective:
        return
    yield _still(subject)
    yield from _buffers(subject)
    yield from _train_mode(subject)
    yield from _random_numbers(subject)
    yield from _batch_norm(subject)


def _still(subject: Subject) -> Finding:
    """Which entries no direction moves, by name and number, and what the objective holds."""
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
        words.append(f"{len(excluded)} of {count} tensors are left out of the directions ({_some(sorted(excluded))})")
    if still is not None:
        words += _zeros(subject, still, excluded, values)
    if held:
        names = f" ({_some(objective['held'])})" if objective.get("held") else ""
        untrained = ", which are not trained (requires_grad is False)" if moves.get("params") == "trainable" else ""
        move = f"; {int(objective['parameters']):,} may move" if "parameters" in objective else ""
        words.append(f"{held:,} parameters of the model{names} are held by the objective{untrained}{move}")
    if of_loss := int(objective.get("loss_parameters_held") or 0):
        words.append(f"{of_loss:,} trainable parameters of the loss are held")
    if left_out:
        words.append(f"{left_out} filters too small for so many directions do not move in all of them")
    frozen = moves.get("frozen") or {}
    also = ""
    if frozen.get("numbers"):
        values |= {"frozen_that_move": dict(frozen)}
        also = (
            f" {frozen['numbers']:,} parameters that are not trained (requires_grad is False: "
            f"{_some(frozen['names'])}) belong to what may move ({_why_frozen_moves(moves)})."
        )
    if words or also:
        said = f"{'; '.join(words)}: the picture says nothing of the loss along them." if words else ""
        return Finding(
            "held still",
            "note",
            f"{said}{also}".strip(),
            _how_to_move(bool(excluded), bool(held and moves.get("params") == "trainable")),
            values,
        )
    if still is None:
        because = "nothing says which entries of the directions are zero."
        return unknown("held still", because, "Evaluate a chart of ours with this version of lossnav.", values)
    what = "entry" if subject.is_function else "parameter"
    said = f"Every {what} ({still['entries']:,}) moves along the directions."
    return Finding("held still", "ok", said, values=values)


def _why_frozen_moves(moves: Mapping[str, Any]) -> str:
    also = moves.get("also")
    return "checkpoints on the chart differ in it" if also else f"params={moves.get('params')!r}"


def _how_to_move(excluded: bool, untrained: bool) -> str:
    ways = ["exclude=() moves what is left out"] if excluded else []
    ways += ['Objective(..., params="all") moves what is not trained'] if untrained else []
    usual = "That is usual (Li et al. 2018); " if excluded else ""
    return f"{usual}{', and '.join(ways)}." if ways else "Say so in the caption."


def _zeros(subject: Subject, still: Mapping[str, Any], excluded: set[str], values: dict[str, Any]) -> list[str]:
    """What is zero in every direction though it was not left out, in words."""
    drawn = all(recipe.get("kind") == "random" for recipe in subject.recipes)
    of = {name: (int(n), int(size)) for name, (n, size) in still["of"].items() if n and name not in excluded}
    whole = [name for name, (n, size) in of.items() if n == size]
    # a number that is drawn may be zero by chance, one in some millions
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
        return " (zero at the centre, and so is a direction scaled to it)"
    if kinds <= {"between", "through"}:
        return " (the checkpoints are alike there)"
    return ""


def _moving(subject: Subject) -> set[str]:
    return {name for recipe in subject.recipes for name in recipe.get("norms", {})}


def _plural(n: int, one: str, many: str) -> str:
    return one if n == 1 else many


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _buffers(subject: Subject) -> Iterator[Finding]:
    """Of a chart through checkpoints: which buffers move, and where they are nobody's own."""
    said = subject.chart.get("buffers")
    if not said:
        if foreign := list(subject.attrs.get("foreign_buffers", ())):
            yield Finding(
                "buffers",
                "warning",
                f"The weights at the centre are not the objective's, and its {len(foreign)} buffers "
                f"({_some(foreign)}) stay the objective's at every point: weights of one network with the "
                "statistics of another.",
                "Make the chart around objective.at(checkpoint), which has both; where the centre is no checkpoint, "
                'pass bn="recompute".',
                {"foreign": foreign},
            )
        elif subject.surface is not None and not subject.is_function:
            yield _own_buffers(subject)
        return
    names, places = _read_and_moved(subject), [point["at"] for point in said["points"]]
    unread = [name for name in said["moved"] if name not in names]
    values = {"moved": names, "unread": unread, "others": said["others"], "places": places}
    instead = f" Statistics of BatchNorm are {_instead(subject)}." if subject.objective.get("buffers_unread") else ""
    if unread and not names:
        what = f"what differs in their buffers ({len(unread)}) are statistics of BatchNorm"
        words = f"{len(places)} checkpoints lie on the chart, and {what}, {_instead(subject)}: none is interpolated."
        yield Finding("buffers", "ok", words, values=values)
        return
    if not names:
        words = f"The buffers are those of the chart's centre, not of the objective, at every point.{instead}"
        yield Finding("buffers", "ok", words, values=values)
        return
    where = f"{len(places)} checkpoints lie on the chart, each with its own buffers, and {len(names)} of these differ"
    if unread:
        where += f" beside the statistics of BatchNorm, {_instead(subject)}"
    moves = f"{where} ({_some(names)}): between them they are interpolated as the weights are (integers: the nearest)"
    points = np.zeros((0, len(places[0]))) if subject.surface is None else subject.places
    if points.shape[1] != len(places[0]):  # a slice of the chart
        points = np.zeros((0, len(places[0])))
    outside, count = int((~Triangulation(places, gram_of(subject.chart)).holds(points)).sum()), len(points)
    if not outside:
        yield Finding("buffers", "ok", f"{moves}.", values=values)
        return
    remedy = (
        'bn="recompute" makes BatchNorm statistics anew at every point.'
        if _has_statistics_of_batch_norm(subject)
        else ""
    )
    yield Finding(
        "buffers",
        "note",
        f"{moves}. {outside:,} of {count:,} points lie outside, where buffers are held at the nearest point between "
        "checkpoints (an extrapolated variance could be negative), so the weights move on alone.",
        f"Read the ends of the picture with care{'; ' if remedy else '.'}{remedy}",
        values | {"outside": outside},
    )


def _read_and_moved(subject: Subject) -> list[str]:
    """Buffers that differ between the checkpoints on the chart and are looked at: not what BatchNorm makes anew."""
    unread = set(subject.objective.get("buffers_unread") or ())
    return [name for name in subject.chart.get("buffers", {}).get("moved", ()) if name not in unread]


def _instead(subject: Subject) -> str:
    """Where the statistics come from that BatchNorm uses in place of its buffers."""
    anew = subject.objective.get("bn") == "recompute"
    return "made anew from the data at every point" if anew else "those of each batch"


def _has_statistics_of_batch_norm(subject: Subject) -> bool:
    """Whether the model has BatchNorm layers whose running statistics are looked at."""
    return subject.objective.get("bn", "frozen") == "frozen" and bool((subject.layers or {}).get("batch_norms"))


def _own_buffers(subject: Subject) -> Finding:
    """Of a chart that brings no buffers along: that the objective's stay."""
    count = subject.objective.get("buffers")
    values = {"buffers": count}
    if count is None or "still" not in subject.attrs:  # since then it is looked at whose weights the centre has
        because = "the surface does not say whether the model has buffers, and whose."
        return unknown("buffers", because, "Evaluate it with this version of lossnav.", values)
    if not count:
        return Finding("buffers", "ok", "The model has no buffers.", values=values)
    unread = len(subject.objective.get("buffers_unread") or ())
    values |= {"unread": unread}
    if unread == count:
        are = _plural(count, "buffer is a statistic", "buffers are statistics")
        said = f"The model's {count} {are} of BatchNorm, {_instead(subject)}."
        return Finding("buffers", "ok", said, values=values)
    stay = _plural(count - unread, "buffer stays", "buffers stay")
    beside = f" Its {unread} others are statistics of BatchNorm, {_instead(subject)}." if unread else ""
    said = f"The model's {count - unread} {stay} the objective's own at every point.{beside}"
    return Finding("buffers", "ok", said, values=values)


def _in_training(subject: Subject) -> bool:
    return bool(subject.objective.get("mode") == "train")


def _train_mode(subject: Subject) -> Iterator[Finding]:
    """Of an objective in train mode: that it is one, and which draw of its noise is shown."""
    if not _in_training(subject):
        return
    seed, draws = subject.objective.get("seed"), subject.objective.get("draws")
    if seed is None:
        because = "the network is in train mode, and the surface does not say by which seed its noise was drawn."
        yield unknown("train mode", because, "Evaluate it with this version of lossnav.")
        return
    said = "The loss is that of the network in train mode, as training lowers it."
    do = "Leave mode= out for the network in use"
    if draws is False:
        said += " No random numbers are drawn there."
        yield Finding("train mode", "note", said, f"{do}.", {"seed": seed, "draws": False})
        return
    noise = "What is drawn at random (dropout)" if draws else "What is drawn at random, if something is,"
    yield Finding(
        "train mode",
        "note",
        f"{said} {noise} is one draw, of seed {seed}, the same at every point; the network in use, without it, has "
        "another loss.",
        f"{do}; another seed= shows how much the draw matters.",
        {"seed": seed, "draws": draws},
    )


def _random_numbers(subject: Subject) -> Iterator[Finding]:
    """Of an objective in eval mode: whether its loss draws random numbers all the same, and by which seed."""
    if _in_training(subject):
        return
    draws, seed = subject.objective.get("draws"), subject.objective.get("seed")
    if draws is None or seed is None:
        because = "the surface does not say whether the loss draws random numbers, and by which seed."
        yield unknown("random numbers", because, "Evaluate it with this version of lossnav.")
        return
    values = {"draws": draws, "seed": seed}
    if not draws:
        said = "The loss draws no random numbers from the generators of torch, NumPy and Python."
        yield Finding("random numbers", "ok", said, values=values)
        return
    such = "" if subject.is_function else " (dropout that is always on, a latent that is sampled)"
    found = subject.facts.get("redrawn") or {}
    where = f"The loss draws random numbers where it is evaluated{such}"
    another = "may be another"
    if found:
        values |= dict(found)
        if not float(found["change"]):
            said = f"{where}, but with seed {found['seed']} in place of {seed} it is the same at the centre."
            yield Finding("random numbers", "ok", said, values=values)
            return
        another = f"is another: by {abs(float(found['change'])):.2g} at the centre with seed {found['seed']}"
    yield Finding(
        "random numbers",
        "note",
        f"{where}: the picture is that of one draw, of seed {seed}, the same at every point, and of another seed it "
        f"{another}.",
        f"Look at other seeds (seed={int(seed) + 1}), or let the loss be a mean over many draws.",
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
            "" if depends is None else f" (in other batches that of the same samples differs by {_of_spread(depends)})"
        )
        yield Finding(
            "batch norm",
            "note" if _in_training(subject) else "warning",
            "BatchNorm takes each batch's own statistics, as in training, so the loss depends on how the data is "
            f"cut into batches{seen}: this is no surface of the network that is used.",
            'Use bn="frozen" for the network as it is, or bn="recompute" for one whose statistics follow the weights.',
            values,
        )
    elif depends is not None and float(depends) > thresholds.SAME_LOSS and not _in_training(subject):
        yield Finding(
            "batch norm",
            "warning",
            f"The loss of a sample depends on its batch: in other company it differs by {_of_spread(depends)}, so "
            "something takes statistics of the batch, or draws random numbers.",
            "Look for track_running_stats=False, F.batch_norm(training=True), or dropout that is always on.",
            values,
        )
    elif subject.is_function:
        return  # no layer is seen
    elif known is None:
        yield unknown(
            "batch norm",
            "the surface does not say whether the model has layers that keep statistics of the data; if it has, they "
            "stay those of the centre, and part of the rise far from it is only that.",
            "Look whether it has, or ask: ln.report(…, objective=objective).",
            values,
        )
    elif own:
        yield Finding(
            "batch norm",
            "note" if _in_training(subject) else "warning",
            f"{own} BatchNorm {_plural(own, 'layer keeps', 'layers keep')} no running statistics and "
            f"{_plural(own, 'takes', 'take')} each batch's own, in eval mode too: the loss depends on how the data is "
            "cut into batches.",
            "Say how long the batches were, or let the layers keep statistics (track_running_stats=True).",
            values,
        )
    elif others and not layers and _in_training(subject):
        yield unknown(
            "batch norm",
            f"{others} {_plural(others, 'layer has', 'layers have')} running statistics and "
            f"{_plural(others, 'is', 'are')} no BatchNorm: what it uses in train mode is not seen.",
            "Look at its forward pass.",
            values,
        )
    elif not layers + others:
        yield _without_statistics(subject, values)
    elif policy == "recompute" and not others:
        yield Finding(
            "batch norm",
            "ok",
            "BatchNorm statistics are made anew from the data at every point, so each is a network as training "
            "leaves it.",
            values=values,
        )
    else:
        yield _frozen(subject, policy, layers, others, values)


def _of_spread(depends: Any) -> str:
    part = float(depends)
    return f"{part:.1%} of their spread" if part < float("inf") else "more than the samples differ at all"


def _without_statistics(subject: Subject, values: dict[str, Any]) -> Finding:
    """Of a model without BatchNorm and running statistics by their usual names: what of it may be statistics yet."""
    none = "the model has no BatchNorm, and no layer with buffers named running_mean or running_var"
    if not subject.objective.get("buffers", 1):
        return Finding("batch norm", "ok", f"{none[0].upper()}{none[1:]}: it has no buffers at all.", values=values)
    own = (subject.layers or {}).get("own_buffers")
    if own is None:
        because = f"{none}, but what its other buffers are the surface does not say."
        return unknown("batch norm", because, "Evaluate it with this version of lossnav.", values)
    values |= {"own_buffers": dict(own)}
    if not own["tensors"]:
        said = f"{none[0].upper()}{none[1:]}, and no floating-point buffers of its own that could be statistics."
        return Finding("batch norm", "ok", said, values=values)
    many = f"{own['tensors']} floating-point {_plural(own['tensors'], 'buffer', 'buffers')} of its own"
    names = ", ".join(own["names"]) + (", …" if own["tensors"] > len(own["names"]) else "")
    return unknown(
        "batch norm",
        f"{none}, but {many} ({names}), and whether these are statistics of the data is not seen. If they are, they "
        "stay as they are while the weights move.",
        "Look at what the model keeps there: constants do no harm.",
        values,
    )


def _frozen(subject: Subject, policy: str, layers: int, others: int, values: dict[str, Any]) -> Finding:
    """Of statistics that do not follow the weights: whose they are."""
    count = others if policy == "recompute" else layers + others
    which = "BatchNorm" if not others else "normalisation" if layers else "other normalisation"
    names = f"{count} {which} {_plural(count, 'layer', 'layers')}"
    do = "Read the rise far from the centre with care: the weights alone move."
    if policy != "recompute" and layers:
        do = 'Compare with bn="recompute" where the rise far from the centre matters.'
    if _read_and_moved(subject):
        return Finding(
            "batch norm",
            "note",
            f"{names} {_plural(count, 'has', 'have')} each checkpoint's statistics there and interpolated ones "
            "between, which are not those of the activations there: part of a barrier may be only that.",
            'Compare with bn="recompute" before a barrier is read off.' if layers else do,
            values,
        )
    return Finding(
        "batch norm",
        "note",
        f"{names} {_plural(count, 'keeps', 'keep')} the statistics of the centre, so the further from it, the less the "
        "activations fit them: part of the rise is only that.",
        do,
        values,
    )
