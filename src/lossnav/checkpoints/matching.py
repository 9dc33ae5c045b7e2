"""Match the tensors of a file with those of a model by names and shapes, whatever wrappers either has.

A file is a tree: its dicts are nested (``{"state_dict": {...}, "ema": {...}}``), and so are the names in a state dict
(``module.layer1.0.weight``). A wrapper (DataParallel, torch.compile, FSDP, Lightning) adds a level to that tree. The
place of a model is the node below which its tensors have their own names, apart from levels with only one child.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.checkpoints.files import PICK
from lossnav.checkpoints.pickles import PLAIN
from lossnav.checkpoints.training_state import is_training_state, state_words
from lossnav.checkpoints.values import has_shape
from lossnav.errors import CheckpointError, CheckpointMismatchError

EXTRA = "_extra_state"  # torch's name in a state dict
_DEEPEST, _MOST = 24, 1_000_000  # maximum levels of dicts, and names: a file may refer to itself
_DICT = 10  # names that a dict counts as: a few dicts that contain each other make millions
_LONGEST = 100  # maximum words in a name
_TRIED = 64  # places that are compared for the message if none fits


@dataclass(eq=False, slots=True)
class TreeNode:
    """A level of names, with the levels below it and the value that has exactly this name.

    Attributes
    ----------
    name : str
        Levels from the root of the file, separated by dots.
    value : Tensor or object or None
        A tensor, or the extra state of a module.
    nested : bool
        Whether this level is a dict, not a part of a name.
    leaves : int
        Number of values here and below.
    """

    name: str = ""
    value: Any = None
    nested: bool = False
    leaves: int = 0
    children: dict[str, TreeNode] = field(default_factory=dict)

    def only(self) -> TreeNode | None:
        """Return the only child of a level without a value; else None."""
        return next(iter(self.children.values())) if self.value is None and len(self.children) == 1 else None

    def walk(self) -> Iterator[TreeNode]:
        """Yield this level and all below it, from above."""
        ahead = [self]
        while ahead:
            node = ahead.pop()
            yield node
            ahead += reversed(node.children.values())

    def values(self, nested: bool = True) -> Iterator[TreeNode]:
        """Yield the levels here and below that have a value; those in dicts of their own only if asked for."""
        ahead = [self]
        while ahead:
            node = ahead.pop()
            if node.value is not None:
                yield node
            ahead += [child for child in reversed(node.children.values()) if nested or not child.nested]

    def find(self, words: Sequence[str]) -> TreeNode | None:
        """Return the level at a path below this one."""
        node: TreeNode | None = self
        for word in words:
            node = None if node is None else node.children.get(word)
        return node

    def state(self) -> dict[str, Any]:
        """Return the values below this level, by their names from here."""
        start = len(self.name) + 1 if self.name else 0
        return {node.name[start:]: node.value for node in self.values()}


def tree_of(content: Any) -> TreeNode:
    """Arrange the tensors and extra states of a file as a tree; the rest is left out.

    The state of an optimiser (``state`` beside ``param_groups``) is left out too. If there are no tensors, NumPy arrays
    count as tensors; beside tensors they are statistics of the training.

    Raises
    ------
    CheckpointError
        If the file refers to itself, is nested too deeply, or has too many names.
    """
    root = TreeNode(nested=True)
    _grow(root, content, 0, (), Tensor)
    _count(root)
    if not root.leaves:
        root = TreeNode(nested=True)
        _grow(root, content, 0, (), np.ndarray)
        _count(root)
    return root


def as_tensor(value: Any) -> Any:
    """Return an array as a tensor; None if torch lacks its dtype."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):  # text, dates, or another byte order
        return None


