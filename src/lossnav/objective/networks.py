"""What a network is at one moment apart from its code, weights and buffers, whatever it is taken from.

An end of a line is an objective, a module, a file or a state dict. The first two say which of their tensors are
parameters; a file and a dict do not, and are sorted by the first end beside them that does, or by the objective in the
end.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lossnav import checkpoints
from lossnav import params as algebra
from lossnav._utils.paths import is_url
from lossnav.checkpoints import weights
from lossnav.checkpoints.values import peculiarity, resolved
from lossnav.checkpoints.weights import Anatomy
from lossnav.errors import CheckpointMismatchError, OptionError, StructureMismatchError
from lossnav.objective.objective import Objective
from lossnav.params import Checkpoint, Params

End = Objective | nn.Module | str | os.PathLike[str] | Mapping[str, Tensor]


class ModuleIdentity:
    """The module that weights are of, as long as the user keeps it; another process does not know it."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self._module = None if module is None else weakref.ref(module)
        self._held_to: weakref.ref[Objective] | None = None

    def __reduce__(self) -> tuple[type[ModuleIdentity], tuple[()]]:
        return ModuleIdentity, ()

    def require_same_function(self, objective: Objective) -> None:
        """Hold the module to the network of an objective, once (see `Objective.require_same_function`).

        Raises
        ------
        StructureMismatchError
            If it is another function.
        """
        module = None if self._module is None else self._module()
        if module is None or (self._held_to is not None and self._held_to() is objective):
            return
        objective.require_same_function(module)
        self._held_to = weakref.ref(objective)


@dataclass(frozen=True, eq=False)
class Network:
    """The tensors of a network at one moment.

    Attributes
    ----------
    params : dict of str to Tensor
        What moves. Of a file or dict that nobody has sorted yet: all floating-point tensors.
    held : dict of str to Tensor
        Other parameters.
    buffers : dict of str to Tensor
        As far as they are known.
    source : str
        Where they come from, in words.
    anatomy : Anatomy or None
        What each tensor is, where that is known.
    decides : bool
        Whether it is an objective, by which others are sorted.
    in_file : bool
    path : str
        Of its file; empty where it is in none.
    extra : mapping of str to object
        The extra state of its modules, as far as it is known.
    code : ModuleIdentity
        Of a module.
    """

    params: Params
    held: Params
    buffers: Params
    source: str
    anatomy: Anatomy | None = None
    decides: bool = False
    in_file: bool = False
    path: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    code: ModuleIdentity = field(default_factory=ModuleIdentity)

    @cached_property
    def fingerprint(self) -> str:
        """Of the parameters that move, when it was first asked for; files have them in another order than models."""
        return _fingerprint(self.params)

    @property
    def has_changed(self) -> bool:
        """Whether somebody has written into the parameters since."""
        return _fingerprint(self.params) != self.fingerprint

    def is_sorted_by(self, anatomy: Anatomy) -> bool:
        """Whether these are already the tensors of this model, by its names, on its device and in its dtypes."""
        known = self.buffers.keys() <= anatomy.buffers.keys() and self.held.keys() <= anatomy.held.keys()
        return known and self.fits(anatomy.params)

    def fits(self, params: Mapping[str, Tensor]) -> bool:
        """Whether the parameters have these names and shapes, on this device and in this dtype."""
        return not algebra.first_difference(self.params, params) and all(
            (tensor.dtype, tensor.device) == (params[name].dtype, params[name].device)
            for name, tensor in self.params.items()
        )

    def sorted_by(self, anatomy: Anatomy) -> Network:
        """Return the same tensors by what they are in a model, with its dtypes, where its weights are.

        Raises
        ------
        CheckpointMismatchError, StructureMismatchError
            If they do not fit it; the first of a file.
        """
        try:
            found = anatomy.match(self.params | self.held | self.buffers | dict(self.extra))
            params, held, buffers = anatomy.split(found.tensors)
        except CheckpointMismatchError as error:
            raise self._mismatch(f"{self.source} does not fit. {error}") from error
        extra = self.extra if self.anatomy is not None else found.extra
        return replace(self, params=params, held=held, buffers=buffers, anatomy=anatomy, extra=extra)

    def named_as(self, other: Network) -> Network:
        """The same tensors by the names that another network has for them, where the two differ by wrappers alone."""
        mine, theirs = self.params | self.buffers, other.params | other.buffers
        if mine.keys() == theirs.keys():
            return self
        try:
            found = weights.fit(mine, other.params, other.buffers)
        except CheckpointMismatchError:
            return self
        params, buffers = ({n: found[n] for n in part if n in found} for part in (other.params, other.buffers))
        return replace(self, params=params, buffers=buffers)

    def require_buffers(self, anatomy: Anatomy) -> None:
        """Raise unless all buffers of a model that matter are known.

        Raises
        ------
        CheckpointMismatchError, StructureMismatchError
            The first of a file.
        """
        if missing := anatomy.missing(self.buffers):
            raise self._mismatch(
                f"{self.source} has no {named(missing)} of {anatomy.name}. A network is its weights and its buffers, "
                "and with those of another it is another network. Pass what holds both: an objective "
                '(objective.at(state), or objective.at(state, missing="keep") for the buffers it has), the module, '
                "its state_dict(), or a file of that."
            )

    def require_held(self, anatomy: Anatomy) -> None:
        """Raise unless what the model holds still, parameters and extra state, is its own here too."""
        if name := anatomy.other_extra(self.extra):
            raise StructureMismatchError(
                f'{self.source} has another "{name}" (get_extra_state) than the objective of {anatomy.name}, and no '
                "chart moves that, so that none leads there. Keep it as a buffer, or give both the same."
            )
        for name, tensor in self.held.items():
            if name in anatomy.held and not algebra.same(tensor, anatomy.held[name]):
                raise StructureMismatchError(
                    f'{self.source} has another "{name}", which the objective of {anatomy.name} holds still, so that '
                    "no chart of its other parameters leads there. Let all of them move (params='all'), or keep what "
                    'is held: objective.at(the moving parameters, missing="keep").'
                )

    def _mismatch(self, message: str) -> CheckpointMismatchError | StructureMismatchError:
        return CheckpointMismatchError(message) if self.in_file else StructureMismatchError(message)


