"""The proof: permute, run, compare, in float64.

A group read off a graph is a claim. It is accepted where a random permutation of it, in all weights and buffers that it
acts on, leaves the outputs on the example as they were, to 1e-10 of their largest entry; alone, and together with all
others. Where the joint proof fails, it is bisected. The proof is at random weights, of a variance that lets signals
pass (He et al. 2015), and with all biases, scales and statistics different: at initial weights, biases of zero and
scales of one would be silent. And it must be able to fail: moving a single tensor of the group has to change the
outputs, else nothing was shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lossnav.errors import NotDeterministicError, ObjectiveError
from lossnav.params import Params
from lossnav.symmetry.groups import Action, PermutationGroup, Permutations, draw, permute, settled
from lossnav.symmetry.network import CalledNetwork, largest_difference
from lossnav.symmetry.read import possible_outers

TOLERANCE = 1e-10  # of the largest entry of an output; float64 leaves 1e-15 to 1e-13
_NOISE = 0.3  # of a tensor's root mean square
_MORE = 6  # points that are tried where a group is silent

BROKEN = "the outputs change when it is permuted"
JOINTLY_BROKEN = "the outputs change when it is permuted together with the others"
SILENT = "the outputs on the example do not depend on it"


class Proof:
    """Weights in general position, and what the network gives there.

    Where a group is silent at random weights (BatchNorm statistics that do not fit them, or chance, may leave all units
    dead), the proof goes on at the network's own weights with noise, and then at other random weights, as well.

    Raises
    ------
    ObjectiveError
        If the outputs are not finite.
    NotDeterministicError
        If two runs differ.
    """

    def __init__(self, subject: CalledNetwork, actions: Sequence[Action], seed: int) -> None:
        self.subject, self.generator, self._actions = subject, torch.Generator().manual_seed(seed), actions
        self._own = subject.outputs(subject.state)
        if not _finite(self._own):
            raise ObjectiveError(
                f"The outputs of {subject.name} on the example are not finite (NaN or infinite), so that no "
                "permutation can be checked. Pass finite weights and an example on which the outputs are finite."
            )
        twice = largest_difference(self._own, subject.outputs(subject.state))
        if twice > TOLERANCE:
            raise NotDeterministicError(
                f"Two runs of {subject.name} on the same example differ by {twice:.2g} of the outputs. "
                "Pass a model without random draws, in eval mode."
            )
        self._points: list[tuple[Params, list[Tensor]]] = []
        self._tried = 0
        if not self._go_to(self._random()):
            self._go_on()

    def error(self, actions: Sequence[Action], permutations: Permutations) -> float:
        """Largest difference of the outputs after permuting, as a fraction of their largest entry."""
        return max(self._errors(actions, permutations, self._points))

    def shows(self, actions: Sequence[Action], permutations: Permutations) -> bool:
        """Whether the outputs change when a single tensor is permuted: the first, or the last."""
        there = [p for p in actions if any(name in permutations for name in p.groups())]
        alone = list(dict.fromkeys((there[0], there[-1])))
        seen = 0
        while True:  # points that were looked at already need no second look
            new, seen = self._points[seen:], len(self._points)
            if any(error > TOLERANCE for one in alone for error in self._errors([one], permutations, new)):
                return True
            if self._tried == _MORE:
                return False
            self._go_on()

    def _errors(
        self, actions: Sequence[Action], permutations: Permutations, points: Sequence[tuple[Params, list[Tensor]]]
    ) -> Iterator[float]:
        for state, outputs in points:
            yield largest_difference(outputs, self.subject.outputs(permute(state, actions, permutations)))

    def _go_to(self, state: Params) -> bool:
        outputs = self.subject.outputs(state)
        if _finite(outputs):
            self._points.append((state, outputs))
        return _finite(outputs)

    def _go_on(self) -> None:
        """Prove at one more point: at the network's own weights first, then at other random ones."""
        self._tried += 1
        if self._tried > 1:
            self._go_to(self._random())
        elif not self._go_to(self._near()):
            self._go_to(self.subject.state)

    def _random(self) -> Params:
        """Random weights through which signals pass; means about zero, variances about their own."""
        made = self._near()
        for name, tensor in made.items():
            if name in self.subject.params and tensor.dim() > 1:
                made[name] = self._noise(tensor) * math.sqrt(2 * len(tensor) / tensor.numel())
            elif tensor is not self.subject.state[name] and name.endswith("mean"):
                made[name] = _NOISE * self._noise(tensor)
        return made

    def _near(self) -> Params:
        """The network's own weights, and buffers that groups act on, with noise."""
        moved = {name for action in self._actions for name in action.names} | self.subject.params.keys()
        made = dict(self.subject.state)
        for name in (name for name in made if name in moved):  # in their order, so that the draws are the same
            tensor = made[name]
            if tensor.dtype != torch.float64 or not tensor.numel():
                continue
            noise = _NOISE * self._noise(tensor)
            if name in self.subject.buffers and bool((tensor >= 0).all()) and bool((tensor > 0).any()):
                made[name] = tensor * torch.exp(noise)  # a variance stays one
            else:
                made[name] = tensor + noise * max(float(tensor.square().mean().sqrt()), _NOISE)
        return made

    def _noise(self, tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=self.generator, dtype=torch.float64).to(tensor.device)


