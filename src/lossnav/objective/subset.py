"""The same objective on a random part of its data."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from lossnav._utils import random_state
from lossnav.errors import LossnavWarning, OptionError
from lossnav.objective import comparing
from lossnav.objective.reduction import Values
from lossnav.storage.samples import Measurement

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective

_RELATIVE_ERROR, _SMALLEST = 0.01, 100  # of subset="auto": standard error relative to the loss; samples


def draw(objective: Objective, n: int | Literal["auto"], seed: int) -> Objective:
    """Return the same objective on n random samples of its data; see `Objective.subset`."""
    if objective.batches is None:
        raise OptionError("This objective has no data to draw a subset from. Leave out subset=.")
    if objective.population is not None:
        raise OptionError("This objective is a subset already. Draw from the objective that has all the data.")
    values = objective.evaluate(objective.params)
    total = objective.samples or 0
    count = _enough(values, total) if isinstance(n, str) and n == "auto" else n
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 2 <= count <= total:
        raise OptionError(
            f"subset={n} is not possible with {total} samples. Pass a number from 2 to {total}, or 'auto'."
        )
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    of_all = {}
    if isinstance(values, Measurement) and values.skewness is not None:  # a subset may have missed the tail
        of_all = {"loss": values["loss"], "skewness": values.skewness}
    with random_state.preserved(objective.seed, objective.device):
        batches = objective.batches.take(drawn.tolist())
    part = objective._with(
        batches=batches, samples=count, population=total, subset_seed=seed, _of_all=of_all, _plans={}
    )
    _warn_if_samples_interact(part)
    return part


def _enough(values: Values, total: int) -> int:
    """How many samples make the standard error small enough, given the values over all the data at one point."""
    if "loss_se" not in values:
        raise OptionError(
            "subset='auto' needs the per-sample losses, which this loss does not give. Pass a number of samples."
        )
    variance, allowed = values["loss_se"] ** 2 * total, (_RELATIVE_ERROR * values["loss"]) ** 2
    enough = variance / (allowed + variance / total) if allowed + variance > 0 else total
    return min(total, max(_SMALLEST, math.ceil(enough) if math.isfinite(enough) else total))


def _warn_if_samples_interact(part: Objective) -> None:
    """Warn if the value of a sample depends on the others in its batch: a subset has other batches."""
    joined, samples = comparing.join(part.batches) if part.batches is not None else (None, 0)
    if joined is None or part.bn != "frozen":  # with other values of bn= the user asks for statistics of batches
        return
    names = comparing.depends_on_batches(part, joined, samples, [part.params])
    if not names or random_state.draws(lambda: part.forward_pass.checked(part.params), part.device):
        return  # if random numbers are drawn, they explain the difference
    verb = "depends" if len(names) == 1 else "depend"
    warnings.warn(
        f"The {' and '.join(names)} of a sample {verb} on the other samples in its batch, and a subset has other "
        "batches, so its values do not estimate those over all the data. Leave out subset=, or pass whole batches of "
        "your choice as data.",
        LossnavWarning,
        stacklevel=4,
    )
