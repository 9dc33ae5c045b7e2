"""`ln.align`: another network's weights, permuted towards one's own; the function is the same."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lossnav._utils.conclusion import conclude
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav._utils.threads import in_threads
from lossnav._utils.validation import described
from lossnav.errors import ObjectiveError, OptionError
from lossnav.objective.batch_tensors import map_tensors, to_double
from lossnav.objective.networks import End, Network, together
from lossnav.objective.objective import Objective
from lossnav.params import Checkpoint, Params
from lossnav.symmetry.activations import activations
from lossnav.symmetry.finding import Symmetries, find
from lossnav.symmetry.groups import Permutations, identity, permute, permuted
from lossnav.symmetry.matching import AscentResult, TensorPair, by_sorted_rows, match
from lossnav.symmetry.network import CalledNetwork

MatchingMethod = Literal["weights", "activations"]
_MOST_ROUNDS = 20
_BATCHES = 8
_ALIKE = 1e-12  # of the largest value there can be, that of a copy: nothing is left to find
_BY_WEIGHTS = 1e-4  # of the sum by activations: what weights add to it


@dataclass(frozen=True, eq=False)
class Alignment:
    """Networks whose units are in the order of the first one's. Printed, it says how and how well.

    Attributes
    ----------
    points : tuple of Checkpoint
        Weights and buffers of every network: the first as it was, the others permuted.
    permutations : tuple of dict of str to Tensor
        For every network its permutation of each group: unit i of the result is unit p[i] of what was given. Of a group
        within another a row for each unit of that (see `PermutationGroup`).
    values : tuple of tuple of float
        For every network but the first the objective that each start ended at: Σ ⟨a, b permuted⟩ over the tensors (or
        standardised activations) that groups act on. The highest is taken; a start that reaches the largest value there
        can be, that of a permuted copy, is the last. More than two networks are then aligned in
        turns, which `objective` holds.
    objective : float
        The same sum over all pairs of networks at the end.
    before : float
        That sum for the networks as they were given.
    error : float
        The proof that no function has changed: largest difference of the outputs on the example, in float64, as a
        fraction of their largest entry.
    method : str
    seed : int
    symmetries : Symmetries
    """

    points: tuple[Checkpoint, ...]
    permutations: tuple[Permutations, ...]
    values: tuple[tuple[float, ...], ...]
    objective: float
    before: float
    error: float
    method: MatchingMethod
    seed: int
    symmetries: Symmetries

    @property
    def params(self) -> Checkpoint:
        """The second network's weights, permuted; a Checkpoint, which carries its buffers to any chart."""
        return self.points[1]

    @property
    def buffers(self) -> Params:
        """The second network's buffers, permuted."""
        return self.points[1].buffers

    def __str__(self) -> str:
        groups = self.symmetries.groups
        moved = sum(
            int((p[g.name] != identity(groups)[g.name]).sum()) for p in self.permutations[1:] for g in groups
        )  # units that are elsewhere
        units = sum(p[g.name].numel() for p in self.permutations[1:] for g in groups)
        lines = [
            f"alignment of {len(self.points)} networks by {self.method}, {self.symmetries.name}",
            f"groups      {len(groups)}, on {len(self.symmetries.moved)} of {len(self.symmetries.weights)} weights",
            f"units       {moved} of {units} moved",
            f"objective   {self.before:.6g} as given, {self.objective:.6g} aligned",
            *(f"starts      {', '.join(f'{value:.6g}' for value in values)}" for values in self.values),
            f"proof       outputs changed by {self.error:.1e} of their largest",
        ]
        return "\n".join(lines)


