"""Two passes compared sample by sample: the same samples computed in another way, or in other batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossnav._utils import random_state
from lossnav.objective.batch_tensors import Batch, map_tensors, only_tensors, tensors
from lossnav.objective.batches import Batches
from lossnav.objective.functional import Measured, StepValues
from lossnav.objective.predictions import Prediction
from lossnav.params import Params

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective

_MOST_HELD, _FEWEST_HELD = 64, 16  # samples that are split: enough to see whether they influence each other
_REORDERED = 1e-4  # relative to the value of a sample: reordered sums differ by less, other batches by more
_REORDERED_MEAN = 1e-5


@dataclass
class Column:
    """The loss or a metric over a pass: numerators and weights, shape (n,) each, float64; a ratio of sums.

    Attributes
    ----------
    single : bool
        Whether an entry is of a sample; else it is of a batch: its sum, or its mean times its length.
    """

    numerators: Tensor
    weights: Tensor
    single: bool

    @property
    def mean(self) -> float:
        """The value over the pass."""
        return float(self.numerators.sum() / self.weights.sum())

    @property
    def level(self) -> float:
        """Mean absolute value of an entry. Differences are relative to it, because it does not cancel."""
        return float(self.numerators.abs().sum() / self.weights.sum())

    @property
    def counted(self) -> bool:
        """Whether all entries are whole numbers, as those of an accuracy: they stay the same or jump."""
        whole = self.numerators.round()
        if self.single:
            return bool((self.numerators == whole).all())
        return torch.allclose(self.numerators, whole, rtol=1e-6, atol=1e-6)  # the mean of a batch times its length


def column(steps: Sequence[StepValues], name: str) -> Column:
    """Join the values of one name over the batches of a pass, as `reduction.reduce_steps` does."""
    parts: list[Measured] = [values[name] for _, values in steps]
    if all(isinstance(part, tuple) or part.dim() == 1 for part in parts):
        pairs = [part if isinstance(part, tuple) else (part, torch.ones_like(part)) for part in parts]
        numerators, weights = (
            torch.cat([term.reshape(-1) for term in terms]).double() for terms in zip(*pairs, strict=True)
        )
        return Column(numerators, weights, all(bool(pair[1].dim()) for pair in pairs))
    means = torch.stack([_mean(part) for part in parts]).double()
    lengths = torch.tensor([n for n, _ in steps], dtype=torch.float64, device=means.device)
    return Column(means * lengths, lengths, False)


def _mean(part: Measured) -> Tensor:
    return part[0].double().sum() / part[1].double().sum() if isinstance(part, tuple) else part.double().mean()


def relative(a: float, b: float, level: float) -> float:
    """Difference relative to a level: 0 if both are equal (nan and inf included), inf if only one is finite."""
    if a == b or (a != a and b != b):
        return 0.0
    difference = abs(a - b)
    return difference / max(level, 1e-12) if difference < float("inf") else float("inf")


def changed(one: Column, other: Column) -> Tensor:
    """Which entries of two columns of the same samples differ in any bit, shape (n,), bool; NaN equals NaN."""
    same = (one.numerators == other.numerators) | (one.numerators.isnan() & other.numerators.isnan())
    return ~(same & (one.weights == other.weights))


def explained(one: Column, other: Column, moved: Column) -> bool:
    """Whether small changes of the outputs explain the difference of two columns of counts in every sample."""
    off = (one.numerators - other.numerators).abs()
    same_weights = torch.equal(one.weights, other.weights)
    return same_weights and bool(((off <= moved.numerators.to(off.device)) | ~changed(one, other)).all())


class Shaken:
    """How far a metric changes if the outputs are perturbed by a part of their size; 0 for samples that are certain.

    Every output is changed by a uniform random number from [-1, 1] times `part` times the largest output of the sample,
    or the root mean square of the batch if that is larger; then by the same number with the other sign. A prediction
    with a margin far below that changes once in the two. Several such pairs are drawn.

    Parameters
    ----------
    metric : callable
    part : float
    seed : int
    """

    PAIRS = 8

    def __init__(self, metric: Callable[[Any, Any], Any], part: float, seed: int) -> None:
        self.metric, self.part, self.seed = metric, part, seed
        self.of_prediction = getattr(metric, "of_prediction", False)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """Return the sum over the draws of how far the metric changes, in the metric's own form."""
        still, moved = self.metric(outputs, targets), None
        for pair in range(self.PAIRS):
            for part in (self.part, -self.part):
                drawn = torch.Generator().manual_seed(self.seed + pair)
                now = self.metric(_all_moved(outputs, part, drawn), targets)
                step = _distance(now, still)
                moved = step if moved is None else moved + step
        return (moved, still[1]) if isinstance(still, tuple) else moved


def _all_moved(outputs: Any, part: float, drawn: torch.Generator) -> Any:
    if isinstance(outputs, Prediction):
        return replace(outputs, scores=_move(outputs.scores, part, drawn))
    return map_tensors(outputs, lambda tensor: _move(tensor, part, drawn))


