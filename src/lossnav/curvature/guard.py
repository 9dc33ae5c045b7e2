"""Checking torch's derivatives against finite differences of the loss, once per objective, on a few samples.

A custom function may have a backward pass that is not its derivative (a straight-through estimator, a clipped or
reversed gradient), or a backward pass whose own derivative is missing or wrong; `detach` hides a part of the function.
Torch reports no error then, and products with its "Hessian" look like any others.

A few samples, float64 and small steps make the differences accurate to many digits. At a kink (of a ReLU, say), a
difference grows as its step shrinks, and rounding changes with every step. So that neither causes a false alarm, a
disagreement counts only if steps of three sizes, along two directions, give the same.

Some functions cannot be evaluated in float64: they contain float32 data, or round internally. For them the objective's
own precision and larger steps are used, at two points, because a large step is more likely to cross a kink.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lossnav._utils import random_state
from lossnav._utils.memory import free_bytes
from lossnav.curvature.base import UNSYMMETRIC, asymmetry, nonlinearity, relative
from lossnav.objective.batch_tensors import map_tensors, tensors, to_double
from lossnav.objective.objective import Objective
from lossnav.objective.passes import FunctionPasses
from lossnav.params import Params

if TYPE_CHECKING:
    from lossnav.curvature.loss_operator import LossOperator

_SAMPLES = 8  # enough for losses over pairs of samples
_ASIDE = 1e-2  # distance of the test point, in sizes of each tensor: at the point, inputs of a ReLU may be exactly zero
_SMALL = 1e-6  # of the largest product: smaller ones are not compared
_SAME = 0.1  # of a disagreement: if two steps differ by more, the cause is rounding or a kink
_FAR = (1.0, 1.0, 1.0, 4.0, 4.0, 4.0)  # distances, in sizes of each tensor, at which a loss is tested for any change
_MOVES = 1e-5  # relative: a smaller change of the loss may be rounding
_ROUNDING = 10.0  # asymmetry is an error if it exceeds so many times the deviation from linearity, which is rounding
_PLACES = 2  # points at which large steps are taken
_COPIES = 12  # copies of the weights in float64 that the check needs: vectors, points and their graph


@dataclass(frozen=True)
class _TrustedScale:
    """The accuracy of finite differences in one precision.

    Attributes
    ----------
    steps : tuple of float
        Step sizes, relative to the size of each tensor; the later ones are used only if the first disagrees.
    different : float
        Relative differences of a product (by tensors) or a slope below this do not count.
    resolved : float
        Relative changes of a value below this are rounding, even if they are reproducible.
    """

    steps: tuple[float, float, float]
    different: float
    resolved: float


_FINE = _TrustedScale((4e-6, 1e-6, 1.6e-5), 1e-3, 1e3 * torch.finfo(torch.float64).eps)
_COARSE = _TrustedScale((1e-2, 4e-3, 2.5e-2), 5e-2, 1e2 * torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Verdict:
    """The result of checking an objective's derivatives.

    Attributes
    ----------
    names : frozenset of str
        The parameters that were differentiated by.
    twice : bool
        Whether second derivatives were checked.
    rounding : float
        Relative rounding error of a product in the objective's own precision; 0 if it was not measured.
    refusal : str
        Why products are wrong; empty if no error was found.
    doubt : str
        Why the gradient is wrong; empty if no error was found.
    detached : bool
        Whether the loss changes but has no gradient, because the weights are not in its graph. All derivatives would be
        zero.
    flat : str
        A description of the change of the loss, if the weights are in its graph but the gradient is zero at all tested
        points; else empty.
    """

    names: frozenset[str]
    twice: bool
    rounding: float = 0.0
    refusal: str = ""
    doubt: str = ""
    detached: bool = False
    flat: str = ""


Make = Callable[[Objective, Params], "LossOperator"]


def examine(make: Make, objective: Objective, point: Params, names: Sequence[str], twice: bool) -> Verdict:
    """Compare gradient and products of an objective near a point with finite differences.

    Parameters
    ----------
    make : callable
        From an objective and a point to an operator for these names that does not run this check itself.
    objective : Objective
        In its own precision.
    point : dict of str to Tensor
    names : sequence of str
    twice : bool
        Whether products are checked too.
    """
    unknown = Verdict(frozenset(names), twice)
    try:
        few = _few(objective, _SAMPLES)
        near = _near(few, point, names)
        if not math.isfinite(make(few, near).compute().loss):
            few = _few(objective, None)
            if not math.isfinite(make(few, near).compute().loss):
                return unknown
        verdict = _by_differences(make, few, near, names, twice)
        if verdict.refusal or verdict.doubt:
            return verdict
        if bool(make(few, near).compute().gradient.any()):
            return verdict
        return replace(verdict, **_of_no_gradient(make, _without_plans(objective), near, names))
    except Exception:  # an error of the user's code: the actual call raises it again
        return unknown


# ---------------------------------------------------------------------- inside


def _by_differences(make: Make, few: Objective, near: Params, names: Sequence[str], twice: bool) -> Verdict:
    """Compare derivatives with differences in float64; if that is inconclusive, in the objective's own precision."""
    if not _has_room(few):
        return Verdict(frozenset(names), twice)
    fine, told = _finely(make, few, near, names, twice)
    own = {few.params[name].dtype for name in names}
    if told or not own <= {torch.float32, torch.float64}:
        return fine
    coarse = [
        _held(make, few, few, _near(few, near, names, seed), names, twice, _COARSE)[0] for seed in range(1, 1 + _PLACES)
    ]
    gradients, products = all(one.doubt for one in coarse), all(one.refusal for one in coarse)
    return replace(
        fine,
        doubt=coarse[0].doubt if gradients else "",
        refusal=coarse[0].refusal if products else "",
        detached=all(one.detached for one in coarse),
    )