def _grow(node: TreeNode, content: Any, count: int, around: tuple[int, ...], leaf: type) -> int:
    """Add the content of a dict or list; return the number of names so far."""
    if id(content) in around:
        raise CheckpointError(f"{_part(node)} refers to itself, so it is not a checkpoint. Save model.state_dict().")
    if len(around) > _DEEPEST:
        raise CheckpointError(
            f"{_part(node)} is nested {len(around)} dicts deep, deeper than any checkpoint. Save model.state_dict()."
        )
    around, count = (*around, id(content)), count + _DICT
    if isinstance(content, Mapping):
        if "param_groups" in content and "state" in content:
            return count
        items: Iterable[tuple[str, Any]] = ((str(key), value) for key, value in content.items())
    else:
        items = ((str(i), value) for i, value in enumerate(content))
    for key, value in items:
        words = key.split(".")
        is_part = isinstance(value, Mapping) or (isinstance(value, list | tuple) and _holds_tensors(value, leaf))
        is_extra = words[-1] == EXTRA and value is not None
        if isinstance(value, np.ndarray) and leaf is np.ndarray:
            value = as_tensor(value)
        if not (isinstance(value, Tensor) or is_extra or is_part):
            continue
        if len(words) > _LONGEST:
            raise CheckpointError(f"A name has {len(words):,} words, too many for a module. Save model.state_dict().")
        below = node
        for word in words:
            below = below.children.setdefault(word, TreeNode(f"{below.name}.{word}" if below.name else word))
        count += len(words)
        if count > _MOST:
            raise CheckpointError(
                f"The file has more names and dicts than any model ({_MOST:,}). Save only model.state_dict()."
            )
        if isinstance(value, Tensor) or is_extra:
            if below.value is not None:
                raise CheckpointError(f'There are two tensors called "{below.name}". Save only model.state_dict().')
            below.value = value
        else:
            below.nested = True
            count = _grow(below, value, count, around, leaf)
    return count


def _part(node: TreeNode) -> str:
    return f'The part "{node.name[:60]}"' if node.name else "The file"


def _holds_tensors(values: Sequence[Any], leaf: type) -> bool:
    return any(isinstance(value, Mapping | leaf) for value in values)


def _count(root: TreeNode) -> None:
    """Count the values below each level, and remove empty levels."""
    for node in reversed(list(root.walk())):
        node.children = {word: child for word, child in node.children.items() if child.leaves}
        node.leaves = (node.value is not None) + sum(child.leaves for child in node.children.values())


def drop_training_state(root: TreeNode, names: Iterable[str]) -> None:
    """Remove what is named like the state of optimisers, gradients and the like, except names of the model.

    Parameters
    ----------
    root : TreeNode
        Root of a file; changed in place.
    names : iterable of str
        Names of the model's tensors. If a layer is called ``velocity``, one such word in a path belongs to the layer.
    """
    own = Counter[str]()
    for name in names:
        own |= Counter(state_words(name.split(".")))
    ahead: list[tuple[TreeNode, Counter[str]]] = [(root, Counter())]
    while ahead:
        node, above = ahead.pop()
        for word, child in list(node.children.items()):
            here = above + Counter([word]) if child.children and is_training_state(word) else above
            if here[word] > own[word]:
                del node.children[word]
            else:
                ahead.append((child, here))
    _count(root)


@dataclass(eq=False)
class Placement:
    """The place in a file where the tensors of a model were found.

    Attributes
    ----------
    node : TreeNode
        Level of the file.
    pairs : dict of str to TreeNode
        Values of the file by the model's names.
    """

    node: TreeNode
    pairs: dict[str, TreeNode]

    @property
    def extras(self) -> list[TreeNode]:
        """Return the values at this place that are not the model's tensors."""
        used = {id(node) for node in self.pairs.values()}
        start = len(self.node.name) + 1 if self.node.name else 0
        levels = {node.name[start:].partition(".")[0] for node in self.pairs.values()}
        in_dicts = any(self.node.children[word].nested for word in levels if word in self.node.children)
        return [node for node in self.node.values(nested=in_dicts) if id(node) not in used]


