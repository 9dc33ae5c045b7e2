"""What an objective learns from its first batch when it is built.

The first batch goes through the model once, which shows what the loss returns, how the model can be called with other
weights, and what a pass writes to (`proof`). A few of its samples show the rest: whether random numbers are drawn,
which roles the parameters of custom layers have, and whether scores depend on the targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav.errors import DataError
from lossnav.objective import batch_tensors, proof, scores, selection
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.functional import StepFunction, StepValues
from lossnav.objective.layers import count_roles
from lossnav.objective.predictions import NamedMetric
from lossnav.objective.readings import LossMisjudgedError
from lossnav.objective.roles import by_use, open_names
from lossnav.objective.truth import Case, few_of

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective

_ATTEMPTS = 6  # a batch may show that the loss was misjudged, each time in another way


def prove_model(objective: Objective, model: nn.Module, step: StepFunction, copies: bool) -> None:
    """Find a way to call the model that gives its own loss, and see what a pass writes to.

    Parameters
    ----------
    objective : Objective
        Its passes are replaced by those that were proven.
    model : nn.Module
        The user's own.
    step : StepFunction
        With the user's own `forward=`, loss and metrics.
    copies : bool
        Whether the objective holds copies of the model's weights.

    Raises
    ------
    DataError
        If the first batch holds no sample.
    ObjectiveError
        If the model cannot be called with other weights.
    """
    batch = _first_batch(objective)
    tensors = list(batch_tensors.tensors(batch))
    if tensors and not any(tensor.numel() for tensor in tensors):
        raise DataError("The data is empty: its first batch holds no sample. Pass at least one sample.")
    training = objective.mode == "train"
    center, held, buffers = objective.params, objective._held, objective._buffers
    how = (objective.bn, objective.device, objective.seed, copies, training)
    proven = proof.prove(Case(model, step, objective._pass, center, held, buffers, batch, *how))
    objective._pass = proven.passes
    objective._writes_weights = proven.writes_weights
    if objective.batches is not None:
        objective.batches.written_to = proven.writes_data
    objective._unplanned = proven.unplanned or ("it is evaluated in train mode" if training else "")
    _find_roles(objective, model, batch)


def prove_function(objective: Objective, step: StepFunction) -> None:
    """Check that the value of a bare function does not depend on what was evaluated before.

    Raises
    ------
    ObjectiveError
        If it does.
    """
    batch = None if objective.batches is None else _first_batch(objective)
    how = ("frozen", objective.device, objective.seed, True)
    case = Case(nn.Module(), step, objective._pass, objective.params, {}, {}, batch, *how, writes=True)
    proof.prove_function(case, objective.name)


def detect_random_numbers(objective: Objective) -> None:
    """See whether a pass draws random numbers; a picture then shows one draw of them."""
    if objective.batches is None:
        return  # `ForwardPass.checked` sees it with the first value
    with random_state.preserved(objective.seed, objective.device):  # starting a loader draws random numbers
        part, params = few_of(objective.batches.peek()), objective.params | objective._held
    passes = objective.without_metrics()._pass

    def run() -> None:
        given = algebra.copy(params) if objective._writes_weights else params
        leaves, buffers = passes.leaves(given, objective._buffers, ())
        passes.one(leaves, buffers, batch_tensors.move(part, objective.device), False)

    for _ in range(_ATTEMPTS):
        try:
            with random_state.preserved(objective.seed, objective.device), torch.no_grad():
                objective._drawn["draws"] = random_state.draws(run, objective.device)
            return
        except LossMisjudgedError:
            continue
        except Exception:  # the model may not take a part of a batch: then this stays unknown
            return


def check_scores(objective: Objective) -> None:
    """Raise if accuracies would be read from scores that depend on the targets, which the model is given.

    Raises
    ------
    OptionError
        If they depend on them.
    """
    named = [metric.name for metric in objective.metrics.values() if isinstance(metric, NamedMetric)]
    if not named or objective.batches is None:
        return
    passes, batch = objective.without_metrics()._pass, few_of(_first_batch(objective))
    params = objective.params | objective._held

    def measure(part: Batch) -> StepValues:
        given = algebra.copy(params) if objective._writes_weights else params
        with random_state.preserved(objective.seed, objective.device), torch.no_grad():
            leaves = passes.leaves(given, objective._buffers, ())
            return passes.one(*leaves, batch_tensors.move(part, objective.device), False)

    scores.require_independent_of_model(measure, batch, objective._count(batch, None), named[0])


def _first_batch(objective: Objective) -> Batch:
    assert objective.batches is not None
    with random_state.preserved(objective.seed, objective.device):
        return batch_tensors.move(objective.batches.peek(), objective.device)


def _find_roles(objective: Objective, model: nn.Module, batch: Batch) -> None:
    """Pass a few samples to see the roles of parameters that neither a type nor a shape tells."""
    names = open_names(model, objective._roles)
    if not names:
        return
    part, params = few_of(batch), objective.params | objective._held

    def run() -> None:
        objective._pass.one(leaves, buffers, batch_tensors.move(part, objective.device), False)

    try:
        with random_state.preserved(objective.seed, objective.device), torch.no_grad():
            given = algebra.copy(params) if objective._writes_weights else params
            leaves, buffers = objective._pass.leaves(given, objective._buffers, ())
            objective._roles = by_use(model, objective._roles, {name: leaves[name] for name in names}, run)
    except Exception:  # the roles by types and shapes remain
        return
    in_order = {name: params[name] for name in objective._everything}
    parts = selection.split(objective.params, in_order, objective._roles, objective._transposed)
    for field, value in parts.fields().items():
        setattr(objective, field, value)
    if objective._layers is not None:
        objective._layers = objective._layers | count_roles(objective.roles, objective.params)
