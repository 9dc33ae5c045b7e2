"""The generalised Gauss-Newton matrix: the curvature of the loss in the model's outputs, by the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossnav.curvature.batch_graph import BatchGraph, Leaves, require_whole
from lossnav.curvature.double_backward import Derivatives, dot, grad, is_connected, twice_differentiable
from lossnav.curvature.hessian import Hessian
from lossnav.curvature.loss_operator import LossOperator, ProductPrecision
from lossnav.errors import ObjectiveError
from lossnav.objective.batch_tensors import map_tensors
from lossnav.objective.functional import Measured
from lossnav.objective.loss import Loss, logits
from lossnav.objective.objective import Objective


class GaussNewton(LossOperator):
    """The generalised Gauss-Newton matrix of an objective at one point, as an operator: the matrix is never stored.

    G = sum over the samples of J^T H J, where J is the derivative of the outputs by the parameters and H the Hessian of
    the loss by the outputs. It is the Hessian for outputs that are linear in the parameters. If the loss is convex in
    the outputs, G has no negative eigenvalue. For cross-entropy of logits and for the squared error, it is the Fisher
    matrix of the model's own predictions.

    The outputs are the argument of the objective's loss: ``outputs.logits`` if it exists, a tensor, or tuples, lists
    and dicts of tensors. The losses of batches are joined as in the objective, with class weights, ignored targets and
    a short last batch. G depends on where the model ends: with a softmax in the model and `nll_loss` outside, the loss
    is linear in the outputs and G is zero. Let the model return logits.

    Parameters
    ----------
    objective : Objective
        With a loss that is separate from the model.
    point : mapping of str to Tensor, optional
        The point in weight space; by default the objective's centre.
    params, exclude, precision
        As for a `Hessian`.

    Attributes
    ----------
    names, size, count, passes
        As for a `Hessian`; one product costs about as much as one with the Hessian.

    Raises
    ------
    ObjectiveError
        If loss and model are not separate: an objective with ``loss=None``, or one made by `from_function`.
    StructureMismatchError, OptionError
        As a `Hessian` does.

    References
    ----------
    Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent", section 3. Departure:
    J v is computed by two backward passes instead of a forward one, which not every operation has.

    Examples
    --------
    For outputs w x and half the squared error, G is the mean of x x^T.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> half = lambda outputs, targets: ((outputs - targets) ** 2).mean() / 2
    >>> objective = Objective(model, half, (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)))
    >>> GaussNewton(objective) @ {"weight": torch.tensor([[2.0]])}
    {'weight': tensor([[10.]])}
    """

    kind = "gauss-newton"
    title = "Gauss-Newton matrix"

    def __init__(
        self,
        objective: Objective,
        point: Mapping[str, Tensor] | None = None,
        *,
        params: str | Sequence[str] = "*",
        exclude: str | Sequence[str] = (),
        precision: ProductPrecision = "native",
    ) -> None:
        if objective.forward_pass.loss.function is None:
            raise ObjectiveError(
                f"{objective.name} returns its loss itself, but a Gauss-Newton matrix needs the outputs from which the "
                "loss is computed. Pass Objective(model, loss, data) with a model that returns outputs and a separate "
                "loss, or use ln.curvature.Hessian."
            )
        super().__init__(objective, point, params=params, exclude=exclude, precision=precision)
        self._between = _Between(self.objective.forward_pass.loss)
        self.objective = self.objective.forward_pass.measuring(self._between, {})

    def seen(self, made: Derivatives) -> Tensor | None:
        """Return the outputs of the last batch; None if BatchNorm statistics are recomputed."""
        return None if self._layers() else _flat(self._between.outputs)

    def product_of(self, change: Tensor) -> Tensor:
        """Return J^T H J v from a given J v, for data in one batch."""

        def product() -> Tensor:
            given, buffers, leaves = self._begin()
            part, weight = self._one(given, buffers, next(iter(self._batches())), self.objective.bn == "batch")
            outputs, cut = self._between.outputs, self._between.cut
            along = [a.view(z.shape) for a, z in zip(torch.split(change, [z.numel() for z in cut]), cut, strict=True)]
            bent = grad(dot(grad(part, cut, create_graph=True), along), cut)
            return _flat(grad(dot(outputs, bent), leaves)) / weight

        with twice_differentiable(self.objective):
            made: Tensor = self._holding(product)
        return made

    def _leads(self, part: Tensor, by: Leaves) -> bool:
        """Whether the graph leads from the loss to the outputs, and from these to the parameters."""
        return is_connected(part, self._between.cut) and any(is_connected(z.sum(), by) for z in self._between.outputs)

    def _differentiate(self, part: Tensor, by: Leaves, twice: bool, first: bool) -> BatchGraph:
        """Return the gradient J^T dL/dz and products J^T d2L/dz2 J v, where z are the outputs."""
        outputs, cut = self._between.outputs, self._between.cut
        if first:
            _require_apart(part, cut, by)
        pull = grad(part, cut, create_graph=twice)
        weights = [tensor.detach().requires_grad_() for tensor in pull]
        gradient = grad(dot(outputs, weights), by, create_graph=twice)
        if twice and first:
            require_whole([*pull, *gradient])

        def multiply(slope: Leaves) -> Leaves:
            # J v is the derivative of (weights . J) v by the weights; their values do not matter
            along = grad(dot(gradient, slope), weights, retain_graph=True)
            bent = grad(dot(pull, along), cut, retain_graph=True)
            return grad(dot(outputs, bent), by, retain_graph=True)

        return BatchGraph(gradient, multiply, [*pull, *gradient])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


class _Between(Loss):
    """A loss whose graph is separated from that of the model; both ends of the cut are kept.

    Attributes
    ----------
    outputs, cut : list of Tensor
        Equal tensors for the last batch: the model's outputs, and the leaves from which the loss is computed.
    """

    def __init__(self, loss: Loss) -> None:
        vars(self).update(vars(loss))
        self.outputs: list[Tensor] = []
        self.cut: list[Tensor] = []

    def __call__(self, outputs: Any, targets: Any, n: int) -> Measured:
        """Measure a batch as the loss does."""
        self.outputs, self.cut = [], []

        def apart(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            self.outputs.append(tensor)
            self.cut.append(tensor.detach().requires_grad_())
            return self.cut[-1]

        outputs = map_tensors(logits(outputs), apart)
        # targets that depend on the model are outputs too
        targets = map_tensors(targets, lambda tensor: apart(tensor) if tensor.requires_grad else tensor)
        return super().__call__(outputs, targets, n)


def _require_apart(part: Tensor, cut: Sequence[Tensor], by: Leaves) -> None:
    """Raise if a loss depends on the parameters in another way than through the tensors of the cut."""
    past: Sequence[Tensor | None] = ()
    if part.requires_grad:
        past = torch.autograd.grad(part, by, allow_unused=True, retain_graph=True)
    if not cut or any(tensor is not None for tensor in past):
        raise ObjectiveError(
            "The model's outputs cannot be separated from the loss. Let the model, or forward=, return a tensor, or a "
            "tuple, list or dict of tensors; or use ln.curvature.Hessian."
        )


OPERATORS: dict[str, type[LossOperator]] = {"hessian": Hessian, "gauss-newton": GaussNewton}