def _fingerprint(params: Params) -> str:
    return algebra.fingerprint(dict(sorted(params.items())))


def network_of(end: End | Network, anatomy: Anatomy | None = None) -> Network:
    """Take apart an objective, a module, a file or a dict; a file by what its tensors are, where that is known.

    Raises
    ------
    OptionError
        If it is none of these.
    CheckpointError
        If the file cannot be read, or does not fit.
    """
    if isinstance(end, Network):
        return end
    if isinstance(end, Objective):
        parts = end.anatomy
        source = f"The objective of {end.name}"
        return Network(parts.params, parts.held, parts.buffers, source, parts, decides=True, extra=parts.extra)
    if isinstance(end, nn.Module):
        parts = weights.anatomy_of(end)
        buffers = algebra.copy(parts.buffers)  # training goes on with the module's own
        return Network(
            parts.params, parts.held, buffers, f"The {parts.name}", parts, extra=parts.extra, code=ModuleIdentity(end)
        )
    if isinstance(end, str | os.PathLike):
        source = f"The checkpoint {os.fspath(end)}"
        path = os.fspath(end) if is_url(end) else os.path.abspath(os.path.expanduser(end))
        if anatomy is None:
            return replace(_loose(checkpoints.load(end), source, in_file=True), path=path)
        given = weights.stored(end)
        found = anatomy.match(given)
        params, held, buffers = anatomy.split(found.tensors)
        if given.adapter is not None:  # which has none of its own
            buffers = anatomy.buffers
        return Network(params, held, buffers, source, anatomy, in_file=True, path=path, extra=found.extra)
    if isinstance(end, Checkpoint):
        return Network(algebra.detach(end), {}, end.buffers, "A point of a chart")
    if isinstance(end, Mapping):
        return _loose(end, "A dict of tensors")
    raise OptionError(
        f"An end is a {type(end).__name__}. Pass an objective, a module, the path of a checkpoint, or a state dict."
    )


