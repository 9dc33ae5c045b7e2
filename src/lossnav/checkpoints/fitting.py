"""Find the tensors of a model in the content of a file, or report how the two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.checkpoints.files import PICK, Stored
from lossnav.checkpoints.matching import (
    EXTRA,
    Placement,
    TreeNode,
    choose,
    drop_training_state,
    no_weights,
    places_of,
    plain_choice,
    require_tensors,
    shaped,
    tree_of,
)
from lossnav.checkpoints.values import has_shape, peculiarity, resolved
from lossnav.errors import CheckpointMismatchError

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Match:
    """The tensors of a model, found in a file.

    Attributes
    ----------
    tensors : dict of str to Tensor
        By the model's names.
    place : str
        Their place in the file: names of dicts and prefixes, separated by dots.
    extra : dict of str to object
        Likewise the extra state of modules (``_extra_state``).
    """

    tensors: State
    place: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def fit(
    state: Mapping[str, Any],
    required: Mapping[str, Tensor],
    optional: Mapping[str, Tensor] | None = None,
    aliases: Mapping[str, str] = MappingProxyType({}),
    what: str = "the model",
) -> State:
    """Find the tensors of a model in a state dict, or in dicts of them, by names and shapes; see `match`."""
    return match(state, required, optional, aliases, what).tensors


def match(
    state: Mapping[str, Any],
    required: Mapping[str, Tensor],
    optional: Mapping[str, Tensor] | None = None,
    aliases: Mapping[str, str] = MappingProxyType({}),
    what: str = "the model",
) -> Match:
    """Find the tensors of a model in a state dict, or in dicts of them, by names and shapes.

    Prefixes of wrappers are ignored, in the file or in the model: ``module.``, ``_orig_mod.``, or any other level of
    names with only one child. From several state dicts the one that fits is chosen.

    Parameters
    ----------
    state : mapping of str to Tensor, or nested mappings
    required : mapping of str to Tensor
        Names and shapes that are required.
    optional : mapping of str to Tensor, optional
        Names and shapes that are optional.
    aliases : mapping of str to str
        Second names of tied tensors, each with the first. They are ignored, unless a file has only the second name.
    what : str
        The model, for messages.

    Raises
    ------
    CheckpointMismatchError
        If a tensor is missing, has another shape or kind of number, or a name is left over; or if several fit.

    Examples
    --------
    >>> import torch
    >>> like = {"weight": torch.zeros(2)}
    >>> match({"epoch": 3, "ema": {"module.weight": torch.ones(2)}}, like).tensors
    {'weight': tensor([1., 1.])}
    """
    known: dict[str, Any] = {**required, **(optional or {})}
    for alias, first in aliases.items():
        if alias.rpartition(".")[2] == EXTRA:
            known[alias] = EXTRA
        elif first in known:
            known[alias] = known[first]
    needed = [name for name in required if name not in aliases]
    source = state.source if isinstance(state, Stored) else "the state dict"
    if _fits_as_it_is(state, known, needed, aliases):
        place, found = "", dict(state)
    else:
        place, found = _searched(state, known, needed, aliases, source, what)
    for alias, first in aliases.items():
        if alias not in found or not first:
            continue
        other = found.pop(alias)
        if first in found and not algebra.same(found[first], other):
            raise CheckpointMismatchError(
                f'"{first}" and "{alias}" are one tensor in {what} and two different ones in {source}. Build the model '
                "with separate tensors (for example tie_word_embeddings=False)."
            )
        found.setdefault(first, other)
    extra = {name: value for name, value in found.items() if name.rpartition(".")[2] == EXTRA}
    tensors = {name: found[name] for name in known if name in found and name not in extra}
    _require_same_kind(tensors, known, source, what)
    return Match({name: resolved(tensor) for name, tensor in tensors.items()}, place, extra)


def _fits_as_it_is(
    state: Mapping[str, Any], known: Mapping[str, Any], needed: Sequence[str], aliases: Mapping[str, str]
) -> bool:
    """Return whether a state dict has exactly the model's names, which is the usual case."""
    if not all(name in known and shaped(value, known[name]) for name, value in state.items()):
        return False
    there = state.keys() | {aliases[name] for name in state if name in aliases}
    return all(name in there for name in needed)


