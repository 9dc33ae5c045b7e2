"""Two backward passes over one batch, and why they may fail."""

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

_CAUSES = (
    "Usual causes: a torch.autograd.Function whose backward pass is no derivative, or has none or a wrong one "
    "(straight-through estimators, clipped or reversed gradients); detach() or no_grad() between weights and loss; "
    "torch.utils.checkpoint with use_reentrant=True."
)


_REMEDY = "Replace that operation in the model, or hold the parameters before it still with params=."


class Derivatives(NamedTuple):
    """Value and derivatives at one point.

    Attributes
    ----------
    loss : float
    gradient : Tensor of shape (d,)
        float64, in the order of `Hessian.names`.
    products : list of Tensor of shape (d,)
        H v for each vector that was asked for, float64.
    """

    loss: float
    gradient: Tensor
    products: list[Tensor]


_NOT_DIFFERENTIABLE = ("derivative", "differentiable", "inplace", "in-place", "requires grad")  # in torch's messages


@contextmanager
def _twice_differentiable(objective: Objective) -> Iterator[None]:
    """Kernels that have a second derivative, the same each time; what torch lacks is said in an error of ours."""
    cudnn = torch.backends.cudnn.flags(deterministic=True) if objective.device.type == "cuda" else nullcontext()
    # fused attention has one derivative only
    kernels = torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), cudnn, Twice()
    # on a GPU backward passes run in other threads, where none of our modes is on for what they compute anew
    with ExitStack() as stack:
        for kernel in (*kernels, torch.autograd.set_multithreading_enabled(False)):
            stack.enter_context(kernel)
        try:
            yield
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            if "use_reentrant=True" in said:
                raise ObjectiveError(
                    f"{objective.name} uses reentrant activation checkpointing, which cannot be differentiated by "
                    "chosen parameters. Call torch.utils.checkpoint.checkpoint with use_reentrant=False."
                ) from error
            if "selective activation checkpoint" in said:
                raise ObjectiveError(
                    f"{objective.name} uses selective activation checkpointing, through which torch allows one "
                    "backward pass alone. Call torch.utils.checkpoint.checkpoint without context_fn= for second "
                    "derivatives."
                ) from error
            if not any(word in said for word in _NOT_DIFFERENTIABLE):
                raise
            raise ObjectiveError(
                f"{objective.name} cannot be differentiated twice: {said} Replace that operation in the model, or hold "
                "the parameters before it still with params=."
            ) from error


def _grad(
    value: Tensor, by: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> list[Tensor]:
    """Gradient of a number by some tensors; zeros where it does not depend on them.

    By torch's engine itself: `torch.autograd.grad` turns our modes (`Twice`, `Cheaper`, …) off for as long as it runs,
    so that activation checkpointing would compute something else the second time than the first.
    """
    if not value.requires_grad:
        return [torch.zeros_like(tensor) for tensor in by]
    engine: Any = torch.autograd.Variable._execution_engine
    found = engine.run_backward(
        (value,), (torch.ones_like(value),), retain_graph or create_graph, create_graph, tuple(by), True, False
    )
    return [torch.zeros_like(tensor) if part is None else part for tensor, part in zip(by, found, strict=True)]


def _is_between(value: Tensor, by: Sequence[Tensor]) -> bool:
    """Whether torch knows a way from a number to some tensors."""
    if not value.requires_grad:
        return False
    return any(part is not None for part in torch.autograd.grad(value, by, retain_graph=True, allow_unused=True))


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product over tensors, as far as it hangs on anything."""
    parts = [(x * y).sum() for x, y in zip(a, b, strict=True) if x.requires_grad]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _add(sums: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
    for total, part in zip(sums, parts, strict=True):
        total += part.detach()


def _joined(loss: float, sums: Sequence[Sequence[Tensor]]) -> Derivatives:
    gradient, *products = [torch.cat([part.reshape(-1) for part in parts]) for parts in sums]
    return Derivatives(loss, gradient, products)
