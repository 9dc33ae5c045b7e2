"""Batch normalisation at a displaced point: with the statistics of the model, of each batch, or of all the data."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn

from lossnav.params import Params

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def _mode_of_batch_norm(model: nn.Module, training: bool, in_training: bool) -> AbstractContextManager[None]:
    """BatchNorm layers in train or eval mode; in a model in train mode, layers that it left in eval mode stay there."""
    return nullcontext() if training and in_training else _batch_norm_mode(model, training)


class _batch_norm_mode(AbstractContextManager[None]):  # noqa: N801 - reads as the context it is
    """BatchNorm layers in train or eval mode inside a `with` block; nothing else changes."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
        self.training = training
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before = [layer.training for layer in self.layers]
        for layer in self.layers:
            layer.training = self.training

    def __exit__(self, *exception: object) -> None:
        for layer, before in zip(self.layers, self._before, strict=True):
            layer.training = before


class _batch_norm_recording(_batch_norm_mode):  # noqa: N801
    """Inside a `with` block, BatchNorm statistics are reset and then averaged over the batches."""

    def __init__(self, model: nn.Module, state: Params, prefix: str) -> None:
        super().__init__(model, training=True)
        self.momenta = [layer.momentum for layer in self.layers]
        names = {id(module): name for name, module in model.named_modules()}
        for layer in self.layers:
            for statistic, start in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0)):
                name = names[id(layer)]
                key = f"{prefix}{name}.{statistic}" if name else f"{prefix}{statistic}"
                if key in state:  # a layer without running statistics has no such buffer
                    state[key].fill_(start)

    def __enter__(self) -> None:
        super().__enter__()
        for layer in self.layers:
            layer.momentum = None  # a cumulative average, as torch.optim.swa_utils.update_bn does

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            layer.momentum = momentum
