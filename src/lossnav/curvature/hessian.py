"""The Hessian of an objective, by two backward passes over each batch, and the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lossnav._utils.validation import require
from lossnav.curvature.batch_graph import BatchGraph, Leaves, require_whole
from lossnav.curvature.double_backward import Derivatives, dot, grad
from lossnav.curvature.loss_operator import LossOperator
from lossnav.objective.objective import Objective
from lossnav.params import Params


class Hessian(LossOperator):
    """The Hessian of an objective's loss at one point, as an operator: the matrix is never stored.

    H v is the gradient of (grad L) . v, computed by a second backward pass through the first (Pearlmutter 1994). One
    pass over the data costs a few gradients, and the memory of one batch.

    Parameters
    ----------
    objective : Objective
    point : mapping of str to Tensor, optional
        The point in weight space; by default the objective's centre.
    params : str or sequence of str
        Glob patterns for the moving parameters to differentiate by. The others are constants.
    exclude : str or sequence of str
        ``"bias"``, ``"norm"`` or glob patterns for parameters to leave out; as in `directions.random`.
    precision : "native" or "float64"
        The precision in which the model computes. For many points in float64, pass ``objective.double()``, so that the
        model is converted only once.

    Attributes
    ----------
    names : tuple of str
        The parameters that are differentiated by, in the objective's order.
    size : int
        d, the number of entries of these parameters.
    count : int
        Hessian-vector products computed so far.
    passes : int
        Passes over the data so far: one for all products of a call of `derive`, three with ``bn="recompute"``.

    Raises
    ------
    StructureMismatchError
        If names or shapes of the point and the objective differ.
    OptionError
        If no parameter is left to differentiate by, or an option is unknown.
    ObjectiveError
        When products are computed, if the model cannot be differentiated twice; it quotes torch's message.

    Notes
    -----
    For a piecewise linear network, this is the Hessian of the linear piece that contains the point. Kinks (of ReLU,
    max-pooling) do not contribute, although they curve the loss over a finite step.

    References
    ----------
    Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    Examples
    --------
    >>> import torch
    >>> bowl = Objective.from_function(lambda p: (3 * p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
    >>> Hessian(bowl) @ {"x": torch.tensor([1.0, 0.0])}
    {'x': tensor([6., 0.])}
    """

    kind = "hessian"
    title = "Hessian"

    def seen(self, made: Derivatives) -> Tensor:
        """Return the gradient; its derivative along a vector is the product with that vector."""
        return made.gradient

    def product_of(self, change: Tensor) -> Tensor:
        """Return the change itself."""
        return change

    def _differentiate(self, part: Tensor, by: Leaves, twice: bool, first: bool) -> BatchGraph:
        gradient = grad(part, by, create_graph=twice)
        if twice and first:
            require_whole(gradient)
        return BatchGraph(gradient, lambda slope: grad(dot(gradient, slope), by, retain_graph=True), gradient)

    def _bend(self, through: Leaves, slope: Leaves) -> Tensor:
        return dot(through, slope)


def operator_of(given: Objective | LossOperator) -> LossOperator:
    """Return an operator as it is; for an objective, its Hessian at its centre by all moving parameters.

    Raises
    ------
    OptionError
        If it is neither an operator nor an objective.
    """
    return given if isinstance(given, LossOperator) else Hessian(require(given, "objective"))


def gradient(objective: Objective, point: Mapping[str, Tensor] | None = None, **options: Any) -> Params:
    """Compute the gradient of the loss at a point, over all the data.

    Parameters
    ----------
    objective : Objective
    point : mapping of str to Tensor, optional
        By default the objective's centre.
    **options
        ``params``, ``exclude``, ``precision`` as for a `Hessian`.

    Returns
    -------
    dict of str to Tensor
        With the objective's names and shapes, in float32 or wider; zero for parameters that are left out.

    Raises
    ------
    StructureMismatchError, OptionError, ObjectiveError
        As `Hessian` does.

    Examples
    --------
    >>> import torch
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
    >>> gradient(bowl)
    {'x': tensor([2., 4.])}
    """
    hessian = Hessian(objective, point, **options)
    return hessian.from_flat(hessian.derive().gradient)