def align(
    a: Objective | nn.Module | Sequence[End],
    b: End | None = None,
    method: MatchingMethod = "weights",
    *,
    restarts: int = 10,
    data: Any = None,
    seed: int = 0,
    symmetries: Symmetries | None = None,
    progress: bool | None = None,
) -> Alignment:
    """Permute a network's units so that they are in the order of another's.

    The symmetries of the first network are found and proved (`ln.symmetries`). By "weights", the permutations maximise
    Σ ⟨a, b permuted⟩ over all tensors that groups act on, by coordinate ascent with linear assignments from several
    starts; by "activations", the sum of the correlations of matched units over data. Both are local maxima of hard
    problems, and the best start is taken. Nothing that is given is changed.

    Parameters
    ----------
    a : Objective or nn.Module, or a sequence of networks
        The network that the other is brought to. Of a sequence, the first; the others are first aligned with it, and
        then each in turn with the mean of all others, until none gains.
    b : Objective, nn.Module, path or dict of str to Tensor
        The other network: weights and buffers of the same architecture.
    method : "weights" or "activations"
    restarts : int
        Starts of the ascent: as given, by sorted rows (which finds a mere permutation of `a`), and from random
        permutations.
    data : optional
        What a module is called with, as in `ln.symmetries`; by "activations" also a list of such batches. By default
        the first eight batches of the objective.
    seed : int
        Of random starts, of the order of groups, and of rows of activations.
    symmetries : Symmetries, optional
        Those of `a`, where they are known already.
    progress : bool or None
        Whether to show a progress bar of the starts (None: on a terminal).

    Returns
    -------
    Alignment
        `params` is the permuted network, weights and buffers, and an end of any chart:
        ``ln.Line(a, ln.directions.between(a, ln.align(a, b).params))``.

    Raises
    ------
    OptionError
        If there are not two networks, an option is unknown, or a module comes without data.
    StructureMismatchError, CheckpointMismatchError
        If names or shapes of the networks differ; the second for a file.
    ObjectiveError
        If weights are not finite.
    Interrupted
        After Ctrl-C or SIGTERM, with the best alignment so far in ``.partial``: what it holds is proved too.

    References
    ----------
    Ainsworth et al. 2023, "Git Re-Basin", algorithm 1, section 3.1 (activations) and algorithm 3 (several networks).
    Departures: several starts; all symmetries that are found are used, attention heads with their widths and experts
    too; a group and those within it are solved together.

    Examples
    --------
    >>> a = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
    >>> order = torch.tensor([3, 0, 4, 1, 2])
    >>> b = {"0.weight": a[0].weight[order], "0.bias": a[0].bias[order], "2.weight": a[2].weight[:, order]}
    >>> alignment = align(a, b | {"2.bias": a[2].bias}, data=torch.ones(3, 2))
    >>> bool((alignment.params["0.weight"] == a[0].weight).all())
    True
    """
    if method not in ("weights", "activations"):
        raise OptionError(f'method is {method!r}. Pass "weights" or "activations".')
    if isinstance(restarts, bool) or not isinstance(restarts, int) or restarts < 1:
        raise OptionError(f"restarts is {described(restarts)}. Pass a whole number from 1 upwards.")
    first, networks = _networks(a, b)
    hold = networks[0].held
    batches = _batches(first, data, method)
    subject = CalledNetwork(first, None if isinstance(first, Objective) and data is None else batches[0], hold)
    states = [_state(network, networks[0]) for network in networks]
    symmetries = find(subject, seed) if symmetries is None else symmetries
    exact = [{name: to_double(tensor) for name, tensor in state.items()} for state in states]
    tensors = _tensors(symmetries, subject, exact, batches, method, seed)
    with Progress("align", restarts * (len(states) - 1), "starts", progress) as bar, StopRequests() as stop:
        found, values = _starts(symmetries, tensors, len(states), restarts, seed, bar, stop)
        found, objective = _in_turns(symmetries, tensors, found, seed, stop)
    actions = symmetries.actions
    points = []
    error = 0.0
    for network, state, wide, own in zip(networks, states, exact, found, strict=True):
        moved = permute(state, actions, own)
        points.append(
            Checkpoint({n: moved[n].clone() for n in network.params}, {n: moved[n].clone() for n in network.buffers})
        )
        if own is not found[0]:
            error = max(error, subject.difference(wide, permute(wide, actions, own)))
    before = sum(_dot(tensors, k, j) for k in range(len(states)) for j in range(k))
    made = Alignment(tuple(points), tuple(found), values, objective, before, error, method, seed, symmetries)
    kept = "The best alignment so far is in the .partial of this exception."
    return conclude(made, stop.signal, f"{sum(map(len, values))} starts", kept=kept)


# ---------------------------------------------------------------------- what is given


def _networks(a: Any, b: Any) -> tuple[Objective | nn.Module, list[Network]]:
    ends = [a, b] if b is not None else list(a) if isinstance(a, list | tuple) else [a]
    if len(ends) < 2:
        raise OptionError("There is one network to align. Pass two, ln.align(a, b), or several, ln.align([a, b, c]).")
    if not isinstance(ends[0], Objective | nn.Module):
        raise OptionError(
            f"The first network is {described(ends[0])}, which does not say what its code is. Pass an objective or a "
            "module first; the others may be files and state dicts."
        )
    networks = together(*ends)
    for network in networks:
        for name, tensor in (network.params | network.buffers).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ObjectiveError(
                    f'"{name}" of {network.source[0].lower()}{network.source[1:]} is not finite (NaN or infinite). '
                    "Pass weights of a run that did not diverge."
                )
    return ends[0], networks


def _state(network: Network, first: Network) -> Params:
    """All tensors of a network; buffers that no file has are those of the first."""
    state = first.buffers | network.params | network.held | network.buffers
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def _batches(first: Objective | nn.Module, data: Any, method: MatchingMethod) -> list[Any]:
    """What the network is called with, the example first."""
    if data is None and isinstance(first, Objective):
        source: Iterable[Any] = first.forward_pass.batches or ()
        made = []
        for batch in source:
            made.append(map_tensors(batch, to_double))
            if len(made) == (_BATCHES if method == "activations" else 1):
                break
        return made
    if data is None:
        raise OptionError(
            "A module alone does not say what it is called with. Pass an example of its input: ln.align(a, b, data=x), "
            "with a tensor, a tuple of arguments or a dict of arguments by name."
        )
    many = data if isinstance(data, list) else [data]
    if not many:
        raise OptionError("data is an empty list. Pass at least one batch of what the network is called with.")
    return [map_tensors(batch, to_double) for batch in many]