def shaped(value: Any, like: Any) -> bool:
    """Return whether two values match: tensors of the same shape (or without one, refused later), or extra states."""
    if isinstance(value, Tensor) and isinstance(like, Tensor):
        return not has_shape(value) or value.shape == like.shape
    return not isinstance(like, Tensor)


def places_of(known: Mapping[str, Any], required: Iterable[str], file: TreeNode) -> list[Placement]:
    """Find the places in a file that have tensors of a model, those with most of them first.

    Parameters
    ----------
    known : mapping of str to Tensor or object
        All tensors of the model by name, and extra states of its modules.
    required : iterable of str
        The required names.
    file : TreeNode
    """
    needed = set(required)
    models = [tree_of(known)]
    while (inner := models[-1].only()) is not None:  # the model is wrapped, or the file belongs to the module inside
        models.append(inner)
    found: dict[frozenset[int], tuple[tuple[int, int], Placement]] = {}
    rooms = [node for node in file.walk() if 2 * node.leaves >= max(1, len(needed))]  # half, for a message
    if not rooms:
        rooms = sorted(file.walk(), key=lambda node: -node.leaves)[:_TRIED]
    seen: set[int] = set()  # a level with the same values as the one above, which fits already
    for node in rooms:
        for model in models:
            if id(node) in seen or not model.children.keys() & node.children.keys():
                continue
            pairs = _aligned(model, node, {})[1]
            place = Placement(node, dict(pairs))
            names = {name for name, part in pairs if shaped(part.value, known[name])}
            score = (len(names & needed) if needed else len(names), len(pairs))
            key = frozenset(id(part) for part in place.pairs.values())
            if pairs and (key not in found or score > found[key][0]):
                found[key] = score, place
            if len(names) == node.leaves:  # nothing remains
                seen.add(id(node))
        if id(node) in seen:
            seen |= {id(child) for child in node.children.values() if child.leaves == node.leaves}
    return [place for _, place in sorted(found.values(), key=lambda pair: pair[0], reverse=True)]


_NameAlignment = tuple[int, list[tuple[str, TreeNode]]]


def _aligned(model: TreeNode, file: TreeNode, done: dict[tuple[int, int], _NameAlignment]) -> _NameAlignment:
    """Pair the tensors below a level of a model and a level of a file; levels with one child may be skipped.

    Returns the pairs and their score: 2 for each of the same shape, 1 for each of the same name only.
    """
    key = id(model), id(file)
    if key in done:
        return done[key]
    score, pairs = 0, list[tuple[str, TreeNode]]()
    if model.value is not None and file.value is not None and _last(model) == _last(file):
        score, pairs = (2 if shaped(file.value, model.value) else 1), [(model.name, file)]
    for word, child in model.children.items():
        if word in file.children:
            more, below = _aligned(child, file.children[word], done)
            score += more
            pairs += below
    best: _NameAlignment = score, pairs
    if score < 2 * model.leaves:
        wrapped, wrapping = file.only(), model.only()
        if wrapped is not None:
            best = max(best, _aligned(model, wrapped, done), key=lambda found: found[0])
        if wrapping is not None:
            best = max(best, _aligned(wrapping, file, done), key=lambda found: found[0])
    done[key] = best
    return best


def _last(node: TreeNode) -> str:
    """Return the last part of a tensor's name, which no wrapper changes."""
    return node.name.rpartition(".")[2]


def plain_choice(names: Sequence[str]) -> str | None:
    """Choose the default among several state dicts, if there is one.

    It is the one with a usual name (``state_dict``, ``model``, ...) where the names differ, if the others do not have
    one: the trained weights, beside averages of them (``ema``).

    >>> plain_choice(["state_dict", "state_dict_ema"]), plain_choice(["module.student", "module.teacher"])
    ('state_dict', None)
    """
    left = list(names)
    level = 0
    while len(left) > 1:
        words = [(name.split(".") if name else [])[level : level + 1] for name in left]
        if not all(words):  # one contains the others
            return left[words.index([])] if words.count([]) == 1 else None
        kinds = {word[0] for word in words}
        if len(kinds) > 1:
            usual = kinds & set(PLAIN)
            if len(usual) != 1:
                return None
            left = [name for name, word in zip(left, words, strict=True) if word[0] in usual]
        level += 1
    return left[0] if left else None


