"""The two backward passes over one batch, and the errors for models that do not allow them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossnav.curvature.kernels import Twice
from lossnav.errors import ObjectiveError
from lossnav.objective.objective import Objective

CAUSES = (
    "Usual causes: a torch.autograd.Function whose backward pass is not the derivative, or whose own derivative is "
    "missing or wrong (straight-through estimators, clipped or reversed gradients); detach() or no_grad() between "
    "weights and loss; torch.utils.checkpoint with use_reentrant=True."
)
REMEDY = "Replace that operation in the model, or leave out the parameters before it with params=."


class Derivatives(NamedTuple):
    """Value and derivatives at one point.

    Attributes
    ----------
    loss : float
    gradient : Tensor of shape (d,)
        float64, in the order of `Hessian.names`.
    products : list of Tensor of shape (d,)
        H v for each given vector, float64.
    """

    loss: float
    gradient: Tensor
    products: list[Tensor]


_NOT_DIFFERENTIABLE = ("derivative", "differentiable", "inplace", "in-place", "requires grad")  # in torch's messages


@contextmanager
def twice_differentiable(objective: Objective) -> Iterator[None]:
    """Use deterministic kernels that have a second derivative; turn torch's errors for missing ones into ours."""
    cudnn = torch.backends.cudnn.flags(deterministic=True) if objective.device.type == "cuda" else nullcontext()
    # fused attention has one derivative only
    kernels = torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), cudnn, Twice()
    # on a GPU, backward passes run in other threads, where our modes would not apply to what they recompute
    with ExitStack() as stack:
        for kernel in (*kernels, torch.autograd.set_multithreading_enabled(False)):
            stack.enter_context(kernel)
        try:
            yield
        except RuntimeError as error:
            message = str(error).splitlines()[0]
            if "use_reentrant=True" in message:
                raise ObjectiveError(
                    f"{objective.name} uses reentrant activation checkpointing, which cannot be differentiated by "
                    "single parameters. Call torch.utils.checkpoint.checkpoint with use_reentrant=False."
                ) from error
            if "selective activation checkpoint" in message:
                raise ObjectiveError(
                    f"{objective.name} uses selective activation checkpointing, for which torch allows only one "
                    "backward pass. For second derivatives, call torch.utils.checkpoint.checkpoint without context_fn=."
                ) from error
            if not any(word in message for word in _NOT_DIFFERENTIABLE):
                raise
            raise ObjectiveError(f"{objective.name} cannot be differentiated twice: {message} {REMEDY}") from error


def grad(
    value: Tensor, by: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> list[Tensor]:
    """Return the gradient of a number by some tensors; zeros where it does not depend on them.

    This calls torch's engine directly. `torch.autograd.grad` switches our modes (`Twice`, `Cheaper`, …) off while it
    runs, so recomputed activations (checkpointing) would differ from the first ones.
    """
    if not value.requires_grad:
        return [torch.zeros_like(tensor) for tensor in by]
    engine: Any = torch.autograd.Variable._execution_engine
    found = engine.run_backward(
        (value,), (torch.ones_like(value),), retain_graph or create_graph, create_graph, tuple(by), True, False
    )
    return [torch.zeros_like(tensor) if part is None else part for tensor, part in zip(by, found, strict=True)]


def is_connected(value: Tensor, by: Sequence[Tensor]) -> bool:
    """Whether the graph of a number contains any of some tensors."""
    if not value.requires_grad:
        return False
    return any(part is not None for part in torch.autograd.grad(value, by, retain_graph=True, allow_unused=True))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors, without terms that need no gradient."""
    parts = [(x * y).sum() for x, y in zip(a, b, strict=True) if x.requires_grad]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def accumulate(sums: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
    """Add tensors to sums, in place."""
    for total, part in zip(sums, parts, strict=True):
        total += part.detach()


def joined(loss: float, sums: Sequence[Sequence[Tensor]]) -> Derivatives:
    """Join a loss with a gradient and products, each given as tensors shaped like the parameters."""
    gradient, *products = [torch.cat([part.reshape(-1) for part in parts]) for parts in sums]
    return Derivatives(loss, gradient, products)
