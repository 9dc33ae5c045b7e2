"""The gradient of an objective's loss on one minibatch, at any point of weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lossnav._utils import random_state, turns
from lossnav.errors import ObjectiveError
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.objective import Objective
from lossnav.objective.reduction import share
from lossnav.params import Params


class Slopes:
    """Loss and gradient on minibatches.

    Parameters
    ----------
    objective : Objective
    bn : "frozen", "batch" or "recompute"
        BatchNorm in a minibatch: by the buffers of the point, or else by the statistics of the minibatch.
    """

    def __init__(self, objective: Objective, bn: str) -> None:
        self._objective = objective.without_metrics()
        self._in_training = bn != "frozen"
        self._names = [name for name, tensor in objective.params.items() if tensor.is_floating_point()]

    def __call__(
        self, point: Mapping[str, Tensor], batch: Batch, seed: int, differentiate: bool = True
    ) -> tuple[float, Params]:
        """Return the loss of a minibatch at a point, and its gradient by every weight.

        Parameters
        ----------
        point : mapping of str to Tensor
            With its buffers, if it carries some.
        batch : batch
        seed : int
            Of random numbers that the model draws.
        differentiate : bool
            False: the loss only.

        Raises
        ------
        ObjectiveError
            If the loss has no gradient.
        """
        objective, forward = self._objective, self._objective.forward_pass
        weights = {name: point[name].detach().to(c.device, c.dtype) for name, c in objective.params.items()}
        with turns.alone(), random_state.preserved(seed, objective.device), torch.set_grad_enabled(differentiate):
            given, buffers = forward.passes.leaves(
                weights | forward.held, objective.buffers_at(point), self._names if differentiate else ()
            )
            found: list[tuple[float, Sequence[Tensor | None]]] = []

            def run() -> None:
                used = {name: tensor.clone() for name, tensor in given.items()} if forward.writes_weights else given
                n, values = forward.passes.one(used, buffers, batch, self._in_training)
                numerator, weight = share(values["loss"], n)
                loss = numerator / weight
                if differentiate and not loss.requires_grad:
                    raise ObjectiveError(
                        f"The loss of {objective.name} has no gradient by its weights, so no curve can be trained: "
                        "something in it is detached, or computed with torch.no_grad(). Remove that, or use a line."
                    )
                leaves = [given[name] for name in self._names]
                slopes = torch.autograd.grad(loss, leaves, allow_unused=True) if differentiate else ()
                found.append((float(loss.detach()), slopes))

            with forward.passes.training(self._in_training):
                forward.passes.holding(given, buffers, run)
        loss, slopes = found[0]
        return loss, {
            name: torch.zeros_like(weights[name]) if slope is None else slope.detach()
            for name, slope in zip(self._names, slopes, strict=differentiate)
        }
