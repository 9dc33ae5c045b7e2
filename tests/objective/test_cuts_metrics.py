"""A metric of the user's own that does not average over batches is told with both values."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors

N = 20
G = torch.Generator().manual_seed(4)
x, numbers = torch.randn(N, 5, generator=G), torch.randn(N, 2, generator=G)
classes = torch.tensor([0, 1, 1, 1] * 5)


def layer():
    torch.manual_seed(2)
    return nn.Linear(5, 2).eval()


def f1(outputs, targets):
    chosen = outputs.argmax(1)
    right = ((chosen == 1) & (targets == 1)).sum()
    return 2 * right / ((chosen == 1).sum() + (targets == 1).sum())


def r2(outputs, targets):
    return 1 - ((outputs - targets) ** 2).sum() / ((targets - targets.mean(0)) ** 2).sum()


def rmse(outputs, targets):
    return ((outputs - targets) ** 2).mean().sqrt()


def correlation(outputs, targets):
    return torch.corrcoef(torch.stack([outputs[:, 0], targets[:, 0]]))[0, 1]


DEPENDENT = {"f1": (f1, "cross_entropy", classes), "r2": (r2, "mse", numbers), "rmse": (rmse, "mse", numbers),
             "correlation": (correlation, "mse", numbers)}  # fmt: skip
MEANS = {
    "accuracy by hand": (lambda o, t: (o.argmax(1) == t).float().mean(), "cross_entropy", classes),
    "one value a sample": (lambda o, t: o.argmax(1) == t, "cross_entropy", classes),
    "absolute error": (lambda o, t: F.l1_loss(o, t), "mse", numbers),
    "a number of Python's": (lambda o, t: float((o - t).abs().mean()), "mse", numbers),
}


@pytest.mark.parametrize("kind", DEPENDENT)
def test_a_metric_that_depends_on_the_cut_says_so_with_both_values(kind):
    metric, loss, targets = DEPENDENT[kind]
    with pytest.warns(errors.BatchDependenceWarning, match=f"'{kind}' depends .* as one batch and .* as two"):
        objective = ln.Objective(layer(), loss, (x, targets), metrics={kind: metric}, batch_size=6)
    cut, outputs = objective.describe()["metrics_cut"][kind], layer()(x).detach()
    few = [*range(4), 18, 19]  # of the first batch and of the last
    parts = [float(metric(outputs[rows], targets[rows])) * len(rows) for rows in (few[:4], few[4:])]
    assert cut["samples"] == 6 and cut["whole"] == pytest.approx(float(metric(outputs[few], targets[few])), rel=1e-5)
    assert cut["parts"] == pytest.approx(sum(parts) / 6, rel=1e-5)


@pytest.mark.parametrize("kind", DEPENDENT)
def test_of_all_the_data_in_one_batch_it_is_what_it_is(kind):
    metric, loss, targets = DEPENDENT[kind]
    objective = ln.Objective(layer(), loss, (x, targets), metrics={kind: metric}, batch_size=N)
    expected = float(metric(layer()(x).detach(), targets))
    assert objective.evaluate(objective.params)[kind] == pytest.approx(expected, rel=1e-5)
    assert objective.describe()["metrics_cut"] == {}


@pytest.mark.parametrize("kind", MEANS)
def test_a_mean_is_one_value_whatever_the_batches(kind):
    metric, loss, targets = MEANS[kind]
    expected = torch.as_tensor(metric(layer()(x).detach(), targets)).double().mean().item()
    for size in (1, 3, 7, N):
        objective = ln.Objective(layer(), loss, (x, targets), metrics={"m": metric}, batch_size=size)
        assert objective.evaluate(objective.params)["m"] == pytest.approx(expected, rel=1e-5)


def test_a_metric_that_cannot_take_few_samples_is_not_held():
    def picky(outputs, targets):
        if len(outputs) < 10:
            raise ValueError("too few")
        return rmse(outputs, targets)

    objective = ln.Objective(layer(), "mse", (x, numbers), metrics=[picky], batch_size=10)
    assert math.isfinite(objective.evaluate(objective.params)["picky"])
    ln.Objective(layer(), "mse", (x, numbers), metrics=[rmse], batch_size=10, reduction="batch")
