"""Which tensors of a file are which of a model: found by names and shapes, whatever was wrapped around either.

A file is a tree. Its dicts are nested (``{"state_dict": {...}, "ema": {...}}``), and so are the names in a state dict
(``module.layer1.0.weight``). A wrapper (DataParallel, torch.compile, FSDP, Lightning) adds a level to that tree. A
model has a place in it: the node below which its tensors lie by their own names, but for levels with one child only.
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
_DEEPEST, _MOST = 24, 1_000_000  # levels of dicts, and names: a file may refer to itself
_DICT = 10  # names that a dict counts for: of a few that hold each other millions can be made
_LONGEST = 100  # words in a name
_TRIED = 64  # places that are looked at for a message where none fits


@dataclass(eq=False, slots=True)
class TreeNode:
    """A level of names: what lies below it, and the value that has this very name.

    Attributes
    ----------
    name : str
        From the root of the file, levels with dots between them.
    value : Tensor or object or None
        A tensor, or the extra state of a module.
    nested : bool
        Whether this level is a dict of its own, not a part of a name.
    leaves : int
        Number of values here and below.
    """

    name: str = ""
    value: Any = None
    nested: bool = False
    leaves: int = 0
    children: dict[str, TreeNode] = field(default_factory=dict)

    def only(self) -> TreeNode | None:
        """The one child of a level that is nothing else."""
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
        """The level at a path below this one."""
        node: TreeNode | None = self
        for word in words:
            node = None if node is None else node.children.get(word)
        return node

    def state(self) -> dict[str, Any]:
        """What lies below this level, by its names from here on."""
        start = len(self.name) + 1 if self.name else 0
        return {node.name[start:]: node.value for node in self.values()}


def tree_of(content: Any) -> TreeNode:
    """Arrange what a file holds by its levels: tensors, and the extra state of modules; the rest is left out.

    The state of an optimiser (``state`` beside ``param_groups``) holds no weights and is left out too. Where there is
    no tensor at all, NumPy's arrays are taken for tensors; beside tensors they are numbers of the training.

    Raises
    ------
    CheckpointError
        If it refers to itself, is nested too deeply, or has too many names.
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
    """An array as a tensor, where torch has its kind of number; None where not."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):  # words, dates, or the bytes of another machine
        return None


def _grow(node: TreeNode, content: Any, count: int, around: tuple[int, ...], leaf: type) -> int:
    """Add what a dict or list holds; returns how many names there are by then."""
    if id(content) in around:
        raise CheckpointError(f"{_part(node)} refers to itself, so it is no checkpoint. Save model.state_dict().")
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
            raise CheckpointError(f"A name of {len(words):,} words is none of a module. Save model.state_dict().")
        below = node
        for word in words:
            below = below.children.setdefault(word, TreeNode(f"{below.name}.{word}" if below.name else word))
        count += len(words)
        if count > _MOST:
            raise CheckpointError(
                f"There are more names and dicts in it than in any model ({_MOST:,}). Save model.state_dict() alone."
            )
        if isinstance(value, Tensor) or is_extra:
            if below.value is not None:
                raise CheckpointError(f'There are two tensors called "{below.name}". Save model.state_dict() alone.')
            below.value = value
        else:
            below.nested = True
            count = _grow(below, value, count, around, leaf)
    return count


def _part(node: TreeNode) -> str:
    return f'What is called "{node.name[:60]}"' if node.name else "The file"


def _holds_tensors(values: Sequence[Any], leaf: type) -> bool:
    return any(isinstance(value, Mapping | leaf) for value in values)


def _count(root: TreeNode) -> None:
    """Count what lies below each level, and drop the levels below which there is nothing."""
    for node in reversed(list(root.walk())):
        node.children = {word: child for word, child in node.children.items() if child.leaves}
        node.leaves = (node.value is not None) + sum(child.leaves for child in node.children.values())


def drop_training_state(root: TreeNode, names: Iterable[str]) -> None:
    """Drop what lies under words of optimisers, gradients and the like, but for those that a model has itself.

    Parameters
    ----------
    root : TreeNode
        Of a file; changed in place.
    names : iterable of str
        Of the model's tensors: where a layer of it is called ``velocity``, one such word on a path is the layer's.
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
    """Where in a file the tensors of a model were found.

    Attributes
    ----------
    node : TreeNode
        Of the file.
    pairs : dict of str to Node
        By the model's names what the file has.
    """

    node: TreeNode
    pairs: dict[str, TreeNode]

    @property
    def extras(self) -> list[TreeNode]:
        """What lies at this place beside the model's tensors."""
        used = {id(node) for node in self.pairs.values()}
        start = len(self.node.name) + 1 if self.node.name else 0
        levels = {node.name[start:].partition(".")[0] for node in self.pairs.values()}
        in_dicts = any(self.node.children[word].nested for word in levels if word in self.node.children)
        return [node for node in self.node.values(nested=in_dicts) if id(node) not in used]


def shaped(value: Any, like: Any) -> bool:
    """Whether a value is a tensor of the shape of another (or of none, which is refused later), or extra state too."""
    if isinstance(value, Tensor) and isinstance(like, Tensor):
        return not has_shape(value) or value.shape == like.shape
    return not isinstance(like, Tensor)


