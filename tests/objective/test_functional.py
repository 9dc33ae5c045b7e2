"""A layer may be registered under several names, and its weight be tied to others: the law is plain torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import lossnav as ln
from lossnav.acceleration import planner as planning
from lossnav.objective.functional import call_with


class Twice(nn.Module):
    """The embedding under two names, as in peft's prompt tuning, and its weight in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.again = self.embed
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.embed(ids[:, 0]) + self.again(ids[:, 1]))))


class ThreeTimes(nn.Module):
    """One layer under three names and in a list; its weight is another's, its bias a third one's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.a = self.b = nn.Linear(4, 4)
        self.layers = nn.ModuleList([self.a, nn.Linear(4, 4), nn.LayerNorm(4)])
        self.layers[1].weight = self.a.weight
        self.layers[2].bias = self.b.bias
        self.head = nn.Linear(4, 9)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).mean(1)
        for layer in (self.a, self.b, *self.layers):
            x = torch.tanh(layer(x))
        return self.head(x)


class TiedBuffers(nn.Module):
    """BatchNorm under two names whose statistics are a third layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.norm = self.same = nn.BatchNorm1d(4)
        self.other = nn.BatchNorm1d(4)
        self.other.running_mean, self.other.running_var = self.norm.running_mean, self.norm.running_var
        self.head = nn.Linear(4, 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.other(torch.relu(self.same(self.embed(ids).sum(1)))))


@pytest.mark.parametrize("kind", [Twice, ThreeTimes, TiedBuffers])
@pytest.mark.parametrize("way", ["plain", "auto", "tuned"])
def test_a_layer_under_several_names_is_called_as_torch_calls_it(kind, way, monkeypatch):
    for name in ("_WORTH_PLANNING", "_WORTH_RULES", "_FEWEST_POINTS"):
        monkeypatch.setattr(planning, name, 0)
    torch.manual_seed(0)
    model, ids, y = kind(), torch.randint(0, 9, (40, 2)), torch.randint(0, 9, (40,))
    model(ids)
    objective = ln.Objective(model.eval(), "cross_entropy", (ids, y), batch_size=16)
    line = ln.Line(objective.params, ln.directions.random(objective, n=1, exclude=(), seed=1)[0])
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), engine=ln.Local(plan=way))
    for alpha, found in zip(surface["alpha"].values, surface["loss"].values, strict=True):
        moved = copy.deepcopy(model)
        moved.load_state_dict(line([alpha]), strict=False)
        assert found == pytest.approx(nn.functional.cross_entropy(moved(ids), y).item(), rel=1e-6)


def test_every_place_is_as_before_after_a_call():
    """Also where a name is not the first of its place, and a tied weight is given by both names."""
    model, ids = Twice(), torch.tensor([[1, 2]])
    before = dict(model.named_parameters(remove_duplicate=False))
    other = {name: torch.ones_like(tensor) for name, tensor in model.named_parameters()}
    once, twice = call_with(model, dict(other), ids), call_with(model, dict(other), ids)
    assert torch.equal(once, twice)
    assert all(before[name] is tensor for name, tensor in model.named_parameters(remove_duplicate=False))
    by_two_names = other | {"head.weight": other["embed.weight"]}
    assert torch.equal(call_with(model, by_two_names, ids), once)


def test_what_the_module_puts_in_place_of_a_buffer_is_in_the_state():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + len(x)
            return x

    model, state = Counting(), {"seen": torch.tensor(5.0)}
    call_with(model, state, torch.ones(3))
    assert state["seen"] == 8
    assert model.seen == 0