def _searched(
    state: Mapping[str, Any],
    known: Mapping[str, Any],
    needed: Sequence[str],
    aliases: Mapping[str, str],
    source: str,
    what: str,
) -> tuple[str, dict[str, Any]]:
    """Search a file for the place of a model; return its name, and the tensors there by the model's names."""
    file = tree_of(state)
    require_tensors(file, source)
    drop_training_state(file, known)
    seconds = {first for first in aliases.values() if first}
    sure = [name for name in needed if name not in seconds]  # a tied tensor may have its other name
    places = places_of(known, sure, file)
    fitting = [place for place in places if not _misfit(place, known, needed, aliases)]
    if not fitting:
        whole = tree_of(state)  # with what was left out
        states = [place for place in places_of(known, sure, whole) if not _misfit(place, known, needed, aliases)]
        if states:
            raise CheckpointMismatchError(no_weights([place.node.name for place in states], source))
        if not file.leaves:
            raise CheckpointMismatchError(_mismatch(whole, [], known, needed, aliases, what, state))
        raise CheckpointMismatchError(_mismatch(file, places, known, needed, aliases, what, state))
    place = choose(fitting, source, what)
    name = place.node.name
    if instead := _meant_instead(place, places, needed):
        message = _mismatch(file, [instead], known, needed, aliases, what, state)
        raise CheckpointMismatchError(f"{message} The part {name} does fit; to use it, pass {source}{PICK}{name}")
    _require_larger_part(file, place, fitting, source, what)
    _require_nothing_left(file, place, fitting, known, aliases, source, what)
    return name, {name: node.value for name, node in place.pairs.items()}


def _misfit(place: Placement, known: Mapping[str, Any], needed: Sequence[str], aliases: Mapping[str, str]) -> bool:
    wrong = any(not shaped(node.value, known[name]) for name, node in place.pairs.items())
    return wrong or bool(place.extras) or bool(_missing(place, needed, aliases))


