"""The tensors of a network at one moment, whatever they are taken from: an objective, a module, a file or a dict.

The ends of a line are objectives, modules, files or state dicts. Objectives and modules know which of their tensors are
parameters. The tensors of files and dicts are sorted by the first end that knows, or else by the objective.
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
    """The module that weights belong to, as long as the user keeps it; another process does not know it."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self._module = None if module is None else weakref.ref(module)
        self._held_to: weakref.ref[Objective] | None = None

    def __reduce__(self) -> tuple[type[ModuleIdentity], tuple[()]]:
        return ModuleIdentity, ()

    def require_same_function(self, objective: Objective) -> None:
        """Compare the module with the network of an objective, once (see `Objective.require_same_function`).

        Raises
        ------
        StructureMismatchError
            If it computes another function.
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
        Parameters that move. In a file or dict that is not sorted yet: all floating-point tensors.
    held : dict of str to Tensor
        Other parameters.
    buffers : dict of str to Tensor
        Buffers that are known.
    source : str
        Where the tensors come from, for messages.
    anatomy : Anatomy or None
        What each tensor is, if this is known.
    decides : bool
        Whether it is an objective, which decides how others are sorted.
    in_file : bool
    path : str
        Path of its file; empty if there is none.
    extra : mapping of str to object
        The extra state of its modules, if known.
    code : ModuleIdentity
        The module, if it was one.
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
        """Fingerprint of the moving parameters at the first call, in alphabetical order: files have another order."""
        return _fingerprint(self.params)

    @property
    def has_changed(self) -> bool:
        """Whether the parameters have changed since `fingerprint` was first read."""
        return _fingerprint(self.params) != self.fingerprint

    def is_sorted_by(self, anatomy: Anatomy) -> bool:
        """Whether the tensors already have the names, devices and dtypes of this model."""
        known = self.buffers.keys() <= anatomy.buffers.keys() and self.held.keys() <= anatomy.held.keys()
        return known and self.fits(anatomy.params)

    def fits(self, params: Mapping[str, Tensor]) -> bool:
        """Whether the parameters have these names and shapes, this device and this dtype."""
        return not algebra.first_difference(self.params, params) and all(
            (tensor.dtype, tensor.device) == (params[name].dtype, params[name].device)
            for name, tensor in self.params.items()
        )

    def sorted_by(self, anatomy: Anatomy) -> Network:
        """Return the same tensors sorted as in a model, with its dtypes and on its device.

        Raises
        ------
        CheckpointMismatchError, StructureMismatchError
            If they do not fit the model; CheckpointMismatchError for a file.
        """
        try:
            found = anatomy.match(self.params | self.held | self.buffers | dict(self.extra))
            params, held, buffers = anatomy.split(found.tensors)
        except CheckpointMismatchError as error:
            raise self._mismatch(f"{self.source} does not fit. {error}") from error
        extra = self.extra if self.anatomy is not None else found.extra
        return replace(self, params=params, held=held, buffers=buffers, anatomy=anatomy, extra=extra)

    def named_as(self, other: Network) -> Network:
        """The same tensors with the names of another network, if only prefixes of wrappers differ."""
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
        """Raise unless all required buffers of a model are known.

        Raises
        ------
        CheckpointMismatchError, StructureMismatchError
            CheckpointMismatchError for a file.
        """
        if missing := anatomy.missing(self.buffers):
            raise self._mismatch(
                f"{self.source} has no {named(missing)} of {anatomy.name}. With the buffers of another network it "
                "would be another network. Pass something that has both weights and buffers: an objective "
                '(objective.at(state), or objective.at(state, missing="keep") to keep the buffers of the objective), '
                "the module, its state_dict(), or a file of that."
            )

    def require_held(self, anatomy: Anatomy) -> None:
        """Raise unless the held parameters and the extra state are those of the model."""
        if name := anatomy.other_extra(self.extra):
            raise StructureMismatchError(
                f'{self.source} has another extra state "{name}" (get_extra_state) than the objective of '
                f"{anatomy.name}, and a chart does not change extra state. Keep it as a buffer, or give both the "
                "same."
            )
        for name, tensor in self.held.items():
            if name in anatomy.held and not algebra.same(tensor, anatomy.held[name]):
                raise StructureMismatchError(
                    f'{self.source} has another "{name}", which the objective of {anatomy.name} holds fixed, so no '
                    "chart of the moving parameters leads there. Let all parameters move (params='all'), or keep the "
                    'held ones: objective.at(the moving parameters, missing="keep").'
                )

    def _mismatch(self, message: str) -> CheckpointMismatchError | StructureMismatchError:
        return CheckpointMismatchError(message) if self.in_file else StructureMismatchError(message)


def _fingerprint(params: Params) -> str:
    return algebra.fingerprint(dict(sorted(params.items())))


def network_of(end: End | Network, anatomy: Anatomy | None = None) -> Network:
    """Take the tensors of an objective, a module, a file or a dict; those of a file are sorted if an anatomy is given.

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
        buffers = algebra.copy(parts.buffers)  # training may continue with the buffers of the module
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
        if given.adapter is not None:  # an adapter has no buffers
            buffers = anatomy.buffers
        return Network(params, held, buffers, source, anatomy, in_file=True, path=path, extra=found.extra)
    if isinstance(end, Checkpoint):
        return Network(algebra.detach(end), {}, end.buffers, "A point of a chart")
    if isinstance(end, Mapping):
        return _loose(end, "A dict of tensors")
    raise OptionError(
        f"One end is a {type(end).__name__}. Pass an objective, a module, the path of a checkpoint, or a state dict."
    )