def _loose(tensors: Mapping[str, Any], source: str, in_file: bool = False) -> Network:
    given = {name: resolved(tensor.detach()) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    for name, tensor in given.items():
        if any(found := peculiarity(tensor)):
            kind = CheckpointMismatchError if in_file else StructureMismatchError
            raise kind(f'"{name}" of {source[0].lower()}{source[1:]} {found[0]}, and no line leads there. {found[1]}')
        if tensor.is_floating_point() and tensor.itemsize == 1:  # no sums of these are there
            given[name] = tensor.float()
    floating = {name: tensor for name, tensor in given.items() if tensor.is_floating_point()} or given
    others = {name: tensor.clone() for name, tensor in given.items() if name not in floating}
    return Network(floating, {}, others, source, in_file=in_file, extra=weights.extra_of(tensors))


def together(*ends: End | Network) -> list[Network]:
    """Take ends apart, and sort those that do not know what their tensors are by the first that does.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError
        If one lacks a tensor, or has it in another shape; the second of a file.
    """
    known = [end for end in ends if isinstance(end, Network | Objective | nn.Module)]
    anatomy = leading(map(network_of, known))
    networks = [network_of(end, anatomy) for end in ends]
    if anatomy is None:
        return [networks[0], *(network.named_as(networks[0]) for network in networks[1:])]
    first = next((end for end in ends if isinstance(end, Objective)), None)
    if first is not None:
        for end, network in zip(ends, networks, strict=True):
            network.code.require_same_function(first)
            if end is not first and isinstance(end, Objective):
                first.require_same_function(end)
    found = []
    for network in networks:
        sorted_ = network if network.decides else network.sorted_by(anatomy)
        if not network.decides:
            sorted_.require_buffers(anatomy)
        found.append(sorted_)
    if more := differing(anatomy, found):
        anatomy = anatomy.letting_move(more)
        found = [network if network.is_sorted_by(anatomy) else network.sorted_by(anatomy) for network in found]
    return found


def differing(anatomy: Anatomy, networks: Sequence[Network]) -> set[str]:
    """Names of parameters that a model holds still by the rule alone and that are not the same in all these networks.

    A line between two of them leads along what is frozen too: at its end lies a network, not a part of one.
    """
    if not anatomy.free:
        return set()
    more = {name for network in networks for name in network.params if name in anatomy.held}
    for name, tensor in anatomy.held.items():
        others = [network.held[name] for network in networks if name in network.held]
        if not all(_is_one(other, tensor) or algebra.same(other.to(tensor), tensor) for other in others):
            more.add(name)
    return {name for name in more if anatomy.held[name].is_floating_point()}


def _is_one(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same memory, such as that of a frozen base that two models share."""
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    return a.data_ptr() == b.data_ptr() and (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())


def leading(networks: Iterable[Network]) -> Anatomy | None:
    """What the tensors are of the first objective among these, else of the first module."""
    known = [network for network in networks if network.anatomy is not None]
    return next((network.anatomy for network in known if network.decides), known[0].anatomy if known else None)


def moved(a: Network, b: Network) -> list[str]:
    """Names of the buffers in which two networks differ, as far as they are known of both."""
    return sorted(n for n, t in a.buffers.items() if n in b.buffers and not algebra.same(t, b.buffers[n]))


def coincidence(a: Network, b: Network) -> str:
    """Say that no direction leads from one network to another, since they have the same weights; empty where not."""
    if a.fingerprint != b.fingerprint:
        return ""
    sources = f"{a.source} and {b.source[0].lower()}{b.source[1:]}"
    if not (names := moved(a, b)):
        return f"{sources} have the same weights, so no direction leads from one to the other. Pass two that differ."
    return (
        f"{sources} have the same weights and differ in {len(names)} buffers ({named(names)}), and a chart leads along "
        "weights. Evaluate each by itself (objective.at(...)); what lies between: objective.evaluate(objective.params, "
        "{name: torch.lerp(a[name], b[name], t) for name in names}), with the buffers a and b of the two."
    )


def named(names: list[str]) -> str:
    """Some names in words, three at most."""
    words = ", ".join(f'"{name}"' for name in names[:3])
    return words if len(names) <= 3 else f"{words} and {len(names) - 3} more"