def _finely(make: Make, few: Objective, near: Params, names: Sequence[str], twice: bool) -> tuple[Verdict, bool]:
    """Return the verdict of differences in float64, and whether it is conclusive."""
    unknown = Verdict(frozenset(names), twice), False
    try:
        exact = few.double()
        exact._plans = few._plans
        with _Widening():
            if not few.draws_as(exact, lambda objective: make(objective, near).compute().loss):
                return unknown
            return _held(make, few, exact, near, names, twice, _FINE)
    except Exception:  # the model cannot be evaluated in float64
        return unknown


class _Widening(TorchFunctionMode):
    """Within this mode, float32 data in a function is converted to float64 where it is combined with float64 weights.

    Torch does so by itself for sums and elementwise products, but not for matrix products.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function; if it refuses tensors of different precisions, convert all of them to float64."""
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except RuntimeError:
            given = [tensor.dtype for tensor in tensors((args, kwargs))]
            if torch.float64 not in given or not {torch.float32, torch.float16, torch.bfloat16} & set(given):
                raise
        args, kwargs = map_tensors((args, kwargs), to_double)
        return func(*args, **kwargs)


def _held(
    make: Make, few: Objective, exact: Objective, near: Params, names: Sequence[str], twice: bool, scale: _TrustedScale
) -> tuple[Verdict, bool]:
    """Compare derivatives with differences of `exact`; return the verdict and whether differences of the loss agree.

    They agree if they match the gradient, or each other.
    """
    sizes = [near[name].numel() for name in names]
    scales = torch.cat([torch.full((n,), size) for n, size in zip(sizes, _scales(near, names), strict=True)])
    scales = scales.to(few.device, torch.float64)
    steps = [_direction(scales, near, names, _padding(few), seed) for seed in (1, 2)]
    here = make(exact, near)
    _, gradient, images = here.compute(steps if twice else ())
    doubts, refusals = list[str](), list[str]()
    for step, image in zip(steps, images or steps, strict=True):
        terms = [float(part.sum()) for part in torch.split(gradient * step, sizes)]
        slopes, differences = list[float](), list[Tensor]()
        blur, blurred = 0.0, torch.zeros(())  # rounding errors of the first slope, and of the first difference
        for size in scale.steps:
            (up, higher), (down, lower) = (_seen(make(exact, _moved(near, names, step * s))) for s in (size, -size))
            if not slopes:
                blur = scale.resolved * max(abs(up), abs(down)) / size
            slopes.append((up - down) / (2 * size))
            doubts.append(_unlike_slopes(terms, slopes, blur, scale))
            if twice and higher is not None and lower is not None:
                if not differences:
                    blurred = here.product_of(scale.resolved * higher / size)
                differences.append(here.product_of((higher - lower) / (2 * size)))
                refusals.append(_unlike_products(image, differences, blurred, scales, sizes, names, scale))
            if not any([*doubts[-1:], *refusals[-1:]]):
                break
        if not any([*doubts[-1:], *refusals[-1:]]):
            break
    refusal = refusals[-1] if refusals and all(refusals) else ""
    told = not doubts[0] or all(doubts)
    rounding = 0.0
    if twice and exact is not few:
        refusal = refusal or _lopsided(here, steps, images)
        rounding = relative(make(few, near).compute(steps[:1]).products[0] - images[0], images[0])
    doubt = doubts[-1] if all(doubts) else ""
    lost = bool(doubt) and not bool(gradient.any())
    return Verdict(frozenset(names), twice, rounding, refusal, doubt, lost), told


