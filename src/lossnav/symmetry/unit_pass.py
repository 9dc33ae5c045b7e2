"""One pass of an objective's model over repair data, in which its layers are seen and may be changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav.errors import DataError, LossnavError
from lossnav.objective import batch_tensors
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.functional import StepValues
from lossnav.objective.objective import Objective
from lossnav.objective.passes import FunctionPasses
from lossnav.params import Params
from lossnav.symmetry.network import plain_attention
from lossnav.symmetry.units import Layer, NormLayer, Trail, UnitReader

Visitor = Callable[[Layer | NormLayer, Tensor, Params], bool]


def pass_with_units(
    objective: Objective, params: Params, buffers: Params, batch: Batch, visit: Visitor
) -> tuple[Trail, Params]:
    """Run the model in eval mode on one batch, with copies of these weights and buffers.

    Parameters
    ----------
    objective : Objective
    params, buffers : dict of str to Tensor
        Those that move, and all buffers.
    batch : batch
    visit : callable
        As of `UnitReader`, with the tensors in the model by name as a third argument.

    Returns
    -------
    trail : Trail
    state : dict of str to Tensor
        Parameters and buffers after the pass, with what the visitor has written.

    Raises
    ------
    DataError
        If the model cannot be run on the batch.
    """
    one = objective.forward_pass
    known = params | one.held | buffers
    trails: list[Trail] = []
    left: Params = {}

    def step(model: Any, given: Batch) -> StepValues:
        named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        own = {name: tensor for name, tensor in named if name in known}
        reader = UnitReader(own, batch_tensors.tensors(given), lambda layer, values: visit(layer, values, own))
        with reader:
            one.outputs_and_targets(model, given)
        trails.append(reader.trail)
        left.update({name: tensor.detach().clone() for name, tensor in own.items()})
        return 1, {}

    passes = one.passes.measuring(step)
    if not isinstance(passes, FunctionPasses):
        passes.bn = "frozen"
    given = batch_tensors.move(batch, objective.device)  # a forward may write into its batch
    try:
        with random_state.preserved(objective.seed, objective.device), torch.no_grad(), plain_attention():
            passes(algebra.copy(params) | one.held, buffers, [given])
    except LossnavError:
        raise
    except Exception as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{objective.name} cannot be run on the repair data ({type(error).__name__}: {said}). Pass training "
            "data in the form of the objective's own data."
        ) from error
    return trails[0], left