# ---------------------------------------------------------------------- matching

_Tensors = list[tuple[tuple[Any, ...], list[Tensor]]]  # axes, and a tensor of each network


def _tensors(
    symmetries: Symmetries,
    subject: CalledNetwork,
    states: Sequence[Params],
    batches: Sequence[Any],
    method: MatchingMethod,
    seed: int,
) -> _Tensors:
    """What is to be alike: weights, or activations and, with little weight, weights.

    Units that are silent on the data, and groups that no activations are of, are matched by their weights.
    """
    weights = [
        (action.axes, [action.take(state) for state in states])
        for action in symmetries.actions
        if all(name in subject.params for name in action.names)
    ]
    if method == "weights":
        return cast(_Tensors, weights)
    made = activations(symmetries, subject, states, batches, seed)
    total, own = (sum(float(t.square().sum()) for _, many in part for t in many) for part in (made, weights))
    small = (_BY_WEIGHTS * (total or 1.0) / (own or 1.0)) ** 0.5
    return [*made, *((axes, [tensor * small for tensor in many]) for axes, many in weights)]


def _starts(
    symmetries: Symmetries, tensors: _Tensors, count: int, restarts: int, seed: int, bar: Progress, stop: StopRequests
) -> tuple[list[Permutations], tuple[tuple[float, ...], ...]]:
    """Each network by itself to the first, from every start; a network that a stop leaves out stays as it is."""
    groups = symmetries.groups
    found, values = [identity(groups)], []
    for k in range(1, count):
        pairs = [TensorPair(own[0], own[k], axes) for axes, own in tensors]
        bound = (1 - _ALIKE) * sum(float(pair.target.norm() * pair.moving.norm()) for pair in pairs)
        ends: list[AscentResult] = []
        for end in in_threads(_Ascents(symmetries, pairs, seed, bound, bar, stop), range(restarts)):
            if end is None:
                break
            ends.append(end)
            if end.value >= bound:
                break
        values.append(tuple(end.value for end in ends))
        found.append(max(ends, key=lambda end: end.value).permutations if ends else identity(groups))
    return found, tuple(values)


class _Ascents:
    """The ascent from each start. One is left out after a stop, and after an earlier one with nothing left to find."""

    def __init__(
        self,
        symmetries: Symmetries,
        pairs: Sequence[TensorPair],
        seed: int,
        bound: float,
        bar: Progress,
        stop: StopRequests,
    ) -> None:
        self._symmetries, self._pairs, self._seed, self._bound = symmetries, pairs, seed, bound
        self._bar, self._stop = bar, stop
        self._lock, self._last = threading.Lock(), math.inf

    def __call__(self, i: int) -> AscentResult | None:
        groups, pairs = self._symmetries.groups, self._pairs
        if self._stop.signal is not None or i > self._last:
            return None
        if i == 0:
            start = identity(groups)
        elif i == 1:
            start = by_sorted_rows(groups, pairs)
        else:
            start = self._symmetries.draw(self._seed + i)
        made = match(groups, pairs, start, torch.Generator().manual_seed(self._seed + i))
        with self._lock:
            if made.value >= self._bound:
                self._last = min(self._last, i)
            self._bar.advance()
        return made


def _in_turns(
    symmetries: Symmetries, tensors: _Tensors, found: list[Permutations], seed: int, stop: StopRequests
) -> tuple[list[Permutations], float]:
    """Each network but the first in turn to the mean of all others, until none gains."""
    count, groups = len(found), symmetries.groups
    moved = [(axes, [_moved(own[k], axes, found[k]) for k in range(count)]) for axes, own in tensors]
    best = sum(_dot(moved, k, j) for k in range(count) for j in range(k))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_MOST_ROUNDS if count > 2 else 0):
        for k in range(1, count):
            if stop.signal is not None:
                break
            pairs = [
                TensorPair(torch.stack([now[j] for j in range(count) if j != k]).mean(0), own[k], axes)
                for (axes, own), (_, now) in zip(tensors, moved, strict=True)
            ]
            found[k] = match(groups, pairs, found[k], generator).permutations
            for (axes, own), (_, now) in zip(tensors, moved, strict=True):
                now[k] = _moved(own[k], axes, found[k])
        value = sum(_dot(moved, k, j) for k in range(count) for j in range(k))
        if value <= best * (1 + 1e-12):
            break
        best = value
    return found, best


def _moved(tensor: Tensor, axes: tuple[Any, ...], permutations: Mapping[str, Tensor]) -> Tensor:
    return permuted(tensor, axes, dict(permutations))


def _dot(tensors: _Tensors, k: int, j: int) -> float:
    return sum(float((own[k] * own[j]).sum()) for _, own in tensors)