def _loose(tensors: Mapping[str, Any], source: str, in_file: bool = False) -> Network:
    given = {name: resolved(tensor.detach()) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    for name, tensor in given.items():
        if any(found := peculiarity(tensor)):
            kind = CheckpointMismatchError if in_file else StructureMismatchError
            raise kind(f'"{name}" of {source[0].lower()}{source[1:]} {found[0]}, so no line can lead there. {found[1]}')
        if tensor.is_floating_point() and tensor.itemsize == 1:  # torch has no arithmetic for these dtypes
            given[name] = tensor.float()
    floating = {name: tensor for name, tensor in given.items() if tensor.is_floating_point()} or given
    others = {name: tensor.clone() for name, tensor in given.items() if name not in floating}
    return Network(floating, {}, others, source, in_file=in_file, extra=weights.extra_of(tensors))


def together(*ends: End | Network) -> list[Network]:
    """Take the tensors of several ends, and sort those of files and dicts by the first end that knows how.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError
        If one lacks a tensor or has it in another shape; CheckpointMismatchError for a file.
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
    """Names of parameters that only the rule holds fixed and that are not the same in all these networks.

    A line between two networks moves these too: at its end is a network, not a part of one.
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
    """Whether two tensors share their memory, as a frozen base that two models share."""
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    return a.data_ptr() == b.data_ptr() and (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())


def leading(networks: Iterable[Network]) -> Anatomy | None:
    """The anatomy of the first objective among these, else of the first module."""
    known = [network for network in networks if network.anatomy is not None]
    return next((network.anatomy for network in known if network.decides), known[0].anatomy if known else None)


def moved(a: Network, b: Network) -> list[str]:
    """Names of the buffers in which two networks differ, among those known of both."""
    return sorted(n for n, t in a.buffers.items() if n in b.buffers and not algebra.same(t, b.buffers[n]))


def coincidence(a: Network, b: Network) -> str:
    """Explain that two networks have the same weights and no direction between them; empty if they differ."""
    if a.fingerprint != b.fingerprint:
        return ""
    sources = f"{a.source} and {b.source[0].lower()}{b.source[1:]}"
    if not (names := moved(a, b)):
        return f"{sources} have the same weights, so no direction leads from one to the other. Pass two that differ."
    return (
        f"{sources} have the same weights and differ only in {len(names)} buffers ({named(names)}), which a chart "
        "does not move. Evaluate each of them (objective.at(...)), or points between them: "
        "objective.evaluate(objective.params, {name: torch.lerp(a[name], b[name], t) for name in names}), with the "
        "buffers a and b of the two."
    )


def named(names: list[str]) -> str:
    """Some names for a message, at most three."""
    words = ", ".join(f'"{name}"' for name in names[:3])
    return words if len(names) <= 3 else f"{words} and {len(names) - 3} more"
