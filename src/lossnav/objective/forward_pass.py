"""One pass over an objective's data with given weights and buffers; everything that evaluates is built on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav.objective import batch_dependence, recentering
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.batches import Batches
from lossnav.objective.diagnosis import explained
from lossnav.objective.functional import StepFunction, StepValues
from lossnav.objective.loss import Loss
from lossnav.objective.metrics import Metric
from lossnav.objective.parameters import require_weights
from lossnav.objective.passes import FunctionalPasses, FunctionPasses, Passes
from lossnav.objective.readings import LossMisjudgedError
from lossnav.objective.reduction import Values, reduce_steps, sample_losses, single_terms, skewness
from lossnav.params import Params
from lossnav.storage.samples import Measurement

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective


class ForwardPass:
    """One pass over an objective's data with given weights and buffers, and its parts.

    ``objective.forward_pass`` returns it. A call runs model, loss and metrics over all batches without gradients, in
    the mode of the objective and from its random state; the user's model, data and loss do not change.
    `Objective.evaluate`, fast plans, curvature, the measurements of the report and the explorer's inspection use it.

    Attributes
    ----------
    batches : Batches or None
        The data, in the batches of a pass; None for a function without data.
    loss : Loss
        The loss, and what is known of its reduction.
    step : callable
        ``step(model, batch) -> (n, values)``: the number of samples and, by name, a Tensor: a mean, shape (), or values
        per sample, shape (n,), or (numerators, weights) of shape (n,) each.
    passes : Passes
        How the model is called with weights that are not its own: put into its structure, or into a copy.
    held : dict of str to Tensor
        Parameters that do not move, with their values.
    buffers : dict of str to Tensor
        Of the model, at the centre.

    Examples
    --------
    >>> from torch import nn
    >>> from lossnav.objective import Objective
    >>> x = torch.arange(4.0).reshape(-1, 1)
    >>> objective = Objective(nn.Linear(1, 1), "mse", (x, x), batch_size=2)
    >>> zero = {name: torch.zeros_like(tensor) for name, tensor in objective.params.items()}
    >>> [(n, values["loss"].flatten().tolist()) for n, values in objective.forward_pass(zero)]
    [(2, [0.0, 1.0]), (2, [4.0, 9.0])]
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __call__(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor] | None = None,
        batches: Iterable[Batch] | None = None,
        step: StepFunction | None = None,
    ) -> list[StepValues]:
        """Run the pass.

        Parameters
        ----------
        params : mapping of str to Tensor
            A point of weight space: names and shapes of ``objective.params``. Other dtypes and devices are converted.
        buffers : mapping of str to Tensor, optional
            All or some of the model's buffers; by default those that the point carries, else those of the centre.
        batches : iterable of batches, optional
            Batches to use instead of those of the objective.
        step : callable, optional
            ``step(model, batch) -> (n, values)`` to use instead of that of the objective, to measure something else.

        Returns
        -------
        list of (int, dict of str to Tensor)
            The result of the step for each batch; `reduce` joins them.

        Raises
        ------
        StructureMismatchError
            If names or shapes of the parameters or buffers differ.
        """
        objective = self._objective
        objective.require_same_structure(params, "the point")
        point = {name: params[name].detach().to(c.device, c.dtype) for name, c in objective.params.items()}
        if self.writes_weights:
            point = {name: tensor.clone() for name, tensor in point.items()}
        passes = self.passes if step is None else self.passes.measuring(step)
        with random_state.preserved(objective.seed, objective.device), torch.no_grad():
            return passes(
                point | self.held, objective.buffers_at(params, buffers), self.batches if batches is None else batches
            )

    def checked(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None) -> list[StepValues]:
        """Run the pass as `Objective.evaluate` does.

        A loss that turns out to be misjudged is judged anew and the pass repeated; errors of the model, the loss or a
        metric are explained. The point may also hold values of parameters that do not move.
        """
        objective = self._objective
        require_weights(params, "the point")
        beside = {name: tensor for name, tensor in params.items() if name in self.held}
        objective.require_same_structure({n: t for n, t in params.items() if n not in beside}, "the point")
        belonging = objective.buffers_at(params, buffers)
        point = {name: params[name].detach().to(c.device, c.dtype) for name, c in objective.params.items()} | self.held
        if beside:
            point |= recentering.cast(beside, self.held, "the point", objective.name)
        if self.writes_weights:
            point = algebra.copy(point)
        misjudged: list[Batch] = []
        while True:
            try:
                with random_state.preserved(objective.seed, objective.device), torch.no_grad():
                    steps = self._run(point, belonging)
            except LossMisjudgedError as error:  # after each one the loss is trusted less, so this ends
                misjudged.append(error.batch)
                continue
            except Exception as error:
                if (explanation := explained(error)) is error:
                    raise
                raise explanation from error
            self.loss.settle()
            if misjudged:
                batch_dependence.check_loss(objective, misjudged[-1])
            return steps

    def _run(self, point: Params, buffers: Params) -> list[StepValues]:
        """Pass all batches; the first value of a function without data shows whether it draws random numbers."""
        drawn = self._objective._drawn
        if self.batches is not None or "draws" in drawn:  # with data `first_batch` has seen it: a loader draws too
            return self.passes(point, buffers, self.batches)
        made: list[list[StepValues]] = []
        drawn["draws"] = random_state.draws(lambda: made.append(self.passes(point, buffers, None)))
        return made[-1]

    def settle(self, params: Mapping[str, Tensor]) -> None:
        """Run one pass if none was run yet: one pass over all the data shows for certain what a loss returns."""
        if not self.loss.settled:
            self._objective.evaluate(params)

    def reduce(self, steps: list[StepValues]) -> tuple[Values, int | None]:
        """Join the results of the batches into means over the samples, in float64, with the standard error of the loss.

        Returns
        -------
        values : dict of str to float
            As `Objective.evaluate` returns them.
        count : int or None
            Samples.
        """
        objective = self._objective
        values, count = reduce_steps(steps, has_samples=self.batches is not None)
        if objective.population and count and "loss_se" in values:  # drawn without replacement: Cochran 1977, eq. 2.20
            values["loss_se"] *= math.sqrt(max(0.0, 1 - count / objective.population))
        terms = single_terms(steps) if self.batches is not None else None
        if terms is None:
            return values, count
        measured = Measurement(values)
        measured.skewness = skewness(*terms)
        if objective._keeps_samples:
            measured.samples = sample_losses(*terms)
        return measured, count

    def measuring(self, loss: Loss, metrics: dict[str, Metric]) -> Objective:
        """Return the same objective with another loss and other metrics, on the same model and data."""
        return self._objective._measuring(loss, metrics)

    def outputs_and_targets(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """Return the outputs of the model for a batch, and the targets in it."""
        outputs, targets = self._objective._forward(model, batch)
        return outputs, targets

    # ------------------------------------------------------------------ what it is made of

    @property
    def batches(self) -> Batches | None:
        """The data, in the batches of a pass."""
        return self._objective.batches

    @property
    def loss(self) -> Loss:
        """The loss, and what is known of its reduction."""
        return self._objective._loss

    @property
    def step(self) -> StepFunction:
        """What is done with one batch."""
        return self._objective._step

    @property
    def passes(self) -> Passes:
        """How the model is called with weights that are not its own."""
        return self._objective._pass

    @property
    def held(self) -> Params:
        """Parameters that do not move."""
        return self._objective._held

    @property
    def buffers(self) -> Params:
        """The model's buffers at the centre."""
        return self._objective._buffers

    @property
    def is_function(self) -> bool:
        """Whether the objective is a bare function of parameters, without a module."""
        return isinstance(self.passes, FunctionPasses)

    @property
    def by_value(self) -> bool:
        """Whether weights are put into the model's structure (`torch.func.functional_call`), not into a copy."""
        return isinstance(self.passes, FunctionalPasses)

    @property
    def writes_weights(self) -> bool:
        """Whether the model may write into the weights that it is given."""
        return self._objective._writes_weights

    @property
    def keeps_samples(self) -> bool:
        """Whether values carry the per-sample losses."""
        return self._objective._keeps_samples

    # ------------------------------------------------------------------ what engines remember of it

    @property
    def plans(self) -> dict[Any, Any]:
        """The fastest plans that engines found, by request; shared with objectives made from this one."""
        return self._objective._plans

    @property
    def verdicts(self) -> dict[str, list[Any]]:
        """What is known about its derivatives, by the kind of matrix; shared with copies."""
        return self._objective._verdicts

    @property
    def unplanned(self) -> str:
        """Why no faster plan may be used; empty if one may."""
        return self._objective._unplanned

    def leave_unplanned(self, reason: str) -> None:
        """Use no faster plan from now on, for this reason."""
        self._objective._unplanned = reason