def _seen(operator: LossOperator) -> tuple[float, Tensor | None]:
    """Return the loss, and the numbers whose derivatives give the operator's products."""
    made = operator.compute()
    return made.loss, operator.seen(made)


def _unlike_slopes(terms: Sequence[float], found: Sequence[float], blur: float, scale: _TrustedScale) -> str:
    """Describe how the differences of a loss contradict the gradient along a step; empty if they agree.

    `terms` are the gradient's contributions by tensor. A slope of at most `blur` cannot be distinguished from zero.
    """
    known, whole = math.fsum(terms), math.fsum(map(abs, terms))
    gaps = [value - known for value in found]
    if not abs(gaps[0]) > max(scale.different * max(whole, abs(found[0])), blur):
        return ""
    if any(not abs(gap - gaps[0]) <= _SAME * abs(gaps[0]) for gap in gaps[1:]):
        return ""
    return f"the slope of the loss along a random direction is {found[0]:.4g}, but its gradient gives {known:.4g}"


def _unlike_products(
    known: Tensor,
    found: Sequence[Tensor],
    blurred: Tensor,
    scales: Tensor,
    sizes: list[int],
    names: Sequence[str],
    scale: _TrustedScale,
) -> str:
    """Describe the tensor in which all differences contradict a product most; empty if they agree."""
    norms = [
        [float(torch.linalg.vector_norm(part)) for part in torch.split(tensor * scales, sizes)]
        for tensor in (known, found[0], blurred, found[0] - known, *(other - found[0] for other in found[1:]))
    ]
    largest = max(max(norms[0]), max(norms[1]))
    worst, where = 0.0, ""
    for name, product, difference, blur, gap, *spreads in zip(names, *norms, strict=True):
        size = max(product, difference)
        if (
            size > _SMALL * largest
            and gap > max(scale.different * size, blur)
            and all(s <= _SAME * gap for s in spreads)
        ):
            worst, where = max((worst, where), (gap / size, name))
    return f'finite differences of first derivatives differ from them by {worst:.1%} in "{where}"' if where else ""


def _lopsided(operator: LossOperator, steps: Sequence[Tensor], images: Sequence[Tensor]) -> str:
    """Describe an asymmetry of the operator beyond rounding; empty if it is symmetric."""
    gap = asymmetry(steps[0], images[0], steps[1], images[1])
    if not gap > UNSYMMETRIC:
        return ""
    if gap <= _ROUNDING * nonlinearity(operator.compute([steps[0] + steps[1]]).products[0], *images):
        return ""
    return f"u . H v and v . H u differ by {gap:.1%}, but second derivatives are symmetric"


