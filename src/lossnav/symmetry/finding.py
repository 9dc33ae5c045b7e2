"""`ln.symmetries`: which permutations of a network's units leave its function as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lossnav.errors import OptionError
from lossnav.objective.objective import Objective
from lossnav.params import Checkpoint, Params
from lossnav.symmetry import groups as acting
from lossnav.symmetry.experts import with_experts
from lossnav.symmetry.groups import Action, PermutationGroup, Permutations
from lossnav.symmetry.network import CalledNetwork
from lossnav.symmetry.prove import Proof, prove
from lossnav.symmetry.read import described, read

_MOST_LINES = 40


@dataclass(frozen=True)
class Symmetries:
    """Groups of permutations of a network, each proved. Printed, it is a table.

    Attributes
    ----------
    name : str
        Of the model.
    groups : tuple of PermutationGroup
        By name, size, the group it lies within, tensors it acts on, and proof error.
    actions : tuple of Action
        How the groups act on each tensor.
    error : float
        Largest difference of the outputs when all groups are permuted at once, at the network's own weights, as a
        fraction of the largest output, in float64.
    refused : dict of str to str
        Groups that were read off the graph and not proved, with what the proof found.
    held : dict of (str, int) to str
        Axes of weights that no group permutes, and the operator that fixes them, by tensor and axis.
    weights : tuple of str
        All weights of the network.
    without_rule : dict of str to int
        Operators that have no rule, with the number of calls.
    """

    name: str
    groups: tuple[PermutationGroup, ...]
    actions: tuple[Action, ...]
    error: float
    refused: Mapping[str, str]
    held: Mapping[tuple[str, int], str]
    weights: tuple[str, ...]
    without_rule: Mapping[str, int]

    @property
    def moved(self) -> tuple[str, ...]:
        """Weights that at least one group acts on."""
        acted = {name for action in self.actions for name in action.names}
        return tuple(name for name in self.weights if name in acted)

    def draw(self, seed: int = 0) -> Permutations:
        """Draw a random permutation of every group.

        Returns
        -------
        dict of str to Tensor of int64
            By the group's name, shape (size,), or (size of the outer group, size) for a group within another.
        """
        return acting.draw(self.groups, torch.Generator().manual_seed(seed))

    def permute(self, params: Mapping[str, Tensor], permutations: Mapping[str, Tensor]) -> Checkpoint:
        """Permute weights, and the buffers that belong to them.

        Parameters
        ----------
        params : mapping of str to Tensor
            A point: parameters, with `buffers` beside them where it is a Checkpoint, or a state dict of both.
        permutations : mapping of str to Tensor
            As of `draw`; a group that is left out stays.

        Returns
        -------
        Checkpoint
            Unit i of the result is unit ``permutations[group][i]`` of what was given.

        Raises
        ------
        OptionError
            If there is no such group, or what is given for one is no permutation of it.
        """
        checked = self._checked(permutations)
        buffers: Params = dict(getattr(params, "buffers", {}))
        made = acting.permute(dict(params) | buffers, self.actions_in(dict(params) | buffers), checked)
        return Checkpoint({name: made[name] for name in params}, {name: made[name] for name in buffers})

    def actions_in(self, state: Mapping[str, Tensor]) -> list[Action]:
        """Actions whose tensors a point has; buffers may be missing."""
        return [p for p in self.actions if all(name in state for name in p.names)]

    def _checked(self, permutations: Mapping[str, Tensor]) -> Permutations:
        sizes = {group.name: group.size for group in self.groups}
        for name, given in permutations.items():
            if name not in sizes:
                raise OptionError(f'There is no group "{name}". The groups are: {", ".join(sizes) or "none"}.')
            within = next(group.within for group in self.groups if group.name == name)
            shape = (sizes[name],) if within is None else (sizes[within], sizes[name])
            rows = torch.as_tensor(given)
            if rows.shape != shape or not bool((rows.sort(-1).values == torch.arange(sizes[name])).all()):
                raise OptionError(
                    f'What was passed for "{name}" is no permutation of its {sizes[name]} units. Pass whole numbers of '
                    f"shape {shape}, each from 0 to {sizes[name] - 1} once."
                )
        return {name: torch.as_tensor(given).to("cpu", torch.int64) for name, given in permutations.items()}

    def __str__(self) -> str:
        n = len(self.weights)
        lines = [
            f"symmetries of {self.name}: {len(self.groups)} groups, {len(self.moved)} of {n} weights move, "
            f"all at once change the outputs by {self.error:.1e} of their largest",
            "",
        ]
        rows = [("group", "size", "within", "tensors", "error")]
        rows += [
            (g.name, str(g.size), g.within or "", str(len(g.tensors)), f"{g.error:.1e}")
            for g in self.groups[:_MOST_LINES]
        ]
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        lines += [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        if len(self.groups) > _MOST_LINES:
            lines.append(f"and {len(self.groups) - _MOST_LINES} more")
        for name, reason in self.refused.items():
            lines.append(f"refused: {name}: {reason}")
        for reason, count in Counter(self.held.values()).most_common():
            example = next(f"{name}[{i}]" for (name, i), why in self.held.items() if why == reason)
            lines.append(f"held by {reason}: {count} axes, as {example}")
        return "\n".join(lines)


def symmetries(source: Objective | nn.Module, example: Any = None, *, seed: int = 0) -> Symmetries:
    """Find the permutations of units that leave a network's function as it is, and prove each.

    The network runs once on the example while its operators are watched; what each operator does to the axes of its
    tensors says which axes are permuted together. Each group found is proved: a random permutation of it, in float64,
    must leave the outputs as they were, alone and with all others. What an unknown operator touches stays fixed: there
    may be groups that are not found, but none that is not one.

    Parameters
    ----------
    source : Objective or nn.Module
        An objective is called on its first batch, as the objective calls its model. Neither is changed.
    example : tensor, tuple or dict, optional
        What a module is called with: one argument, several, or arguments by name. Of an objective, another batch. Two
        samples and a few positions are enough; a recurrent network needs two steps.
    seed : int
        Of the permutations that the proof draws.

    Returns
    -------
    Symmetries
        `groups`, each with size, tensors and proof error (largest difference of the outputs over their largest entry);
        `permute` to act with them.

    Raises
    ------
    OptionError
        If a module comes without an example, or the source is a bare function.
    ObjectiveError
        If the module cannot be copied, or its outputs are not finite.
    NotDeterministicError
        If two runs on the example differ.
    DataError
        If the outputs hold no tensor.

    References
    ----------
    Ainsworth et al. 2023, "Git Re-Basin", section 2, for permutations of units; groups are found here from the graph.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
    >>> found = symmetries(model, torch.ones(3, 2))
    >>> [(group.name, group.size, group.tensors) for group in found.groups]
    [('0.weight[0]', 5, ('0.weight', '0.bias', '2.weight'))]
    >>> reverse = {"0.weight[0]": torch.arange(4, -1, -1)}
    >>> there = found.permute(dict(model.named_parameters()), reverse)
    >>> bool((there["0.bias"] == model[0].bias.flip(0)).all())
    True
    """
    return find(CalledNetwork(source, example), seed)


def find(subject: CalledNetwork, seed: int) -> Symmetries:
    """Find the symmetries of a network that is ready to be called."""
    tracer, found = subject.trace()
    claimed, actions, held = read(subject, tracer, found)
    proof = Proof(subject, actions, seed)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items() if name not in subject.held}
    claimed, actions = with_experts(proof, claimed, actions, shapes, held)
    proved, refused = prove(proof, claimed, actions)
    for name, reason in refused.items():
        held |= {(p.names[0], i): reason for p in actions for i, a in enumerate(p.axes) if name in a.groups()}
    fallen = set(refused)
    kept = [Action(p.names, tuple(axis.without(fallen) for axis in p.axes)) for p in actions]
    kept = acting.settled([action for action in kept if action.groups()], proved)
    held = {place: why for place, why in held.items() if not any(_acts(p, place) for p in kept)}
    error = 0.0
    if proved:
        there = acting.permute(subject.state, kept, acting.draw(proved, proof.generator))
        error = subject.difference(subject.state, there)
    return Symmetries(
        subject.name,
        tuple(described(replace(group), kept) for group in proved),
        tuple(kept),
        error,
        refused,
        held,
        tuple(subject.params),
        dict(tracer.without_rule),
    )


def _acts(action: Action, place: tuple[str, int]) -> bool:
    name, axis = place
    return action.names == (name,) and next(action.axes[axis].groups(), None) is not None