def state_dicts(root: TreeNode) -> list[TreeNode]:
    """Return the levels of a file that are dicts of tensors, from above."""
    return [
        node
        for node in root.walk()
        if node.nested and any(part.value is not None for part in node.values(nested=False))
    ]


def without_model(root: TreeNode, source: str) -> TreeNode:
    """Choose the state dict of a file without a model to match.

    Raises
    ------
    CheckpointError
        If there is none, or several without a default.
    """
    require_tensors(root, source)
    found = _weights_alone(state_dicts(root), source)
    usual = [node for node in found if set(node.name.split(".")) & set(PLAIN)]
    names = [node.name for node in usual or found]
    if (chosen := plain_choice(names)) is None:
        raise CheckpointError(f"{source} holds several state dicts: {pick_words(names, source)}")
    return next(node for node in found if node.name == chosen)


def _weights_alone(found: list[TreeNode], source: str) -> list[TreeNode]:
    """Leave out state dicts that are not weights, such as averages of gradients under the names of the weights.

    A layer may have such a name, and there is no model to tell. So only dicts are left out whose names are all names of
    the weights beside them.
    """
    states = [node for node in found if state_words(node.name.split("."))]
    weights = [node for node in found if node not in states]
    if states and not weights:
        raise CheckpointError(no_weights([node.name for node in states], source))
    names = [node.state().keys() for node in weights]
    return [*weights, *(node for node in states if not any(node.state().keys() <= of for of in names))]


def no_weights(names: Sequence[str], source: str) -> str:
    """Return a message that no part of a file is named like weights, and how to use one anyway."""
    return (
        f"{source} has no weights by the words of its names: they belong to optimisers, gradients and the like, which "
        f"use the names of the weights. Save model.state_dict(), or, to use one of them: "
        f"{pick_words(names, source)}"
    )


def require_tensors(root: TreeNode, source: str) -> None:
    """Raise if there is nothing that could be weights.

    Raises
    ------
    CheckpointError
    """
    if not root.leaves:
        raise CheckpointError(
            f"{source} contains no state dict: no named tensors, except perhaps the state of an optimiser. Save "
            "model.state_dict()."
        )


def pick_words(names: Sequence[str], source: str) -> str:
    """List places in a file, and how to choose one."""
    listed = ", ".join(name or "the tensors at its top" for name in names[:6]) + (", …" if len(names) > 6 else "")
    first = next((name for name in names if name), "")
    return f"{listed}. Say which one, after two colons: {source}{'.' if PICK in source else PICK}{first}"


def same_values(places: Sequence[Placement]) -> bool:
    """Return whether places have the same values, so that any of them can be used."""
    first = places[0].pairs
    return all(
        place.pairs.keys() == first.keys()
        and all(_same(node.value, first[name].value) for name, node in place.pairs.items())
        for place in places[1:]
    )


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, Tensor) and isinstance(b, Tensor) and algebra.same(a, b))


def choose(places: Sequence[Placement], source: str, what: str) -> Placement:
    """Choose among places that all fit a model.

    Raises
    ------
    CheckpointMismatchError
        If the choice is ambiguous; the message lists the places.
    """
    if len(places) == 1 or same_values(places):
        return places[0]
    names = [place.node.name for place in places]
    if (chosen := plain_choice(names)) is None:
        raise CheckpointMismatchError(f"Several state dicts in {source} fit {what}: {pick_words(names, source)}")
    return next(place for place in places if place.node.name == chosen)
