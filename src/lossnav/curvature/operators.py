"""Gradient and Hessian-vector products of an objective, by two backward passes over each batch.

What is differentiated is what ``objective.evaluate(point)["loss"]`` returns: the mean over the samples by the
objective's own loss, weights and BatchNorm policy. Batches are summed up in float64 and in their order, so that the
graph of one batch is all that is held and the same call gives the same bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, overload

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils import random_state, turns
from lossnav._utils.validation import require
from lossnav.curvature.base import DIGITS, CheckedOperator, SymmetryWatch
from lossnav.curvature.batch_graph import BatchGraph, GraphCache, Leaves, require_no_reentrant, require_whole
from lossnav.curvature.batch_norm import GivenStatistics, Recorded, Statistics, layers_of
from lossnav.curvature.double_backward import (
    _CAUSES,
    _REMEDY,
    Derivatives,
    _add,
    _dot,
    _grad,
    _is_between,
    _joined,
    _twice_differentiable,
)
from lossnav.curvature.fast_double_backward import Cheaper
from lossnav.curvature.guard import Verdict, examine
from lossnav.errors import LossnavWarning, ObjectiveError, OptionError
from lossnav.objective.objective import Objective
from lossnav.objective.passes import CopyPasses, FunctionPasses
from lossnav.objective.reduction import share
from lossnav.params import Params

ProductPrecision = Literal["native", "float64"]

PRECISIONS = ("native", "float64")

_AGREE = 1e-2  # of a product: inputs of a ReLU that are zero but for rounding change sides, and it by up to 1e-3


class LossOperator(CheckedOperator[Params]):
    """A matrix of second derivatives of an objective's loss at one point: never written down, only multiplied with.

    What is the same for all of them. `Hessian` and `GaussNewton` say what a batch adds.

    Attributes
    ----------
    original : Objective
        What it was made of.
    point : mapping of str to Tensor
        Where it is.
    names : tuple of str
        The parameters that are differentiated by, in the objective's order.
    precision : "native" or "float64"
        What the model computes in.
    size : int
        How many numbers the names are: d.
    shape, dtype, device
        As of an `Operator`: (d, d); float64 if a parameter is, else float32.
    count : int
        Products made so far.
    passes : int
        Over the data, so far: one for all the products of a call of `derive`, three with ``bn="recompute"``.
    gradient_norm : float
        By these parameters, from the first pass; NaN before it.
    """

    kind: str
    title: str

    def __init__(
        self,
        objective: Objective,
        point: Mapping[str, Tensor] | None = None,
        *,
        params: str | Sequence[str] = "*",
        exclude: str | Sequence[str] = (),
        precision: ProductPrecision = "native",
    ) -> None:
        if precision not in PRECISIONS:
            raise OptionError(f"precision={precision!r} is unknown. Use 'native' or 'float64'.")
        require(objective, "objective")
        point = objective.params if point is None else point
        objective.require_same_structure(point, "the point")
        self.original, self.point, self.precision = objective, point, precision
        self.names = chosen(objective, params, exclude)
        objective.forward_pass.settle(point)
        objective = objective.without_metrics()
        self._native, self._in_double = objective, precision == "float64"
        self.objective = objective.double() if precision == "float64" else objective
        like = self.objective.params
        self._point = {name: point[name].detach().to(c.device, c.dtype) for name, c in like.items()}
        self._at_point = self.objective.buffers_at(point)
        self._sizes = [like[name].numel() for name in self.names]
        self.size, self.count, self.passes = sum(self._sizes), 0, 0
        self.shape, self.device = (self.size, self.size), objective.device
        double = any(self._point[name].dtype == torch.float64 for name in self.names)
        self.dtype = torch.float64 if double else torch.float32
        self._verdict: Verdict | None = None
        least = min((self._point[name].dtype for name in self.names), key=lambda dtype: -torch.finfo(dtype).eps)
        self._symmetry = SymmetryWatch(torch.finfo(least).eps)
        self._rounding = DIGITS * torch.finfo(least).eps  # of a product, relative to it
        self._slope, self.gradient_norm = 0.0, math.nan
        self._keeper: GraphCache | None = None
        self._leaves: Params | None = None
        self._in_place: Params = {}  # buffers that are in the model while it is derived

    @overload  # type: ignore[override]  # a dict of tensors besides
    def __matmul__(self, vector: Tensor) -> Tensor: ...

    @overload
    def __matmul__(self, vector: Mapping[str, Tensor]) -> Params: ...

    def __matmul__(self, vector: Any) -> Any:
        """A product, with the names and shapes of the objective; zero where it is not differentiated by.

        Or products, float64, with the columns of a Tensor of shape (d, k), or with one of shape (d,).
        """
        if isinstance(vector, Tensor):
            if vector.dim() not in (1, 2) or len(vector) != self.size:
                raise OptionError(
                    f"A Tensor of shape {tuple(vector.shape)} holds no vectors of this {self.title}, which has shape "
                    f"{self.shape}. Pass one of shape ({self.size},) or ({self.size}, k), or a dict of tensors."
                )
            rows = vector.detach().to(self.device, torch.float64).reshape(self.size, -1).T
            return self.multiply(rows).T.reshape(vector.shape)
        self.require_vector(vector)
        return self.from_flat(self.derive([self.to_flat(vector)]).products[0])

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of a Tensor of shape (k, d), float64, in one pass over the data (or three)."""
        return torch.stack(self.derive(list(vectors)).products)

    def require_vector(self, vector: Mapping[str, Tensor]) -> None:
        """Raise StructureMismatchError for names or shapes that are not the objective's."""
        self.objective.require_same_structure(vector, "the vector")

    def derive(self, vectors: Sequence[Tensor] = ()) -> Derivatives:
        """Compute loss, gradient and products with some vectors of shape (d,), all in one pass over the data.

        Where BatchNorm statistics are made anew at every point, it takes three.
        """
        self._examine(bool(vectors))
        self.count += len(vectors)
        found = self.compute(vectors)
        size = max(1.0, math.sqrt(sum(float(self._point[name].double().square().sum()) for name in self.names)))
        length = float(torch.linalg.vector_norm(found.gradient))
        self.gradient_norm = length if math.isnan(self.gradient_norm) else self.gradient_norm
        slope = length / size
        self._slope = slope if math.isfinite(slope) else 0.0
        if not self._slope and math.isfinite(found.loss):  # nothing at all bends: by the size of what was added up
            self._slope = abs(found.loss) / size**2
        for vector, product in zip(vectors, found.products, strict=True):
            self._require_symmetry(vector, product)
        return found

    def compute(self, vectors: Sequence[Tensor] = ()) -> Derivatives:
        """The same as `derive`, held against nothing."""
        slopes = [self._cut(vector) for vector in vectors]
        with turns.alone(), _twice_differentiable(self.objective):
            self.passes += 3 if self._layers() else 1
            found: Derivatives = self._holding(lambda: self._soonest(slopes))
        return found

    def rounding(self, size: float) -> float:
        """Return what rounding may make of products with this matrix: no eigenvalue is surer than that.

        The larger of some digits of the numbers it is computed in and what a product was seen to differ from the one
        in float64, times the matrix's size, and where that is smaller times |gradient| / |weights|.

        Parameters
        ----------
        size : float
            Of the matrix: its largest eigenvalue in size, or a norm that is larger.
        """
        return max(self._rounding, self._symmetry.rounding) * max(size, self._slope)

    def to_flat(self, vector: Mapping[str, Tensor]) -> Tensor:
        """Numbers of a vector in the order of `names`, shape (d,), float64."""
        device = self.objective.device
        return torch.cat([vector[name].detach().to(device, torch.float64).reshape(-1) for name in self.names])

    def from_flat(self, flat: Tensor) -> Params:
        """A vector of shape (d,) with names and shapes of the objective, in float32 at least; zero elsewhere."""
        parts = dict(zip(self.names, torch.split(flat, self._sizes), strict=True))
        made: Params = {}
        for name, tensor in self.objective.params.items():
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            part = parts.get(name)
            made[name] = torch.zeros_like(tensor, dtype=dtype) if part is None else part.view(tensor.shape).to(dtype)
        return made

    # ------------------------------------------------------------------ inside

    def _holding(self, function: Callable[[], Any]) -> Any:
        """Call a function with this point's weights in the model, so that its backward passes find them there."""
        given, self._in_place, _ = self._begin()
        return self.objective.forward_pass.passes.holding(given, self._in_place, function)

    def _soonest(self, slopes: Sequence[Leaves]) -> Derivatives:
        cheaper = self._cheaper() if slopes else None
        if cheaper is None:
            return self._derive(slopes)
        try:
            with cheaper:
                return self._derive(slopes)
        except Exception:  # some later batch is not like the first; what is the user's own is raised again
            self.objective.forward_pass.plans[self._plan] = None
            self._keeper = None
        return self._derive(slopes)

    def _derive(self, slopes: Sequence[Leaves]) -> Derivatives:
        if layers := self._layers():
            return self._through_statistics(layers, slopes)
        with random_state.preserved(self.objective.seed, self.objective.device):
            loss, sums = self._sweep(slopes)
        return _joined(loss, sums)

    def _cut(self, flat: Tensor) -> list[Tensor]:
        """A vector of shape (d,) in tensors like the parameters."""
        like = [self._point[name] for name in self.names]
        return [part.view(t.shape).to(t.dtype) for part, t in zip(torch.split(flat, self._sizes), like, strict=True)]

    def _begin(self) -> tuple[Params, Params, list[Tensor]]:
        """All parameters and buffers for one pass over the data, and those that are differentiated by."""
        forward = self.objective.forward_pass
        given, buffers = forward.passes.leaves(self._point | forward.held, self._at_point, self.names)
        if not isinstance(forward.passes, CopyPasses):
            given = self._leaves = self._leaves or given  # the same each time: graphs that are kept hang on them
        return given, buffers, [given[name] for name in self.names]

    def _one(self, given: Params, buffers: Params, batch: Any, training: bool) -> tuple[Tensor, float]:
        """Part of a batch in the numerator of the loss, hanging on what it is differentiated by, and its weight."""
        objective = self.objective
        if objective.forward_pass.writes_weights:  # then into these, which hang on the leaves
            given = {name: tensor.clone() for name, tensor in given.items()}
        n, values = objective.forward_pass.passes.one(given, buffers, batch, training)
        return share(values["loss"], n)

    def _sweep(
        self, slopes: Sequence[Leaves], layers: Sequence[str] = (), statistics: Leaves = ()
    ) -> tuple[float, list[list[Tensor]]]:
        """The loss, then gradient and products over all batches: by the leaves, and by statistics where given."""
        given, buffers, leaves = self._begin()
        by = [*leaves, *statistics]
        sums = [[torch.zeros_like(leaf, dtype=torch.float64) for leaf in by] for _ in range(1 + len(slopes))]
        numerator = weight = 0.0
        kept = self._keeper if slopes else None
        keeper = GraphCache() if kept is None and self._is_worth_keeping(slopes) else None
        training = self.objective.forward_pass.passes.training(self.objective.bn == "batch")
        with training, GivenStatistics(layers, buffers, self._in_place, statistics) if layers else nullcontext():
            for number, batch in enumerate(self._batches()):
                graph = None if kept is None else kept.get(number)
                if graph is None:
                    graph = self._graph(given, buffers, batch, by, bool(slopes), number == 0)
                if keeper is not None:
                    keeper.add(number, graph)
                _add(sums[0], graph.gradient)
                for total, slope in zip(sums[1:], slopes, strict=True):
                    _add(total, graph.multiply(slope))
                numerator, weight = numerator + graph.numerator, weight + graph.weight
        self._keeper = keeper or self._keeper
        for tensor in (tensor for total in sums for tensor in total):
            tensor /= weight
        return (numerator / weight if weight else math.nan), sums

    def _is_worth_keeping(self, slopes: Sequence[Leaves]) -> bool:
        """Whether more products at this point are likely, and what the graphs hold on to stays as it is until then."""
        objective = self.objective
        lasting = objective.bn == "frozen" and objective.forward_pass.by_value
        lasting = (
            lasting and not objective.forward_pass.unplanned
        )  # a buffer that the next batch writes to is in the graph
        return lasting and objective.device.type == "cpu" and 0 < len(slopes) < self.count

    def _graph(self, given: Params, buffers: Params, batch: Any, by: Leaves, twice: bool, first: bool) -> BatchGraph:
        part, weight = self._one(given, buffers, batch, self.objective.bn == "batch")
        if first:
            require_no_reentrant([part])
        graph = self._differentiate(part, by, twice, first)
        return graph._replace(numerator=part.item(), weight=weight)

    def _differentiate(self, part: Tensor, by: Leaves, twice: bool, first: bool) -> BatchGraph:
        """Gradient of a batch's part of the loss, and products if it is to be derived twice."""
        raise NotImplementedError

    def _bend(self, through: Leaves, slope: Leaves) -> Tensor:
        """What the curvature of the statistics adds to a product is the derivative of this; nothing by default."""
        return torch.zeros(())

    def _batches(self) -> Iterator[Any]:
        yield from [None] if self.objective.batches is None else self.objective.batches

    # ------------------------------------------------------------------ inside: are these derivatives at all?

    def is_reached(self) -> bool:
        """Whether torch knows a way from the loss of any batch to what it is differentiated by."""

        def reached() -> bool:
            with random_state.preserved(self.objective.seed, self.objective.device):
                given, buffers, leaves = self._begin()
                training = self.objective.bn == "batch"
                parts = (self._one(given, buffers, batch, training)[0] for batch in self._batches())
                return any(self._leads(part, leaves) for part in parts)

        with _twice_differentiable(self.objective):
            return bool(self._holding(reached))

    def _leads(self, part: Tensor, by: Leaves) -> bool:
        """Whether a way leads from a batch's part of the loss to what it is differentiated by."""
        return _is_between(part, by)

    def seen(self, made: Derivatives) -> Tensor | None:
        """What products are derivatives of, as it is at this point: numbers of any shape; None if they are not kept."""
        raise NotImplementedError

    def product_of(self, change: Tensor) -> Tensor:
        """The product with a vector, shape (d,), of how `seen` changes along it."""
        raise NotImplementedError

    def _examine(self, twice: bool) -> None:
        """Hold these derivatives against differences, once an objective; raise or warn where they are none."""
        if self._verdict is not None and self._verdict.twice >= twice:
            return
        verdicts: list[Verdict] = self._native.forward_pass.verdicts.setdefault(self.kind, [])
        fits = (v for v in verdicts if v.names >= set(self.names) and v.twice >= twice and not (twice and v.refusal))
        found = next(fits, None) or next((v for v in verdicts if v.names == set(self.names) and v.twice >= twice), None)
        if found is None:
            found = examine(self._unexamined, self._native, self._point, self.names, twice)
            verdicts.append(found)
        before, self._verdict = self._verdict, found
        if not self._in_double:
            self._rounding = max(self._rounding, DIGITS * found.rounding)  # of few samples: of others it is more
        if found.refusal and twice:
            raise ObjectiveError(
                f"Products with the {self.title} of {self.objective.name} are wrong: {found.refusal}. {_CAUSES} "
                f"{_REMEDY}"
            )
        if found.detached:
            raise ObjectiveError(f"Nothing can be derived of {self.objective.name}: {found.doubt}. {_CAUSES} {_REMEDY}")
        if found.doubt and before is None:
            warnings.warn(
                f"The gradient of {self.objective.name} is not that of its loss: {found.doubt}. {_CAUSES} What is "
                "derived here is what torch calls the gradient.",
                LossnavWarning,
                stacklevel=4,
            )
        if found.flat and before is None:
            warnings.warn(
                f"The gradient of {self.objective.name} says nothing of its shape: {found.flat}. It is made of steps "
                "(round, sign, argmax, thresholds), or its weights are multiplied by zero. Derivatives of it are zero: "
                "draw it over a range, or measure its sharpness without them (kind='average', 'width').",
                LossnavWarning,
                stacklevel=4,
            )

    def _unexamined(self, objective: Objective, point: Params) -> LossOperator:
        return type(self)(objective, point, params=self.names)

    def _require_symmetry(self, vector: Tensor, product: Tensor) -> None:
        """Raise where two products contradict each other by more than rounding; it takes no product of its own."""
        gap = self._symmetry.gap(vector, product, lambda both: self.compute([both]).products[0])
        if gap:
            raise ObjectiveError(
                f"Products with the {self.title} of {self.objective.name} are wrong: u . H v and v . H u differ by "
                f"{gap:.1%}, and second derivatives are symmetric. {_CAUSES} Or the data differs from pass to pass. "
                f"{_REMEDY}"
            )

    # ------------------------------------------------------------------ inside: cheaper second derivatives

    def _cheaper(self) -> Cheaper | None:
        """What gives the products of torch's own derivatives sooner: held against them once, on the first batch."""
        plans = self.objective.forward_pass.plans
        if self._plan not in plans:
            plans[self._plan] = self._found()
        last = plans[self._plan]
        return None if last is None else Cheaper(last)

    def _found(self) -> bool | None:
        """Whether images are to lie with their channels last; None where nothing is cheaper than torch's own."""
        bare = self.objective.forward_pass.is_function
        for last in (True, False) if self.objective.device.type == "cpu" and not bare else ():
            cheaper = Cheaper(last)
            if self._agrees(cheaper):
                return last
            if not cheaper.count:
                break
        return None

    @property
    def _plan(self) -> tuple[str, str]:
        return "second derivatives", self.kind

    def _agrees(self, cheaper: Cheaper) -> bool:
        slope = self._cut(torch.randn(self.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        try:
            with cheaper:
                found = self._of_first_batch(slope)
        except Exception:  # raised again without it, if it is the user's own
            return False
        if not cheaper.count or not cheaper.is_laid_well:
            return False
        known = self._of_first_batch(slope)
        return bool(torch.linalg.vector_norm(found - known) <= _AGREE * torch.linalg.vector_norm(known))

    def _of_first_batch(self, slope: Leaves) -> Tensor:
        """A product with the first batch alone, shape (d,)."""
        return _joined(math.nan, [self._first_graph().multiply(slope)]).gradient

    def _first_graph(self) -> BatchGraph:
        with random_state.preserved(self.objective.seed, self.objective.device):
            given, buffers, leaves = self._begin()
            return self._graph(given, buffers, next(iter(self._batches())), leaves, twice=True, first=True)

    # ------------------------------------------------------------------ inside: bn="recompute"

    def _layers(self) -> list[str]:
        passes = self.objective.forward_pass.passes
        if self.objective.bn != "recompute" or isinstance(passes, FunctionPasses):
            return []
        return layers_of(passes.whole.model)

    def _through_statistics(self, layers: Sequence[str], slopes: Sequence[Leaves]) -> Derivatives:
        """Of a loss f(theta, S(theta)) whose BatchNorm statistics S are made of the data at every theta.

        With J = dS/dtheta and c = df/dS, and f differentiated as a function of two arguments::

            grad = f_theta + J^T c
            H v  = f_theta,theta v + f_theta,S u + J^T (f_S,theta v + f_S,S u) + d/dtheta (c . J v),   u = J v

        in three passes over the data: for S and u, for the derivatives of f, and for what remains.
        """
        k = len(self.names)
        seed, device = self.objective.seed, self.objective.device
        with random_state.preserved(
            seed, device
        ):  # the second pass goes on with the random numbers where the first ends
            statistics, tangents, calls = self._statistics(layers, slopes)
            joint = [[*slope, *tangent] for slope, tangent in zip(slopes, tangents, strict=True)]
            loss, sums = self._sweep(joint, layers, statistics)
        by_call = [
            [part.to(s.dtype) / n for part, s, n in zip(total[k:], statistics, calls, strict=True)] for total in sums
        ]
        (gradient, *products), (slope_s, *bends) = [total[:k] for total in sums], by_call
        with random_state.preserved(seed, device):
            for leaves, recorded in self._recorded(layers):
                through = _grad(_dot(recorded.totals, slope_s), leaves, create_graph=True)
                _add(gradient, through)
                for slope, bend, product in zip(slopes, bends, products, strict=True):
                    inner = self._bend(through, slope) + _dot(recorded.totals, bend)
                    _add(product, _grad(inner, leaves, retain_graph=True))
        return _joined(loss, [gradient, *products])

    def _statistics(
        self, layers: Sequence[str], slopes: Sequence[Leaves]
    ) -> tuple[list[Tensor], list[list[Tensor]], list[int]]:
        """The statistics S of each layer, as leaves; J v for each slope; and how many calls each is the mean of."""
        sums: list[list[Tensor]] = []
        calls = [0] * len(layers)
        for leaves, recorded in self._recorded(layers):
            # J v is linear in v: the derivative, by weights that are zero, of (weights . J) v
            weights = [torch.zeros_like(total, requires_grad=True) for total in recorded.totals]
            pulled = _grad(_dot(recorded.totals, weights), leaves, create_graph=True) if slopes else []
            along = [_grad(_dot(pulled, slope), weights, retain_graph=True) for slope in slopes]
            sums = sums or [[torch.zeros_like(w, dtype=torch.float64) for w in weights] for _ in range(1 + len(slopes))]
            for total, part in zip(sums, [recorded.totals, *along], strict=True):
                _add(total, part)
            calls = [a + b for a, b in zip(calls, recorded.calls, strict=True)]
        if not any(calls):
            raise ObjectiveError(
                "The model's BatchNorm layers do not call torch.nn.functional.batch_norm, so bn='recompute' cannot be "
                "differentiated. Use bn='frozen' or bn='batch'."
            )
        calls = [count or 1 for count in calls]  # a layer that is not in use
        means = [[(part / n).to(w.dtype) for part, n, w in zip(s, calls, weights, strict=True)] for s in sums]
        return [mean.requires_grad_() for mean in means[0]], means[1:], calls

    def _recorded(self, layers: Sequence[str]) -> Iterator[tuple[list[Tensor], Statistics]]:
        """For each batch the leaves, and what its pass in train mode would make of the statistics."""
        given, buffers, leaves = self._begin()
        for batch in self._batches():
            with (
                self.objective.forward_pass.passes.training(True),
                Recorded(layers, buffers, self._in_place) as recorded,
            ):
                self._one(given, buffers, batch, training=True)
                yield leaves, recorded.so_far()  # in the same modes: a backward pass may compute it anew


class Hessian(LossOperator):
    """The Hessian of an objective's loss at one point, as an operator: it is never written down.

    H v is the derivative of (grad L) . v, so it takes a second backward pass through the first (Pearlmutter 1994): one
    pass over the data costs a few gradients, and the memory of one batch.

    Parameters
    ----------
    objective : Objective
    point : mapping of str to Tensor, optional
        Where; by default the objective's centre.
    params : str or sequence of str
        Glob patterns over the objective's moving parameters: by which is differentiated. The others are constants.
    exclude : str or sequence of str
        ``"bias"``, ``"norm"`` or glob patterns, left out of these; as in `directions.random`.
    precision : "native" or "float64"
        What the model computes in. The objective in float64 is made once: pass ``objective.double()`` for many points.

    Attributes
    ----------
    names : tuple of str
        The parameters that are differentiated by, in the objective's order.
    size : int
        How many numbers these are: d.
    count : int
        Hessian-vector products made so far.
    passes : int
        Over the data, so far: one for all the products of a call of `derive`, three with ``bn="recompute"``.

    Raises
    ------
    StructureMismatchError
        If the point has other names or shapes than the objective.
    OptionError
        If nothing is left to differentiate by, or an option is unknown.
    ObjectiveError
        In use, if the model cannot be differentiated twice; it says what torch said.

    Notes
    -----
    A piecewise linear network has the Hessian of the piece the point is in: kinks (of ReLU, max-pooling) add nothing,
    though over a step they bend the loss too.

    References
    ----------
    Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    Examples
    --------
    >>> bowl = Objective.from_function(lambda p: (3 * p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
    >>> Hessian(bowl) @ {"x": torch.tensor([1.0, 0.0])}
    {'x': tensor([6., 0.])}
    """

    kind = "hessian"
    title = "Hessian"

    def seen(self, made: Derivatives) -> Tensor:
        """The gradient, whose derivative along a vector is the product with it."""
        return made.gradient

    def product_of(self, change: Tensor) -> Tensor:
        """The change itself."""
        return change

    def _differentiate(self, part: Tensor, by: Leaves, twice: bool, first: bool) -> BatchGraph:
        gradient = _grad(part, by, create_graph=twice)
        if twice and first:
            require_whole(gradient)
        return BatchGraph(gradient, lambda slope: _grad(_dot(gradient, slope), by, retain_graph=True), gradient)

    def _bend(self, through: Leaves, slope: Leaves) -> Tensor:
        return _dot(through, slope)


# ---------------------------------------------------------------------- public verbs


def operator_of(given: Objective | LossOperator) -> LossOperator:
    """Return an operator as it is; of an objective its Hessian, by all parameters that move, at its centre.

    Raises
    ------
    OptionError
        If it is neither.
    """
    return given if isinstance(given, LossOperator) else Hessian(require(given, "objective"))


def gradient(objective: Objective, point: Mapping[str, Tensor] | None = None, **options: Any) -> Params:
    """Gradient of the loss at a point, over all the data.

    Parameters
    ----------
    objective : Objective
    point : mapping of str to Tensor, optional
        By default the objective's centre.
    **options
        ``params``, ``exclude``, ``precision`` as of a `Hessian`.

    Returns
    -------
    dict of str to Tensor
        With the names and shapes of the objective, in float32 at least; zero in what is left out.

    Raises
    ------
    As a `Hessian` does.

    Examples
    --------
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
    >>> gradient(bowl)
    {'x': tensor([2., 4.])}
    """
    hessian = Hessian(objective, point, **options)
    return hessian.from_flat(hessian.derive().gradient)


def chosen(objective: Objective, params: str | Sequence[str], exclude: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the moving parameters that match some patterns and are not excluded, in their order; "*" is all.

    Raises
    ------
    OptionError
        If there is none, or an exclusion matches nothing.
    """
    excluded = objective.excluded(algebra.listed(exclude))
    named = objective.of_what_moves(params)
    names = tuple(name for name in named if name not in excluded)
    if not names:
        raise OptionError(
            f"params={params!r} and exclude={exclude!r} leave no parameter to differentiate by; the names are "
            f"{', '.join(list(objective.params)[:5])}, … Leave both out for all of them."
        )
    return names
