"""Operations whose second derivative torch has wrong, written out in operations whose second derivative is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Twice(TorchFunctionMode):
    """While it is on, what torch differentiates wrongly the second time is computed by its formula.

    That is `torch._weight_norm` along the first or the last axis: the backward pass of its kernel takes the norms that
    the forward pass saved for constants, so that a Hessian comes out unsymmetric (torch 2.13 and before).
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _FORMULAS.get(function, function)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / ||v||, each slice along `dim` by its own norm; of -1 the whole by one."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


_FORMULAS: dict[Any, Callable[..., Any]] = {torch._weight_norm: _weight_norm}