def _missing(place: Placement, needed: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    there = place.pairs.keys() | {aliases[name] for name in place.pairs if name in aliases}
    return [name for name in needed if name not in there]


def _meant_instead(chosen: Placement, places: Sequence[Placement], needed: Sequence[str]) -> Placement | None:
    """Return weights that would take precedence over the chosen ones if they fitted."""
    for place in places:
        inside = f"{chosen.node.name}.".startswith(f"{place.node.name}.") or not place.node.name
        around = f"{place.node.name}.".startswith(f"{chosen.node.name}.") or not chosen.node.name
        if inside or around or 2 * sum(name in place.pairs for name in needed) < len(needed):
            continue
        if plain_choice([place.node.name, chosen.node.name]) == place.node.name:
            return place
    return None


def _require_larger_part(
    file: TreeNode, place: Placement, fitting: Sequence[Placement], source: str, what: str
) -> None:
    """Raise if the tensors are a small part of a state dict, unless that part was requested by name.

    One layer of another network may fit by chance; a criterion or a head beside the model does not count.
    """
    around, words = file, place.node.name.split(".") if place.node.name else []
    for i in range(len(words)):
        node = file.find(words[: i + 1])
        if node is not None and node.nested:
            around = node
    others = {id(node) for other in fitting for node in other.node.values()}
    rest = [node for node in around.values(place.node is not around) if id(node) not in others]
    rest = [node for node in rest if _is_number(node.value)]
    mine = sum(node.value.numel() for node in place.pairs.values() if _is_number(node.value))
    if sum(node.value.numel() for node in rest) > mine:
        raise CheckpointMismatchError(
            f"{what} fits what is called {place.node.name} in {source}, and most of that lies beside it "
            f"({_named(rest)}). To use that part, pass {source}{PICK}{place.node.name}"
        )


def _require_nothing_left(
    file: TreeNode,
    place: Placement,
    fitting: Sequence[Placement],
    known: Mapping[str, Any],
    aliases: Mapping[str, str],
    source: str,
    what: str,
) -> None:
    """Raise if the file has a tensor elsewhere that may be one that the model would keep."""
    lacking = [name for name in known if name not in place.pairs and name not in aliases and known[name] is not EXTRA]
    shapes = {(name.rpartition(".")[2], known[name].shape): name for name in reversed(lacking) if known[name].dim()}
    if not shapes:
        return
    used = {id(node) for other in fitting for node in other.pairs.values()}
    for node in file.values():
        if id(node) in used or not _is_number(node.value):
            continue
        if mine := shapes.get((node.name.rpartition(".")[2], node.value.shape)):
            at = place.node.name
            fits = f"what is called {at}" if at else "the tensors at the top"
            choice = f" To use only {at}, pass {source}{PICK}{at}" if at else ""
            raise CheckpointMismatchError(
                f'{what} fits {fits} in {source}, but for "{mine}" {_shape(known[mine])}, and "{node.name}" elsewhere '
                f"in it may be that. Put it beside the others, by the name that the model has for it.{choice}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and has_shape(value) and (value.is_floating_point() or value.is_complex())


def _require_same_kind(tensors: State, known: Mapping[str, Any], source: str, what: str) -> None:
    """Raise if a conversion would change the values: integers of a quantised weight, an imaginary part."""
    for name, tensor in tensors.items():
        words, way_on = peculiarity(tensor, known[name])
        if words:
            raise CheckpointMismatchError(f'"{name}" {words} in {source}, so {what} cannot take it over. {way_on}')
        mine = known[name].dtype
        loses = (mine.is_floating_point or mine.is_complex) and (not _is_number(tensor) and tensor.dim() > 0)
        if loses or (tensor.is_complex() and not mine.is_complex):
            raise CheckpointMismatchError(
                f'"{name}" is {str(tensor.dtype).removeprefix("torch.")} in {source} and '
                f"{str(mine).removeprefix('torch.')} in {what}. {_lost(tensor)}"
            )


def _lost(tensor: Tensor) -> str:
    """Return why a tensor is not converted to real floating point, and what to do."""
    if tensor.is_complex():
        return (
            "A conversion would drop the imaginary parts. Build the model with complex weights "
            "(model.to(torch.complex64)), or save the real parts if you want those: tensor.real."
        )
    if tensor.dtype == torch.bool:
        return "Boolean values are usually a mask, not weights. Save the weights themselves, or tensor.float()."
    return (
        "If these are quantised weights, with the scale stored elsewhere, a conversion would change them. "
        "Save the weights in floating point, before quantisation; or, if the numbers are the weights "
        "themselves, tensor.float()."
    )


def _mismatch(
    file: TreeNode,
    places: Sequence[Placement],
    known: Mapping[str, Any],
    needed: Sequence[str],
    aliases: Mapping[str, str],
    what: str,
    state: Mapping[str, Any],
) -> str:
    """Return how a file and a model differ, and what to do."""
    part = state.part if isinstance(state, Stored) else ""
    adapter = state.adapter if isinstance(state, Stored) else None
    whose = f" of {state.source}" if isinstance(state, Stored) else ""
    begin = f"The weights{whose} do not fit {what}: "
    if adapter is not None:
        kind, base = adapter.get("peft_type", "adapter"), adapter.get("base_model_name_or_path")
        of = f" of {base}" if base else ""
        return (
            f"The weights are a PEFT adapter ({kind}){of}, which changes a network "
            f"but is not one, and {what} has no such "
            "adapter. Load it with peft: model = "
            f"peft.PeftModel.from_pretrained(model, {state.source!r})."  # type: ignore[attr-defined]
        )
    if not places or not any(name in place.pairs for place in places for name in needed):
        has, mine = _named(list(file.values())), ", ".join(_of_model(name, known) for name in list(needed)[:3])
        flat = _way_on((), (), list(file.values())) if "flat_param" in has else ""
        return begin + (
            f"no name and shape is the same. They have {has or 'no tensors'}; the model has {mine}. "
            f"{part or flat or 'Pass the weights of this model, or give them its names.'}"
        )
    place = places[0]
    wrong = [name for name, node in place.pairs.items() if not shaped(node.value, known[name])]
    missing, extras = _missing(place, needed, aliases), place.extras
    words = []
    if wrong:
        sizes = [f'"{n}": {_shape(place.pairs[n].value)} vs {_shape(known[n])}' for n in wrong]
        words.append(_some(sizes) + " of the model")
    if missing:
        are = "is" if len(missing) == 1 else "are"
        words.append(f"{_some([_of_model(name, known) for name in missing])} {are} missing")
    if extras:
        are = "is" if len(extras) == 1 else "are"
        words.append(f"{_named(extras)} {are} not in the model")
    return f"{begin}{'; '.join(words)}. {part or _way_on(wrong, missing, extras)}"


def _way_on(wrong: Sequence[str], missing: Sequence[str], extras: Sequence[TreeNode]) -> str:
    if any(".lora_" in f".{node.name}" or ".base_layer." in f".{node.name}" for node in extras):
        return (
            "They belong to a network with PEFT adapters. Give the model the same ones (peft.get_peft_model), or merge "
            "them before saving: model.merge_and_unload()."
        )
    if any(node.name.endswith("flat_param") for node in extras):
        return "They are flat shards of FSDP. Save a full state dict (StateDictType.FULL_STATE_DICT)."
    if wrong:
        return (
            "Build the model with these sizes (number of classes, width), or pass weights that have the model's sizes."
        )
    if missing and extras:
        return "Build the model that has these names, or rename the weights."
    if missing:
        return "Pass the file that contains all of them."
    return (
        "Build the model with them, or, if it does not need them, pass only the others: "
        "objective.at({name: state[name] for name in model.state_dict()})."
    )


def _some(words: Sequence[str], most: int = 3) -> str:
    if len(words) <= most:
        return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
    return f"{', '.join(words[:most])} and {len(words) - most:,} more"


def _named(nodes: Sequence[TreeNode]) -> str:
    return _some([f'"{node.name}" {_shape(node.value)}'.rstrip() for node in nodes]) if nodes else ""


def _of_model(name: str, known: Mapping[str, Any]) -> str:
    return f'"{name}" {_shape(known[name])}'


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) and has_shape(value) else ""