def _without_plans(objective: Objective) -> Objective:
    made = copy.copy(objective)
    made._plans = {("second derivatives", kind): None for kind in ("hessian", "gauss-newton")}
    return made


def _few(objective: Objective, samples: int | None) -> Objective:
    """Return the objective on the first samples only, without faster plans."""
    few = _without_plans(objective)
    if objective.batches is not None:
        with random_state.preserved(objective.seed, objective.device):  # starting a loader draws random numbers
            few.batches = objective.batches.first(samples)
    return few


def _has_room(few: Objective) -> bool:
    """Whether there is enough memory for the check in float64."""
    numbers = sum(tensor.numel() for tensor in few.params.values())
    return 8 * _COPIES * numbers <= free_bytes(few.device) / 2


def _of_no_gradient(make: Make, every: Objective, near: Params, names: Sequence[str]) -> dict[str, Any]:
    """Return the verdict on a loss that changes although its gradient is zero: detached weights, or a step function.

    The two are distinguished by whether the weights are in the graph of the loss. All data is used, because a loss on a
    few samples may be equal at distant points by chance.
    """
    losses = []
    for seed, far in enumerate(_FAR):
        made = make(every, _near(every, near, names, seed, far)).compute()
        if bool(made.gradient.any()):
            return {}
        losses.append(made.loss)
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite or max(finite) - min(finite) <= _MOVES * max(map(abs, finite)):
        return {}
    moves = f"its loss is {min(finite):.4g} at one point and {max(finite):.4g} at another, but its gradient is zero"
    if make(every, near).is_reached():
        return {"flat": moves}
    return {"doubt": f"{moves}, because the weights are not in the graph of the loss", "detached": True}


def _scales(point: Params, names: Sequence[str]) -> list[float]:
    """Return a step size for each tensor: that of its entries, unless it is negligible compared with the others."""
    sizes = [float(point[name].double().square().mean().sqrt()) for name in names]
    total = sum(point[name].numel() for name in names)
    overall = math.sqrt(sum(s**2 * point[name].numel() for s, name in zip(sizes, names, strict=True)) / total) or 1.0
    return [size if size > 1e-3 * overall else 0.1 * overall for size in sizes]


def _near(objective: Objective, point: Params, names: Sequence[str], seed: int = 0, aside: float = _ASIDE) -> Params:
    """Return a point slightly off another, none of whose entries is a special value."""
    generator = torch.Generator().manual_seed(seed)
    made = dict(point)
    for name, scale in zip(names, _scales(point, names), strict=True):
        drawn = torch.randn(point[name].shape, generator=generator).to(point[name].device, point[name].dtype)
        made[name] = point[name] + aside * scale * drawn
    return made


def _moved(point: Params, names: Sequence[str], step: Tensor) -> Params:
    parts = torch.split(step, [point[name].numel() for name in names])
    return {n: t.double() for n, t in point.items()} | {
        name: point[name].double() + part.view(point[name].shape) for name, part in zip(names, parts, strict=True)
    }


def _direction(scales: Tensor, point: Params, names: Sequence[str], padding: dict[str, int], seed: int) -> Tensor:
    """Return a random step, shape (d,), exact in float32; zero where torch by design has no gradient."""
    drawn = torch.randn(len(scales), generator=torch.Generator().manual_seed(seed)).to(scales) * scales
    drawn = drawn.to(min((point[name].dtype for name in names), key=lambda dtype: dtype.itemsize)).double()
    for name, part in zip(names, torch.split(drawn, [point[name].numel() for name in names]), strict=True):
        if name in padding:
            part.view(point[name].shape)[padding[name]] = 0.0
    return drawn


def _padding(objective: Objective) -> dict[str, int]:
    """Return the embeddings with a row that has no gradient although the loss may depend on it (`padding_idx`)."""
    passes = objective.forward_pass.passes
    if isinstance(passes, FunctionPasses):
        return {}
    return {
        f"{name}.weight": module.padding_idx
        for name, module in passes.whole.model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None
    }
