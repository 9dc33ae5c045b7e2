"""What a loss does: the calls of torch's own losses in it, with their arguments and results."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CLASSES = ("cross_entropy", "nll_loss", "multi_margin_loss")
YES_OR_NO = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "soft_margin_loss",
    "multilabel_soft_margin_loss",
)
_OTHERS = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "gaussian_nll_loss", "poisson_nll_loss",
    "ctc_loss", "cosine_embedding_loss", "hinge_embedding_loss", "margin_ranking_loss", "multilabel_margin_loss",
    "triplet_margin_loss", "triplet_margin_with_distance_loss",
)  # fmt: skip
_WATCHED: dict[Any, str] = {getattr(F, name): name for name in (*CLASSES, *YES_OR_NO, *_OTHERS)}
_SIGNATURES = {name: inspect.signature(function) for function, name in _WATCHED.items()}
_ROWS = ("multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss", "triplet_margin_loss",
         "triplet_margin_with_distance_loss")  # fmt: skip


class LossCall:
    """One call of one of torch's losses.

    Attributes
    ----------
    name : str
        Name of the function in ``torch.nn.functional``.
    result : Tensor
        Its result.
    arguments : dict
        All arguments by name, including defaults.
    """

    def __init__(self, name: str, result: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name, self.result = name, result
        bound = _SIGNATURES[name].bind(*args, **kwargs)
        bound.apply_defaults()
        self.arguments = bound.arguments

    @property
    def reduction(self) -> str:
        """How it reduces its terms: "mean", "sum" or "none"."""
        old = (self.arguments.get("size_average"), self.arguments.get("reduce"))
        if old != (None, None):
            return str(torch.nn._reduction.legacy_get_string(*old, emit_warning=False))
        return str(self.arguments.get("reduction", "mean"))

    @property
    def input(self) -> Tensor:
        """The first argument: scores, with the classes along axis 1."""
        scores: Tensor = next(iter(self.arguments.values()))
        return scores

    @property
    def target(self) -> Tensor:
        """The second argument."""
        target: Tensor = list(self.arguments.values())[1]
        return target

    @property
    def counted(self) -> Tensor:
        """Which of its terms count, because they are not ignored and have a weight; bool, in the shape of its terms."""
        weight = self.arguments.get("weight")
        if self.name in CLASSES:
            if self.target.is_floating_point():  # probabilities of the classes
                return torch.ones_like(self.target.select(self._axis, 0), dtype=torch.bool)
            valid = self.target != self.arguments.get("ignore_index", -100)
            return valid if weight is None else cast(Tensor, valid & (weight != 0)[torch.where(valid, self.target, 0)])
        every = torch.ones_like(self.target, dtype=torch.bool)
        return every if weight is None else cast(Tensor, every & (weight != 0))

    @property
    def denominator(self) -> Tensor | None:
        """The denominator of its mean, shape (); None if it is not known or not a mean."""
        device = self.input.device
        if self.reduction == "batchmean":
            return torch.tensor(float(self.input.shape[0]), dtype=torch.float64, device=device)
        if self.reduction != "mean":
            return None
        if self.name in ("cross_entropy", "nll_loss") and not self.target.is_floating_point():
            valid = self.target != self.arguments["ignore_index"]
            weight = self.arguments.get("weight")
            weights = valid if weight is None else valid * weight.double()[torch.where(valid, self.target, 0)]
            return cast(Tensor, weights.double().sum())
        if (
            self.name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
            and self.arguments.get("weight") is not None
        ):
            return None
        return torch.tensor(float(self._terms()), dtype=torch.float64, device=device)

    @property
    def _axis(self) -> int:
        return 1 if self.input.dim() > 1 else 0

    def _terms(self) -> int:
        """The number of terms, from shapes alone."""
        if self.name in CLASSES[:2]:
            return self.input.numel() // self.input.shape[self._axis]
        if self.name in _ROWS:
            return self.input.shape[0] if self.input.dim() > 1 else 1
        if self.name == "ctc_loss":
            return self.input.shape[1] if self.input.dim() > 2 else 1
        if self.name == "cosine_embedding_loss":
            return self.input.shape[0] if self.input.dim() > 1 else 1
        others = [part.shape for part in list(self.arguments.values())[:2] if isinstance(part, Tensor)]
        return torch.Size(torch.broadcast_shapes(*others)).numel()  # type: ignore[no-untyped-call]

    def of(self, input: Any, target: Any) -> LossCall:
        """The same call with another input and target, without a result."""
        other = copy.copy(self)
        other.arguments = dict(self.arguments)
        other.arguments |= dict(zip(list(self.arguments)[:2], (input, target), strict=True))
        vars(other).pop("result", None)
        return other

    def is_of(self, input: Any, target: Any) -> bool:
        """Whether it got these objects themselves."""
        return self.input is input and self.target is target

    def is_like(self, other: LossCall) -> bool:
        """Whether another call got the same tensors."""
        return self.name == other.name and all(
            a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.dtype == b.dtype
            for a, b in ((self.input, other.input), (self.target, other.target))
        )


class LossWatch(TorchFunctionMode):
    """Inside this context, calls of torch's losses are recorded; their results do not change.

    Parameters
    ----------
    follow : bool
        Whether results that are not a mean require gradients, so that the weight of each term in a loss can be found.

    Attributes
    ----------
    calls : list of LossCall
    """

    def __init__(self, follow: bool = False) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self.follow = follow

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function; record it if it is a loss."""
        result = func(*args, **(kwargs or {}))
        name = _WATCHED.get(func) if isinstance(result, Tensor) else None
        if name is None:
            return result
        call = LossCall(name, result, args, kwargs or {})
        if not any(call.is_like(other) for other in self.calls):
            self.calls.append(call)
            if self.follow and result.is_floating_point():
                with torch.enable_grad():
                    call.result = result if result.requires_grad else result.detach().requires_grad_()
                    return call.result.clone()  # a loss may write into its argument
        return result

    def __enter__(self) -> LossWatch:
        self._grad = torch.is_grad_enabled()
        if self.follow:
            torch.set_grad_enabled(True)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        torch.set_grad_enabled(self._grad)


def unwatched() -> Any:
    """A context in which nothing is recorded."""
    return torch._C.DisableTorchFunction()


def slopes(value: Tensor, result: Tensor) -> Tensor | None:
    """The derivative of a loss with respect to the terms of a call: the weight of each; None if there is none."""
    if not value.requires_grad:
        return None
    with torch.enable_grad():
        return torch.autograd.grad(value.sum(), result, retain_graph=True, allow_unused=True)[0]
