"""A loss may differentiate the network by its inputs: of a differential equation, forces, a penalty on a gradient."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import lossnav as ln
from lossnav.acceleration import planner as planning

X = torch.randn(31, 2, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


def laplacian(u, points: Tensor) -> Tensor:
    points = points.clone().requires_grad_(True)
    slope = torch.autograd.grad(u(points).sum(), points, create_graph=True)[0]
    return sum(torch.autograd.grad(slope[:, i].sum(), points, create_graph=True)[0][:, i] for i in (0, 1))


def laplacian_by_hand(model: nn.Module, x: Tensor) -> Tensor:
    """Of a tanh network by the chain rule."""
    first, last = model[0], model[2]
    t = torch.tanh(first(x))
    return (-2 * t * (1 - t**2)) @ (first.weight.square().sum(1) * last.weight[0])


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, points: Tensor) -> Tensor:
        return laplacian(self.net, points).square().mean()


def by_forward():
    def pair(model, points):
        made = laplacian(model, points)
        return made, torch.zeros_like(made)

    return ln.Objective(network(), "mse", X, forward=pair, batch_size=7)


def by_function():
    model = network()

    def loss(params, points):
        return laplacian(lambda x: functional_call(model, params, (x,)), points).square()

    return ln.Objective.from_function(loss, dict(model.named_parameters()), X, reduction="none", batch_size=7)


WAYS = {
    "forward=": by_forward,
    "loss=None": lambda: ln.Objective(Own(), None, X, batch_size=7),
    "function": by_function,
}


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("way", ["plain", "auto", "tuned"])
def test_it_is_what_the_chain_rule_says(kind, way, monkeypatch):
    for name in ("_WORTH_PLANNING", "_WORTH_RULES", "_FEWEST_POINTS"):
        monkeypatch.setattr(planning, name, 0)
    objective = WAYS[kind]()
    line = ln.Line(objective.params, ln.directions.random(objective, n=1, exclude=(), seed=1)[0])
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), engine=ln.Local(plan=way))
    for alpha, found in zip(surface["alpha"].values, surface["loss"].values, strict=True):
        moved = network().requires_grad_(False)
        moved.load_state_dict({name.removeprefix("net."): tensor for name, tensor in line([alpha]).items()})
        assert found == pytest.approx(float(laplacian_by_hand(moved, X).square().mean()), rel=2e-6)
    assert not X.requires_grad


@pytest.mark.parametrize("kind", WAYS)
def test_its_gradient_is_that_of_the_chain_rule(kind):
    objective, model = WAYS[kind](), network()
    laplacian_by_hand(model, X).square().mean().backward()
    for name, gradient in ln.curvature.gradient(objective).items():
        wanted = model.get_parameter(name.removeprefix("net.")).grad
        np.testing.assert_allclose(gradient, 0.0 if wanted is None else wanted, atol=1e-6)  # the last bias has none


def test_a_penalty_on_a_gradient_beside_a_metric_in_parts_and_in_double_precision():
    """A sibling: the loss calls the model and its gradient; subset, double and apart keep on knowing."""

    def penalised(model, batch):
        x = batch[0].requires_grad_(True)
        made = model(x)
        return (made, torch.autograd.grad(made.sum(), x, create_graph=True)[0]), batch[1]

    def loss(outputs, targets):
        return (outputs[0][:, 0] - targets).square() + 0.3 * (outputs[1].norm(dim=1) - 1).square()

    model, y = network(), X[:, 0]
    steepness = {"steepness": lambda outputs, targets: outputs[1].norm(dim=1)}
    objective = ln.Objective(model, loss, (X, y), forward=penalised, reduction="none", batch_size=8, metrics=steepness)
    t = 1 - torch.tanh(model[0](X)) ** 2
    slope = (t * model[2].weight[0]) @ model[0].weight
    wanted = ((model(X)[:, 0] - y).square() + 0.3 * (slope.norm(dim=1) - 1).square()).detach()
    values = objective.evaluate(objective.params)
    assert values["loss"] == pytest.approx(float(wanted.mean()), rel=1e-6)
    assert values["steepness"] == pytest.approx(float(slope.detach().norm(dim=1).mean()), rel=1e-6)
    assert objective.apart().evaluate(objective.params) == values
    doubled = objective.double()
    assert doubled.evaluate(doubled.params)["loss"] == pytest.approx(values["loss"], rel=1e-6)
    part = objective.subset(10, seed=2)
    rows = torch.randperm(len(X), generator=torch.Generator().manual_seed(2))[:10]
    assert part.evaluate(part.params)["loss"] == pytest.approx(float(wanted[rows].mean()), rel=1e-6)


def test_random_numbers_are_drawn_once():
    """Denoising by an energy: what a first attempt without gradients drew is drawn anew."""

    def denoised(model, x):
        noise = torch.randn(x.shape)
        noisy = (x + noise).requires_grad_(True)
        return torch.autograd.grad(model(noisy).sum(), noisy, create_graph=True)[0], noise

    def both(params, x):
        slope, noise = denoised(lambda z: functional_call(model, params, (z,)), x)
        return slope.square().mean() + noise.square().mean()

    model = network()
    objective = ln.Objective(model, "mse", X, forward=denoised, batch_size=31, seed=5)
    function = ln.Objective.from_function(both, dict(model.named_parameters()), X, batch_size=31, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        noise = torch.randn(X.shape)
    slope = ((1 - torch.tanh(model[0](X + noise)) ** 2) * model[2].weight[0]) @ model[0].weight
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(
        float((slope - noise).square().mean().detach()), rel=1e-6
    )
    wanted = float((slope.square().mean() + noise.square().mean()).detach())
    assert [function.evaluate(function.params)["loss"] for _ in range(2)] == pytest.approx([wanted, wanted], rel=1e-6)


def test_nothing_else_is_measured_with_gradients_and_other_errors_are_told_with_their_place():
    seen = []

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_grad_enabled())
            return super().forward(x)

    objective = ln.Objective(Watching(2, 1), "mse", (X, X[:, :1]))
    objective.evaluate(objective.params)
    assert not any(seen)

    def detached(model, x):
        x = x.requires_grad_(True)
        return torch.autograd.grad(model(x).detach().sum(), x)[0], x

    with pytest.raises(ln.errors.ObjectiveError, match="does not require grad.*in detached") as raised:
        ln.Objective(copy.deepcopy(network()), "mse", X, forward=detached)
    assert isinstance(raised.value.__cause__, RuntimeError)
