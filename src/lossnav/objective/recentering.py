"""The same objective centred at other weights, and checks that those weights belong to it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav._utils.moving import is_left_open
from lossnav.checkpoints import weights
from lossnav.checkpoints.files import Stored
from lossnav.errors import CheckpointError, CheckpointMismatchError, StructureMismatchError
from lossnav.objective import batch_tensors
from lossnav.objective.batch_dependence import rounding
from lossnav.objective.forward import _part_with_parameters
from lossnav.objective.parameters import require_weights
from lossnav.objective.passes import FunctionPasses, Passes, make_passes
from lossnav.objective.reduction import reduce_steps
from lossnav.objective.truth import few_of
from lossnav.params import Params

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective


def anatomy(objective: Objective) -> weights.Anatomy:
    """What each tensor of the model is: moving, held or a buffer, and which of them a checkpoint may lack."""
    return weights.Anatomy(
        objective.name,
        objective.params,
        objective._held,
        objective._buffers,
        objective._optional,
        objective._aliases,
        objective._extra,
        objective._adapters,
        is_left_open(objective.moves),
        frozenset(objective._also),
    )


def at(objective: Objective, state: Any, missing: weights.Missing) -> Objective:
    """Return the same objective centred at a state dict, a module or a checkpoint; see `Objective.at`."""
    if isinstance(state, nn.Module):
        there = at(objective, state.state_dict(), missing)
        require_same_function(there, state)
        return there
    given: Mapping[str, Any]
    if isinstance(state, str | os.PathLike):
        given, source = weights.stored(state), f"The checkpoint {os.fspath(state)}"
    elif isinstance(state, Mapping):
        given, source = dict(state) | dict(getattr(state, "buffers", {})), "The state dict"
    else:
        raise CheckpointError(
            f"at() takes a module, a state dict or the path of a checkpoint, not {type(state).__name__}. Pass one "
            "of them: objective.at(model), objective.at('weights.pt')."
        )
    parts = anatomy(objective)
    match = parts.match(given)
    params, held, buffers = parts.split(match.tensors)
    if name := parts.other_extra(match.extra):
        raise CheckpointMismatchError(
            f'{source} has another extra state "{name}" (get_extra_state) than the model of the objective, and at() '
            "cannot change it. Load the state into the model and build an objective from that model."
        )
    if getattr(given, "adapter", None) is None:  # the file of an adapter holds no buffers
        weights.require_complete(parts.missing(buffers), missing, source, objective.name)
    there = with_tensors(objective, params, objective._held | held, objective._buffers | buffers)
    if isinstance(given, Stored):
        saved = [n for n in objective._buffers if n not in objective._optional or n.endswith(weights.COUNTER)]
        kept = [name for name in objective._held if name not in held and name not in objective._aliases]
        kept += [name for name in saved if name not in buffers]
        there._weights = {"file": given.source, "place": match.place, "kept": kept}
    return there


def around(objective: Objective, point: Mapping[str, Tensor]) -> Objective:
    """Return the same objective centred at a point of its own weight space; see `Objective.around`."""
    require_same_structure(objective, point, "the point")
    params = cast({name: point[name] for name in objective.params}, objective.params, "the point", objective.name)
    return with_tensors(objective, params, objective._held, buffers_at(objective, point))


def with_tensors(objective: Objective, params: Params, held: Params, buffers: Params) -> Objective:
    """Return the same objective with copies of these tensors."""
    return objective._with(
        params=algebra.copy(params),
        _held=algebra.copy(held),
        _buffers=algebra.copy(buffers),
        origin=None,
        _weights=None,
        _of_all={},
    )


def buffers_at(
    objective: Objective, point: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None
) -> Params:
    """Return all buffers of the model at a point; see `Objective.buffers_at`."""
    given = getattr(point, "buffers", None) if buffers is None else buffers
    if not given:
        return objective._buffers
    return objective._buffers | cast(given, objective._buffers, "the buffers", objective.name)


def cast(tensors: Mapping[str, Tensor], like: Params, what: str, name: str) -> Params:
    """Some tensors, on the device and in the dtype of those with the same names.

    Raises
    ------
    StructureMismatchError
        If a name is not there, or a shape is another.
    """
    if difference := algebra.first_difference(tensors, {n: t for n, t in like.items() if n in tensors}):
        raise StructureMismatchError(
            f"{what} and those of {name} differ at {difference}. Take them from a model of the same architecture."
        )
    return {name: tensor.detach().to(like[name].device, like[name].dtype) for name, tensor in tensors.items()}


def require_same_structure(objective: Objective, params: Mapping[str, Tensor], what: str) -> None:
    """Raise StructureMismatchError unless names and shapes are those of the objective's moving parameters."""
    require_weights(params, what)
    if difference := algebra.first_difference(params, objective.params):
        raise StructureMismatchError(
            f"{what} and the objective differ at {difference}. Take points and directions from the same objective and "
            "its moving parameters: objective.params, or objective.at(model).params for other weights."
        )


def require_same_function(objective: Objective, other: Objective | nn.Module) -> None:
    """Raise StructureMismatchError if another network computes something else at the weights of this objective."""
    if isinstance(objective._pass, FunctionPasses) or objective.batches is None:
        return
    params = objective.params | objective._held
    with random_state.preserved(objective.seed, objective.device):
        part = few_of(objective.batches.peek())
    passes = _passes_of(objective, other, params)
    if passes is None:
        return
    losses: list[float] = []
    for each in (objective._pass, passes):
        given = algebra.copy(params) if objective._writes_weights else params
        with random_state.preserved(objective.seed, objective.device), torch.no_grad():
            steps = each(given, objective._buffers, [batch_tensors.move(part, objective.device)])
        losses.append(reduce_steps(steps, has_samples=True)[0]["loss"])
    here, there = losses
    if not (math.isfinite(here) and abs(there - here) > 0.1 * rounding(objective) * abs(here)):
        return
    name = type(other).__name__ if isinstance(other, nn.Module) else other.name
    raise StructureMismatchError(
        f"{name} computes another function than the network of the objective, {objective.name}: with the same weights "
        f"a few samples have a loss of {there:.7g} in {name} and of {here:.7g} in the objective (another activation, "
        "eps or attribute). A path in weight space connects two networks only if they have the same code: build both "
        "in the same way, or make an objective of each."
    )


def _passes_of(objective: Objective, other: Objective | nn.Module, params: Params) -> Passes | None:
    """How the other network is called with the weights and the loss of the objective; None if it is the same one."""
    if isinstance(other, nn.Module):
        model = _part_with_parameters(other, params)
        training = objective.mode == "train"
        return None if model is None else make_passes(model, objective._step, objective.bn, objective.device, training)
    passes = other._pass
    if passes is objective._pass or isinstance(passes, FunctionPasses) or other.device != objective.device:
        return None
    return passes.apart().measuring(objective._step)
