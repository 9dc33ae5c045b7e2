"""A mean by hand whose weights differ in the middle of the data alone: right, or a warning that names both values."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import lossnav as ln
from lossnav import errors

N, T, D = 50, 7, 4
G = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, T, D, generator=G), torch.randn(N, T, generator=G)
MASK = torch.ones(N, T)
MASK[20:25, 2:] = 0
LENGTHS = torch.full((N,), T)
LENGTHS[20:25] = 2
HOLES = torch.where(MASK > 0, Y, torch.nan)
WEIGHTS = torch.ones(N)
WEIGHTS[22] = 9.0
TOKENS = torch.where(MASK > 0, torch.randint(1, 9, (N, T), generator=G), 0)
LABELS = torch.where(MASK > 0, (Y > 0).long(), -100)


def squares(outputs, wanted):
    return (outputs - wanted) ** 2


def packed(outputs, wanted, lengths):
    ends = {"batch_first": True, "enforce_sorted": False}
    a, b = (pack_padded_sequence(part[..., None], lengths.cpu(), **ends).data for part in (outputs, wanted))
    return squares(a, b).mean()


def by_class(outputs, labels):
    counted = labels != -100
    return (F.softplus(-outputs * (2 * labels - 1)) * counted).sum() / counted.sum()


UNEVEN = {
    "masked sum over sum": (lambda o, y, m: (squares(o, y) * m).sum() / m.sum(), (Y, MASK)),
    "clamped": (lambda o, y, m: ((o - y).abs() * m).sum() / m.sum().clamp(min=1), (Y, MASK)),
    "chosen by a mask": (lambda o, y, m: squares(o, y)[m.bool()].mean(), (Y, MASK)),
    "nanmean": (lambda o, y: torch.nanmean(squares(o, y)), (HOLES,)),
    "weights of samples": (lambda o, y, w: (w[:, None] * squares(o, y)).sum() / (w.sum() * T), (Y, WEIGHTS)),
    "normalised weights": (lambda o, y, w: squares(o, y).mean(1) @ (w / w.sum()), (Y, WEIGHTS)),
    "packed": (packed, (Y, LENGTHS)),
    "by tokens": (lambda o, y, t: (squares(o, y) * (t != 0)).sum() / (t != 0).sum(), (Y, TOKENS)),
    "ignored labels": (by_class, (LABELS,)),
}
EVEN = {
    "plain": (lambda o, y: squares(o, y).mean(), (Y,)),
    "plain with a mask": (lambda o, y, m: (squares(o, y) * m).mean(), (Y, MASK)),
    "a mean of means": (lambda o, y, m: ((squares(o, y) * m).sum(1) / m.sum(1)).mean(), (Y, MASK)),
    "weighted": (lambda o, y, w: (squares(o, y).mean(1) * w).mean(), (Y, WEIGHTS)),
    "two terms": (lambda o, y: squares(o, y).mean() + 0.1 * (o**2).mean(), (Y,)),
}


class Own(nn.Module):
    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.loss = nn.Linear(D, 1), loss

    def forward(self, x, *others):
        return self.loss(self.layer(x)[..., 0], *others)


def evaluated(way, loss, others, size):
    """The value, whether it was warned of, and the truth over all the data by plain torch."""
    model = Own(loss).eval()
    with torch.no_grad():
        truth = float(model(X, *others))
    data = (X, *others)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if way == "model":
            objective = ln.Objective(model, None, data, batch_size=size)
        else:

            def function(p, b):
                return loss((b[0] @ p["w"].T)[..., 0] + p["b"], *b[1:])

            point = {"w": model.layer.weight.detach(), "b": model.layer.bias.detach()}
            objective = ln.Objective.from_function(function, point, data, batch_size=size)
        value = objective.evaluate(objective.params)["loss"]
    return value, any(issubclass(each.category, errors.BatchDependenceWarning) for each in caught), truth


@pytest.mark.parametrize("way", ["model", "function"])
@pytest.mark.parametrize("size", [7, 16])
@pytest.mark.parametrize("name", UNEVEN)
def test_weights_that_differ_in_the_middle_alone_are_seen(name, size, way):
    value, warned, truth = evaluated(way, *UNEVEN[name], size)
    assert warned or value == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("way", ["model", "function"])
@pytest.mark.parametrize("size", [7, 16])
@pytest.mark.parametrize("name", EVEN)
def test_plain_means_are_right_and_nothing_is_said(name, size, way):
    value, warned, truth = evaluated(way, *EVEN[name], size)
    assert not warned
    assert value == pytest.approx(truth, rel=1e-5)


def test_a_metric_that_is_a_masked_mean_is_seen_too():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Linear(D, 1)

        def forward(self, x):
            return self.layer(x)[..., 0]

    def right(outputs, targets):
        wanted, mask = targets
        return (((outputs > 0) == (wanted > 0)) * mask).sum() / mask.sum()

    with pytest.warns(errors.BatchDependenceWarning, match="metric 'right'"):
        ln.Objective(
            Two(), lambda o, t: squares(o, t[0]).mean(), (X, Y, MASK), metrics={"right": right}, batch_size=10,
            forward=lambda model, batch: (model(batch[0]), batch[1:]),
        )  # fmt: skip