def prove(
    proof: Proof, groups: Sequence[PermutationGroup], actions: Sequence[Action]
) -> tuple[list[PermutationGroup], dict[str, str]]:
    """Prove groups alone and jointly.

    Returns
    -------
    proved : list of PermutationGroup
        Each with the larger of its errors, alone and in the joint proof.
    refused : dict of str to str
        Why the others are not.
    """
    passed, refused = [], {}
    actions = settled(actions, groups)
    for group in groups:
        made, reason = _alone(proof, group, groups, actions)
        if made is None:
            refused[group.name] = reason
        else:
            passed.append(made)
    kept = _jointly(proof, [], passed, actions)
    names = {group.name for group in kept}
    refused |= {group.name: JOINTLY_BROKEN for group in passed if group.name not in names}
    final = [replace(g, within=g.within if g.within in names else None) for g in kept]
    if final != kept:  # an outer group fell: prove what is left of the inner ones
        kept = _jointly(proof, [], final, actions)
        refused |= {g.name: JOINTLY_BROKEN for g in final if g not in kept}
    joint = proof.error(settled(actions, kept), draw(kept, proof.generator)) if kept else 0.0
    return [replace(group, error=max(group.error, joint)) for group in kept], refused


def _alone(
    proof: Proof, group: PermutationGroup, groups: Sequence[PermutationGroup], actions: Sequence[Action]
) -> tuple[PermutationGroup | None, str]:
    """A group that passes, in every unit of another by itself where that passes too; or why it does not."""
    with_outer = [group, *(g for g in groups if g.name == group.within)]
    permutations = {group.name: draw(with_outer, proof.generator)[group.name]}
    error = proof.error(actions, permutations)
    if error > TOLERANCE:
        return None, f"{BROKEN} (by {error:.1g})"
    if not proof.shows(actions, permutations):
        return None, SILENT
    for outer in possible_outers(group, actions) if group.within is None else ():
        wide = replace(group, within=outer)
        every = [wide, *(g for g in groups if g.name == outer)]
        finer = {group.name: draw(every, proof.generator)[group.name]}
        wider = proof.error(settled(actions, [wide]), finer)
        if wider <= TOLERANCE:
            return replace(wide, error=max(error, wider)), ""
    return replace(group, error=error), ""


def _jointly(
    proof: Proof, kept: list[PermutationGroup], more: list[PermutationGroup], actions: Sequence[Action]
) -> list[PermutationGroup]:
    """Those of some more groups that are proved together with what is kept, by bisection."""
    if not more or proof.error(settled(actions, [*kept, *more]), _draw_all([*kept, *more], proof)) <= TOLERANCE:
        return [*kept, *more]
    if len(more) == 1:
        return kept
    half = len(more) // 2
    return _jointly(proof, _jointly(proof, kept, more[:half], actions), more[half:], actions)


def _draw_all(groups: Sequence[PermutationGroup], proof: Proof) -> Permutations:
    names = {group.name for group in groups}
    return draw([replace(g, within=g.within if g.within in names else None) for g in groups], proof.generator)


def _finite(outputs: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in outputs)