def places_of(known: Mapping[str, Any], required: Iterable[str], file: TreeNode) -> list[Placement]:
    """Find where the tensors of a model may lie in a file: the places with some of them, those with most first.

    Parameters
    ----------
    known : mapping of str to Tensor or object
        Every tensor of the model by its names, and extra state of its modules.
    required : iterable of str
        Those that must be there.
    file : TreeNode
    """
    needed = set(required)
    models = [tree_of(known)]
    while (inner := models[-1].only()) is not None:  # the model itself is wrapped, or the file is of what is in it
        models.append(inner)
    found: dict[frozenset[int], tuple[tuple[int, int], Placement]] = {}
    rooms = [node for node in file.walk() if 2 * node.leaves >= max(1, len(needed))]  # half of them, for a message
    if not rooms:
        rooms = sorted(file.walk(), key=lambda node: -node.leaves)[:_TRIED]
    seen: set[int] = set()  # a level that holds all that the one above does, where that fits already
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
            if len(names) == node.leaves:  # nothing is left over
                seen.add(id(node))
        if id(node) in seen:
            seen |= {id(child) for child in node.children.values() if child.leaves == node.leaves}
    return [place for _, place in sorted(found.values(), key=lambda pair: pair[0], reverse=True)]


_NameAlignment = tuple[int, list[tuple[str, TreeNode]]]


def _aligned(model: TreeNode, file: TreeNode, done: dict[tuple[int, int], _NameAlignment]) -> _NameAlignment:
    """Pair the tensors below a level of a model with those below a level of a file; levels with one child may be left.

    Returns the pairs, and how good they are: 2 for each of the same shape, 1 for each of the same name alone.
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
    """A tensor's own name, which no wrapper changes: neither a bias nor a momentum is a weight."""
    return node.name.rpartition(".")[2]


def plain_choice(names: Sequence[str]) -> str | None:
    """Choose among the places of several state dicts the one that is meant where nothing is said, if there is one.

    That is the one whose name is one of a few usual ones (``state_dict``, ``model``, ...) where the names part, and
    the others' are not: the weights that were trained, beside averages of them (``ema``).

    >>> plain_choice(["state_dict", "state_dict_ema"]), plain_choice(["module.student", "module.teacher"])
    ('state_dict', None)
    """
    left = list(names)
    level = 0
    while len(left) > 1:
        words = [(name.split(".") if name else [])[level : level + 1] for name in left]
        if not all(words):  # one lies around the others
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
    """The levels of a file that are a dict of tensors by themselves, from above."""
    return [
        node
        for node in root.walk()
        if node.nested and any(part.value is not None for part in node.values(nested=False))
    ]


def without_model(root: TreeNode, source: str) -> TreeNode:
    """Choose the state dict of a file where no model says which one fits.

    Raises
    ------
    CheckpointError
        If there is none, or several and none is the usual choice.
    """
    require_tensors(root, source)
    found = _weights_alone(state_dicts(root), source)
    usual = [node for node in found if set(node.name.split(".")) & set(PLAIN)]
    names = [node.name for node in usual or found]
    if (chosen := plain_choice(names)) is None:
        raise CheckpointError(f"{source} holds several state dicts: {pick_words(names, source)}")
    return next(node for node in found if node.name == chosen)


def _weights_alone(found: list[TreeNode], source: str) -> list[TreeNode]:
    """Leave out the state dicts that are no weights, such as averages of gradients by the names of the weights.

    A layer may have such a word for its name, and no model is there to tell: what is left out has no names but those
    of the weights beside it.
    """
    states = [node for node in found if state_words(node.name.split("."))]
    weights = [node for node in found if node not in states]
    if states and not weights:
        raise CheckpointError(no_weights([node.name for node in states], source))
    names = [node.state().keys() for node in weights]
    return [*weights, *(node for node in states if not any(node.state().keys() <= of for of in names))]


def no_weights(names: Sequence[str], source: str) -> str:
    """Say that nothing in a file is weights by its name, and how to take it all the same."""
    return (
        f"{source} holds no weights by the words of its names: they are of optimisers, gradients and the like, which "
        f"are kept by the names of the weights. Save model.state_dict(); or, if you mean one of them: "
        f"{pick_words(names, source)}"
    )


def require_tensors(root: TreeNode, source: str) -> None:
    """Raise where there is nothing that could be weights.

    Raises
    ------
    CheckpointError
    """
    if not root.leaves:
        raise CheckpointError(
            f"{source} holds no state dict: no tensors by their names, but for the state of an optimiser perhaps. Save "
            "model.state_dict()."
        )


def pick_words(names: Sequence[str], source: str) -> str:
    """Name places in a file, and how to say which one is meant."""
    listed = ", ".join(name or "the tensors at its top" for name in names[:6]) + (", …" if len(names) > 6 else "")
    first = next((name for name in names if name), "")
    return f"{listed}. Say which one, after two colons: {source}{'.' if PICK in source else PICK}{first}"


def same_values(places: Sequence[Placement]) -> bool:
    """Whether places hold the same values, so that it does not matter which one is taken."""
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
        If it is not clear which one is meant; the message lists them.
    """
    if len(places) == 1 or same_values(places):
        return places[0]
    names = [place.node.name for place in places]
    if (chosen := plain_choice(names)) is None:
        raise CheckpointMismatchError(f"Several state dicts in {source} fit {what}: {pick_words(names, source)}")
    return next(place for place in places if place.node.name == chosen)
