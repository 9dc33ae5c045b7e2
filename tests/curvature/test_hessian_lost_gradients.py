"""Functions that hold float32 data, or leave torch on their way: no derivative of them is zero without a word."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.evaluation.curvature import evaluate_curvature

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.3 * torch.randn(60, generator=torch.Generator().manual_seed(2))


def square(p):
    return ((X @ p["w"] - Y) ** 2).mean()


def by_numpy(p):
    residuals = X.numpy() @ p["w"].detach().numpy().astype(np.float32) - Y.numpy()
    return np.mean(residuals**2)


def without_gradients(p):
    with torch.no_grad():
        return square(p)


def by_scipy(p):
    from scipy.spatial.distance import euclidean

    return euclidean((X @ p["w"].detach()).numpy(), Y.numpy()) ** 2 / len(Y)


def wrong_labels(p):
    return ((X @ p["w"] > 0) != (Y > 0)).float().mean()


def of_classes(p):
    scores = torch.stack([X @ p["w"], -(X @ p["w"])], 1)
    return 1 - (scores.argmax(1) == (Y > 0).long()).double().mean()


LOST = {
    "float": lambda p: float(square(p)),
    "item": lambda p: square(p).item(),
    "numpy number": lambda p: np.float32(square(p).item()),
    "numpy": by_numpy,
    "scipy": by_scipy,
    "no_grad": without_gradients,
    "detach": lambda p: square(p).detach(),
    "a tensor made anew": lambda p: torch.tensor(float(square(p))),
    "data": lambda p: ((X @ p["w"].data - Y) ** 2).mean(),
    "thresholds": wrong_labels,
    "argmax": of_classes,
}


def objective(function, start=(0.4, 0.1, -0.2, 0.3)):
    return ln.Objective.from_function(function, {"w": torch.tensor(start)})


CALLS = {
    "gradient": ln.curvature.gradient,
    "top_eigenpairs": lambda objective: ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective)),
    "trace": lambda objective: ln.curvature.trace(ln.curvature.Hessian(objective)),
    "diagonal": lambda objective: ln.curvature.diagonal(ln.curvature.Hessian(objective)),
    "spectral_density": lambda objective: ln.curvature.spectral_density(ln.curvature.Hessian(objective)),
    "spectrum": lambda objective: ln.spectrum(objective, top=1),
    "sam": lambda objective: ln.sharpness(objective, "sam"),
    "asam": lambda objective: ln.sharpness(objective, "asam"),
    "lambda_max": lambda objective: ln.sharpness(objective, "lambda_max"),
    "a step": lambda objective: ln.sharpness(objective, "epsilon"),
    "directions": lambda objective: ln.directions.hessian(objective, 2),
    "on_chart": lambda objective: evaluate_curvature(
        objective, ln.Line(objective.params, ln.directions.random(objective, seed=0)[0]), ln.Grid(alpha=(-1, 1, 3))
    ),
}


@pytest.mark.parametrize("function", LOST.values(), ids=LOST)
def test_a_loss_that_leaves_torch_has_no_derivatives(function):
    for call in ("gradient", "trace", "sam"):
        with pytest.raises(errors.ObjectiveError, match="cannot be differentiated"):
            CALLS[call](objective(function))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_whatever_derives_says_so(call):
    with pytest.raises((errors.ObjectiveError, errors.EvaluationError), match="cannot be differentiated"):
        call(objective(LOST["item"]))
    call(objective(square))


def test_a_report_with_the_objective_is_refused_likewise():
    given = objective(LOST["item"])
    line = ln.Line(given.params, {"w": torch.ones(4)})
    surface = ln.evaluate(given, line, ln.Grid(alpha=(-1, 1, 5)))
    ln.report(surface)
    with pytest.raises(errors.ObjectiveError, match="cannot be differentiated"):
        ln.report(surface, objective=given)


class Shrunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x**2

    @staticmethod
    def backward(ctx, g):
        return g * 0.3


PARTLY = {
    "a term by item": lambda p: square(p) + 3 * (p["w"] ** 2).sum().item(),
    "a hundredth by float": lambda p: square(p) + 0.05 * float(p["w"].norm()),
    "a factor by float": lambda p: square(p) * float(p["w"].norm()),
    "a detached weight": lambda p: ((X @ p["w"] - Y) ** 2 * (X @ p["w"]).detach().sigmoid()).mean(),
    "a wrong backward pass": lambda p: Shrunk.apply(X @ p["w"] - Y).mean(),
    "straight through": lambda p: ((X @ (p["w"] + (p["w"].round() - p["w"]).detach()) - Y) ** 2).mean(),
    "through float32": lambda p: square(p) + (p["w"].detach().float() ** 2).sum(),
}


@pytest.mark.parametrize("function", PARTLY.values(), ids=PARTLY)
def test_a_part_that_leaves_torch_is_said(function):
    with pytest.warns(errors.LossnavWarning, match="is not the gradient of its loss"):
        ln.curvature.gradient(objective(function))


STEPS = {
    "round": lambda p: ((4 * X @ p["w"]).round().square()).mean(),
    "sign": lambda p: ((X @ p["w"]).sign() - Y.sign()).square().mean(),
    "floor": lambda p: torch.floor(3 * X @ p["w"]).abs().mean(),
}


@pytest.mark.parametrize("function", STEPS.values(), ids=STEPS)
def test_a_loss_of_steps_is_said_to_be_one(function):
    with pytest.warns(errors.LossnavWarning, match="piecewise constant"):
        assert ln.curvature.trace(ln.curvature.Hessian(objective(function))).value == 0


def test_steps_in_a_network_are_said_too():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Hardtanh(), nn.Linear(3, 1))
    given = ln.Objective(net, lambda o, y: ((o[:, 0] > 0).float() - (y > 0).float()).abs().mean(), (X, Y))
    with pytest.raises(errors.ObjectiveError, match="cannot be differentiated"):
        ln.curvature.gradient(given)


def relu_net(p):
    return ((X @ p["a"]).relu() @ p["b"] - Y).abs().mean()


FINE = {
    "square": square,
    "relu and absolute": relu_net,
    "cross-entropy": lambda p: F.cross_entropy(torch.stack([X @ p["w"], Y], 1), (Y > 0).long()),
    "constant": lambda p: X.mean() + 0 * p["w"].sum(),
    "of none of them": lambda p: Y.square().mean(),
    "hinge": lambda p: (1 - Y.sign() * (X @ p["w"])).relu().mean(),
    "max": lambda p: (X @ p["w"] - Y).abs().max(),
    "quartic": lambda p: (X @ p["w"] - Y).pow(4).mean(),
    "exponential": lambda p: (3 * (X @ p["w"])).exp().mean(),
    "huber": lambda p: F.huber_loss(X @ p["w"], Y, delta=0.1),
    "saturated": lambda p: F.softplus(
        -200 * Y.sign() * (X @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0 * p["w"].sum())
    ).mean(),
    "large": lambda p: 1e4 + square(p),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("function", FINE.values(), ids=FINE)
def test_nothing_is_said_of_losses_that_bend_or_have_kinks(function, seed):
    generator = torch.Generator().manual_seed(seed)
    start = {"w": torch.randn(4, generator=generator)}
    if function is relu_net:
        start = {"a": torch.randn(4, 6, generator=generator), "b": torch.randn(6, generator=generator)}
    given = ln.Objective.from_function(function, start)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ln.curvature.gradient(given)
        ln.curvature.trace(ln.curvature.Hessian(given), products=15)
