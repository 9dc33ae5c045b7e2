"""From the values of batches to the mean over the data, with its standard error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossnav.objective.functional import Measured, StepValues
from lossnav.objective.readings import LossMisjudgedError as LossMisjudgedError
from lossnav.storage.samples import SampleLosses

Values = dict[str, float]


def reduce_steps(steps: list[StepValues], has_samples: bool) -> tuple[Values, int | None]:
    """Join batches: values per sample equally, numerators over weights, means weighted by the length of their batch.

    The numerator and weight of a whole batch, both of shape (), count like any other pair, but give no standard error.
    """
    counts = [n for n, _ in steps]
    values: Values = {}
    for name in steps[0][1]:
        parts = [step_values[name] for _, step_values in steps]
        if all(isinstance(part, tuple) or part.dim() == 1 for part in parts):
            pairs = [part if isinstance(part, tuple) else (part, torch.ones_like(part)) for part in parts]
            numerators, weights = (  # float32 drifts by 1e-4 over 50k samples
                torch.cat([term.reshape(-1) for term in column]).double() for column in zip(*pairs, strict=True)
            )
            mean, error = _ratio(numerators, weights)
            se = error if all(pair[1].dim() for pair in pairs) else None
        else:
            lengths = torch.tensor(counts, dtype=torch.float64)
            means = torch.stack([_mean(part) for part in parts]).cpu()
            mean, se = float((means * lengths).sum() / lengths.sum()), None
        values[name] = mean
        if name == "loss" and se is not None:
            values["loss_se"] = se
    return values, sum(counts) if has_samples else None


def single_terms(steps: Sequence[StepValues]) -> tuple[Tensor, Tensor] | None:
    """Numerator and weight of every sample's loss, shape (n,) each, float64; None if the loss does not give them.

    The loss over all batches, as `reduce_steps` computes it, is the sum of the numerators over the sum of the weights.
    """
    numerators, weights = [], []
    for _, values in steps:
        loss = values["loss"]
        if isinstance(loss, tuple) and loss[0].dim():  # else it is of the whole batch
            numerators.append(loss[0].double())
            weights.append(loss[1].double())
        elif isinstance(loss, Tensor) and loss.dim() == 1:
            numerators.append(loss.double())
            weights.append(torch.ones_like(loss, dtype=torch.float64))
        else:
            return None
    return torch.cat(numerators), torch.cat(weights)


def sample_losses(numerators: Tensor, weights: Tensor) -> SampleLosses:
    """The same terms in the form in which surfaces store them."""
    return SampleLosses(numerators.float().cpu().numpy(), weights.cpu().numpy())


def skewness(numerators: Tensor, weights: Tensor) -> float:
    """Skewness of the residuals a_i - R w_i, R the loss (of the losses, if all weights are 1); nan for one sample."""
    n = (weights > 0).sum()
    residuals = numerators - numerators.sum() / weights.sum() * weights
    squares = residuals**2
    return float((squares * residuals).sum() / n / (squares.sum() / n) ** 1.5)


def share(loss: Measured, n: int) -> tuple[Tensor, float]:
    """What a batch of n samples adds to the loss over all batches: a part of its numerator and of its sum of weights.

    The loss over all batches, as `reduce_steps` computes it, is the sum of the first over the sum of the second. The
    second does not depend on the weights of the model.
    """
    if isinstance(loss, tuple):
        return loss[0].double().sum(), float(loss[1].sum())
    return (loss.double().sum(), float(n)) if loss.dim() else (loss.double() * n, float(n))


def _ratio(numerators: Tensor, weights: Tensor) -> tuple[float, float]:
    """Sum of numerators over sum of weights, and its standard error over the samples.

    With all weights 1 this is the mean and s / sqrt(n). Otherwise it is the standard error of a ratio (Cochran 1977,
    eq. 6.13): residuals a_i - R w_i take the place of deviations from the mean. Samples with weight 0 are not counted.
    """
    n, total = int((weights > 0).sum()), weights.sum()
    ratio = numerators.sum() / total
    residuals = numerators - ratio * weights
    variance = (residuals**2).sum() / (n - 1) if n > 1 else torch.tensor(float("nan"))
    return float(ratio), float(torch.sqrt(variance * n) / total)


def _mean(part: Measured) -> Tensor:
    return part[0].sum() / part[1].sum() if isinstance(part, tuple) else part.double().mean()
