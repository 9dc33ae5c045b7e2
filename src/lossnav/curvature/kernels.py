"""Operations whose second derivative is wrong in torch, replaced by ones whose second derivative is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Twice(TorchFunctionMode):
    """Within this mode, operations with a wrong second derivative are computed by their formula.

    There is one: `torch._weight_norm` along the first or the last axis. The backward pass of its kernel treats the
    norms saved by the forward pass as constants, so the Hessian is not symmetric (torch 2.13 and before).
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _FORMULAS.get(function, function)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / ||v||, with the norm of each slice along `dim`; with dim -1, the norm of the whole tensor."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


_FORMULAS: dict[Any, Callable[..., Any]] = {torch._weight_norm: _weight_norm}
