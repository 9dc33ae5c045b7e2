"""A matrix of second derivatives of an objective's loss, known by its products with vectors.

What is differentiated is what ``objective.evaluate(point)["loss"]`` returns: the mean over the samples with the
objective's own loss, weights and BatchNorm policy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils import turns
from lossnav._utils.validation import require
from lossnav.curvature.base import DIGITS, CheckedOperator, SymmetryWatch
from lossnav.curvature.double_backward import CAUSES, REMEDY, Derivatives, twice_differentiable
from lossnav.curvature.faster_products import FasterSweep
from lossnav.curvature.guard import Verdict, examine
from lossnav.errors import LossnavWarning, ObjectiveError, OptionError
from lossnav.objective.objective import Objective
from lossnav.params import Params

ProductPrecision = Literal["native", "float64"]

PRECISIONS = ("native", "float64")


class LossOperator(FasterSweep, CheckedOperator[Params]):
    """A matrix of second derivatives of an objective's loss at one point. It is never stored, only multiplied.

    This class holds what all such matrices share. `Hessian` and `GaussNewton` define what one batch contributes.

    Attributes
    ----------
    original : Objective
        The objective that was given.
    point : mapping of str to Tensor
        The point in weight space.
    names : tuple of str
        The parameters that are differentiated by, in the objective's order.
    precision : "native" or "float64"
        The precision in which the model computes.
    size : int
        d, the number of entries of these parameters.
    shape, dtype, device
        As for an `Operator`: (d, d); float64 if one of the parameters is float64, else float32.
    count : int
        Products computed so far.
    passes : int
        Passes over the data so far: one for all products of a call of `derive`, three with ``bn="recompute"``.
    gradient_norm : float
        Norm of the gradient by these parameters, from the first pass; NaN before it.
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
        self._rounding = DIGITS * torch.finfo(least).eps  # relative error of a product
        self._slope, self.gradient_norm = 0.0, math.nan
        self._in_place: Params = {}

    @overload  # type: ignore[override]  # a dict of tensors besides
    def __matmul__(self, vector: Tensor) -> Tensor: ...

    @overload
    def __matmul__(self, vector: Mapping[str, Tensor]) -> Params: ...

    def __matmul__(self, vector: Any) -> Any:
        """Multiply by a dict of tensors: a dict with the objective's names and shapes, zero for other parameters.

        Or by a Tensor of shape (d,), or by the columns of one of shape (d, k): a Tensor of the same shape, float64.
        """
        if isinstance(vector, Tensor):
            if vector.dim() not in (1, 2) or len(vector) != self.size:
                raise OptionError(
                    f"A {self.title} of shape {self.shape} cannot be multiplied by a Tensor of shape "
                    f"{tuple(vector.shape)}. Pass one of shape ({self.size},) or ({self.size}, k), or a dict of "
                    "tensors."
                )
            rows = vector.detach().to(self.device, torch.float64).reshape(self.size, -1).T
            return self.multiply(rows).T.reshape(vector.shape)
        self.require_vector(vector)
        return self.from_flat(self.derive([self.to_flat(vector)]).products[0])

    def multiply(self, vectors: Tensor) -> Tensor:
        """Multiply by the rows of a Tensor of shape (k, d), float64, in one pass over the data (or three)."""
        return torch.stack(self.derive(list(vectors)).products)

    def require_vector(self, vector: Mapping[str, Tensor]) -> None:
        """Raise StructureMismatchError if names or shapes differ from the objective's."""
        self.objective.require_same_structure(vector, "the vector")

    def derive(self, vectors: Sequence[Tensor] = ()) -> Derivatives:
        """Compute loss, gradient and products with vectors of shape (d,), all in one pass over the data.

        With ``bn="recompute"`` it takes three passes.
        """
        self._examine(bool(vectors))
        self.count += len(vectors)
        found = self.compute(vectors)
        size = max(1.0, math.sqrt(sum(float(self._point[name].double().square().sum()) for name in self.names)))
        length = float(torch.linalg.vector_norm(found.gradient))
        self.gradient_norm = length if math.isnan(self.gradient_norm) else self.gradient_norm
        slope = length / size
        self._slope = slope if math.isfinite(slope) else 0.0
        if not self._slope and math.isfinite(found.loss):  # zero gradient: use the size of the summed losses
            self._slope = abs(found.loss) / size**2
        for vector, product in zip(vectors, found.products, strict=True):
            self._require_symmetry(vector, product)
        return found

    def compute(self, vectors: Sequence[Tensor] = ()) -> Derivatives:
        """Compute the same as `derive`, without its checks."""
        slopes = [self._cut(vector) for vector in vectors]
        with turns.alone(), twice_differentiable(self.objective):
            self.passes += 3 if self._layers() else 1
            found: Derivatives = self._holding(lambda: self._soonest(slopes))
        return found

    def rounding(self, size: float) -> float:
        """Return the rounding error of products with this matrix: no eigenvalue is known more accurately.

        It is a relative error times the larger of the matrix's size and |gradient| / |weights|. The relative error is
        the larger of a few units in the last place and the difference seen between a product and that in float64.

        Parameters
        ----------
        size : float
            The largest absolute eigenvalue of the matrix, or a norm that is larger.
        """
        return max(self._rounding, self._symmetry.rounding) * max(size, self._slope)

    def to_flat(self, vector: Mapping[str, Tensor]) -> Tensor:
        """Return the entries of a vector in the order of `names`, shape (d,), float64."""
        device = self.objective.device
        return torch.cat([vector[name].detach().to(device, torch.float64).reshape(-1) for name in self.names])

    def from_flat(self, flat: Tensor) -> Params:
        """Return a vector of shape (d,) as a dict with the objective's names, float32 or wider; zero elsewhere."""
        parts = dict(zip(self.names, torch.split(flat, self._sizes), strict=True))
        made: Params = {}
        for name, tensor in self.objective.params.items():
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            part = parts.get(name)
            made[name] = torch.zeros_like(tensor, dtype=dtype) if part is None else part.view(tensor.shape).to(dtype)
        return made

    def seen(self, made: Derivatives) -> Tensor | None:
        """Return the numbers whose derivatives the products are, in any shape; None if they are not available."""
        raise NotImplementedError

    def product_of(self, change: Tensor) -> Tensor:
        """Return the product with a vector, shape (d,), from the change of `seen` along that vector."""
        raise NotImplementedError

    def _examine(self, twice: bool) -> None:
        """Compare the derivatives with finite differences, once per objective; raise or warn if they are wrong."""
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
            self._rounding = max(
                self._rounding, DIGITS * found.rounding
            )  # more than measured: it was measured on a few samples
        if found.refusal and twice:
            raise ObjectiveError(
                f"Products with the {self.title} of {self.objective.name} are wrong: {found.refusal}. {CAUSES} {REMEDY}"
            )
        if found.detached:
            raise ObjectiveError(f"{self.objective.name} cannot be differentiated: {found.doubt}. {CAUSES} {REMEDY}")
        if found.doubt and before is None:
            warnings.warn(
                f"The gradient of {self.objective.name} is not the gradient of its loss: {found.doubt}. {CAUSES} All "
                "results are computed from the gradient that torch returns.",
                LossnavWarning,
                stacklevel=4,
            )
        if found.flat and before is None:
            warnings.warn(
                f"The gradient of {self.objective.name} does not describe its loss: {found.flat}. The loss is "
                "piecewise constant (round, sign, argmax, thresholds), or its weights are multiplied by zero. All "
                "derivatives are zero: plot the loss over a range, or measure its sharpness without derivatives "
                "(kind='average', 'width').",
                LossnavWarning,
                stacklevel=4,
            )

    def _unexamined(self, objective: Objective, point: Params) -> LossOperator:
        return type(self)(objective, point, params=self.names)

    def _require_symmetry(self, vector: Tensor, product: Tensor) -> None:
        """Raise if two products contradict symmetry by more than rounding; this needs no further product."""
        gap = self._symmetry.gap(vector, product, lambda both: self.compute([both]).products[0])
        if gap:
            raise ObjectiveError(
                f"Products with the {self.title} of {self.objective.name} are wrong: u . H v and v . H u differ by "
                f"{gap:.1%}, but second derivatives are symmetric. {CAUSES} Or the data differs from pass to pass. "
                f"{REMEDY}"
            )


def chosen(objective: Objective, params: str | Sequence[str], exclude: str | Sequence[str]) -> tuple[str, ...]:
    """Return the moving parameters that match some patterns and are not excluded, in their order; "*" matches all.

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
            f"params={params!r} and exclude={exclude!r} leave no parameter to differentiate by. The names are "
            f"{', '.join(list(objective.params)[:5])}, …; omit both options to take all of them."
        )
    return names
