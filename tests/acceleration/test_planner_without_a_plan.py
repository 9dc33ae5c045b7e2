"""An objective that no faster plan can be had of is evaluated plainly and recorded so: nothing is wrong with it."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lossnav as ln
from lossnav.acceleration import planner

_G = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 6, generator=_G), torch.randint(0, 3, (40,), generator=_G)


class Always(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, training=True)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.encode(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        return (self.decode(code) - x).square().mean() - 0.5 * (1 + spread - mean.square() - spread.exp()).mean()


def net(*between: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *between, nn.Linear(8, 3)).eval()


def contrast(outputs: Tensor, targets: Tensor) -> Tensor:
    """InfoNCE of neighbours in a batch."""
    unit = F.normalize(outputs, dim=1)
    return F.cross_entropy(unit[::2] @ unit[1::2].T / 0.5, torch.arange(len(unit) // 2))


def negatives(outputs: Tensor, targets: Tensor) -> Tensor:
    other = torch.randint(0, len(outputs), (len(outputs),))
    return (1 - (outputs - outputs[other]).square().sum(1)).relu().mean()


def nearest(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric that looks for the nearest other sample in the batch."""
    scores = outputs @ outputs.T - 1e9 * torch.eye(len(outputs))
    return (targets[scores.argmax(1)] == targets).float()


def shaken(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs + torch.randn_like(outputs), targets)


def normalised() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).eval()


CASES = {
    "dropout that is always on": lambda: ln.Objective(net(Always()), "cross_entropy", (X, Y), batch_size=10),
    "noise in the model": lambda: ln.Objective(net(Noise()), "cross_entropy", (X, Y), batch_size=10),
    "noise, one batch": lambda: ln.Objective(net(Noise()), "cross_entropy", [(X, Y)]),
    "a variational autoencoder": lambda: ln.Objective(VAE(), None, X, batch_size=10),
    "noise in the loss": lambda: ln.Objective(net(), shaken, (X, Y), batch_size=10),
    "contrastive": lambda: ln.Objective(net(), contrast, (X, Y), batch_size=10, reduction="batch"),
    "contrastive, one batch": lambda: ln.Objective(net(), contrast, [(X, Y)], reduction="batch"),
    "drawn negatives": lambda: ln.Objective(net(), negatives, (X, Y), batch_size=10, reduction="batch"),
    "a metric of neighbours": lambda: ln.Objective(net(), "cross_entropy", [(X, Y)], metrics={"nearest": nearest}),
    "statistics of each batch": lambda: ln.Objective(normalised(), "cross_entropy", (X, Y), batch_size=10, bn="batch"),
    "train mode": lambda: ln.Objective(normalised(), "cross_entropy", (X, Y), batch_size=10, mode="train"),
    "a bare function": lambda: ln.Objective.from_function(lambda p: p["x"].square().sum(), {"x": torch.ones(3)}),
}


@pytest.mark.parametrize("plan", ["auto", "tuned"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_recorded_and_not_warned_about(case, plan, monkeypatch):
    for name in ("_WORTH_PLANNING", "_WORTH_RULES", "_FEWEST_POINTS"):
        monkeypatch.setattr(planner, name, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ln.errors.LossnavWarning)
        objective = CASES[case]()
        line = ln.Line(objective.params, ln.directions.random(objective, exclude=())[0])
        grid = ln.Grid(alpha=(-1, 1, 12))
        surface = ln.evaluate(objective, line, grid, engine=ln.Local(plan=plan), progress=False)
    engine = surface.attrs["engine"]
    assert engine["plan"] == "plain"
    if not case.startswith("a bare function"):
        assert any("plain" in event or "original batches" in event for event in engine["plan_events"])
    plain = [objective.evaluate(line([alpha]))["loss"] for alpha in surface["alpha"].values]
    assert surface["loss"].values.tolist() == plain


def test_a_plan_that_was_asked_for_and_is_not_used_is_said(monkeypatch):
    """Then a request was not met, which is another thing."""
    objective = CASES["a bare function"]()
    line = ln.Line(objective.params, ln.directions.random(objective, exclude=())[0])
    with pytest.warns(ln.errors.PlanFellBackWarning, match="bfloat16"):
        ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 12)), engine=ln.Local(precision="bfloat16"), progress=False)