def _move(tensor: Tensor, part: float, drawn: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or not tensor.dim() or not tensor.numel():
        return tensor
    finite = torch.nan_to_num(tensor.double(), 0.0, 0.0, 0.0)
    largest = finite.flatten(1).abs().amax(1) if tensor.dim() > 1 else finite.abs()
    size = largest.clamp_min(float(finite.square().mean().sqrt())).reshape(-1, *[1] * (tensor.dim() - 1))
    even = torch.rand(tensor.shape, generator=drawn, dtype=torch.float64).to(tensor.device) * 2 - 1
    return (tensor.double() + part * even * size).to(torch.promote_types(tensor.dtype, torch.float32))


def _distance(now: Any, still: Any) -> Tensor:
    if isinstance(still, tuple):
        now, still = now[0], still[0]
    return (torch.as_tensor(now, dtype=torch.float64) - torch.as_tensor(still, dtype=torch.float64)).abs()


# ---------------------------------------------------------------------- other batches


def join(batches: Batches) -> tuple[Batch | None, int]:
    """All batches as one, with its number of samples; (None, 0) unless every tensor has one row per sample.

    No copy is made if they are consecutive parts of the same tensors.
    """
    kept = list(batches)
    if not all(only_tensors(batch) for batch in kept):
        return None, 0  # a batch with numbers or words that belong to it
    parts = [list(tensors(batch)) for batch in kept]
    sizes = [{part.shape[0] if part.dim() else None for part in batch} for batch in parts]
    shapes = {tuple(tuple(part.shape[1:]) for part in batch) for batch in parts}
    if any(len(size) != 1 or None in size for size in sizes) or len(shapes) != 1:
        return None, 0
    if any(type(batch) is not type(kept[0]) for batch in kept) or not isinstance(kept[0], Tensor | tuple | list | dict):
        return None, 0
    columns = iter(_join_column(part) for part in zip(*parts, strict=True))
    joined = map_tensors(kept[0], lambda _: next(columns))
    return joined, sum(batch[0].shape[0] for batch in parts)


def _join_column(parts: tuple[Tensor, ...]) -> Tensor:
    """Tensors joined one after the other; without a copy if they are consecutive parts of one tensor."""
    first, place = parts[0], parts[0].storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or part.storage_offset() != place or part.stride() != first.stride() or part.dtype != first.dtype:
            return torch.cat(parts)
        place += part.shape[0] * part.stride()[0]
    return first.as_strided((sum(len(part) for part in parts), *first.shape[1:]), first.stride())


def cut(joined: Batch, start: int, stop: int) -> Batch:
    """Samples start to stop of a joined batch."""
    return map_tensors(joined, lambda tensor: tensor[start:stop])


def depends_on_batches(
    objective: Objective,
    joined: Batch,
    samples: int,
    points: Sequence[Mapping[str, Tensor]],
    held: int = _MOST_HELD,
) -> list[str]:
    """Names of the values that change if the same samples are in other batches.

    A few samples are drawn from all the data and evaluated as one batch, as two, and as three in another order. A value
    that belongs to a batch, or depends on the other samples in it, changes. With two samples or fewer nothing is seen.

    Parameters
    ----------
    objective : Objective
        Its seed draws the samples.
    joined : Batch
        All data as one batch.
    samples : int
        Number of samples in it.
    points : sequence of dict of str to Tensor
        Points of weight space at which the values are compared.
    held : int
        How many samples.

    Returns
    -------
    list of str
        ``loss`` and metrics, in the order of the objective; all of them if another split cannot be evaluated.
    """
    n = min(samples, max(_FEWEST_HELD, min(held, _MOST_HELD)))
    generator = torch.Generator().manual_seed(objective.seed)
    rows = torch.randperm(samples, generator=generator)[:n]
    mixed = torch.randperm(n, generator=generator)
    few = map_tensors(joined, lambda tensor: tensor[rows.to(tensor.device)])
    orders = [(torch.arange(n), 1), (torch.arange(n), 2), (mixed, 3)]
    names = ["loss", *objective.metrics]
    found: set[str] = set()
    for params in points:
        try:
            passes = [_pass(objective, params, few, order, parts) for order, parts in orders]
        except Exception:  # the model or the loss may not take batches of another length
            return names
        for name in names:
            first, *others = (
                _in_order(column(steps, name), order) for steps, (order, _) in zip(passes, orders, strict=True)
            )
            if all(_alike(first, other) for other in others):
                continue
            if name != "loss" and first.counted and all(other.counted for other in others):
                shaken = Shaken(objective.metrics[name], _REORDERED_MEAN, objective.seed)
                counting = objective._measuring(objective._loss, {name: shaken})
                with contextlib.suppress(Exception):  # the metric may not take perturbed outputs
                    moved = column(_pass(counting, params, few, *orders[0]), name)
                    if all(explained(first, other, moved) for other in others):
                        continue
            found.add(name)
    return [name for name in names if name in found]


def _pass(
    objective: Objective, params: Mapping[str, Tensor], few: Batch, order: Tensor, parts: int
) -> list[StepValues]:
    batches = [
        map_tensors(few, lambda tensor, rows=rows: tensor[rows.to(tensor.device)])  # type: ignore[misc]
        for rows in torch.tensor_split(order, parts)
        if len(rows)
    ]
    point: Params = dict(params) | objective._held
    with random_state.preserved(objective.seed, objective.device), torch.no_grad():
        return objective._pass(point, objective.buffers_at(params), batches)


def _in_order(found: Column, order: Tensor) -> Column:
    if not found.single or len(found.numerators) != len(order):
        return found
    back = torch.argsort(order).to(found.numerators.device)
    return Column(found.numerators[back], found.weights[back], True)


def _alike(one: Column, other: Column) -> bool:
    if one.single != other.single or (one.single and len(one.numerators) != len(other.numerators)):
        return False
    if one.single and one.counted and other.counted:
        return not bool(changed(one, other).any())
    if relative(one.mean, other.mean, one.level) > _REORDERED_MEAN:
        return False
    if not one.single:
        return True
    a, b = one.numerators, other.numerators
    level = float(a.nan_to_num(0.0, 0.0, 0.0).abs().mean())
    same = torch.isclose(a, b, rtol=_REORDERED, atol=_REORDERED * level, equal_nan=True)
    return bool(same.all()) and torch.equal(one.weights, other.weights)
