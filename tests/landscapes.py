"""Losses whose sharpness is known: quadratics, and networks that write one function in two ways."""

import copy

import torch
from torch import nn

import lossnav as ln


def symmetric(values, seed=0):
    """A matrix with these eigenvalues and random eigenvectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=generator))
    return q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ q.T


def quadratic(matrix, center, slope=None, floor=1.0):
    """L(x) = floor + slope . (x - c) + (x - c) . matrix (x - c) / 2, looked at from c."""
    matrix, center = torch.as_tensor(matrix, dtype=torch.float64), torch.as_tensor(center, dtype=torch.float64)
    matrix = torch.diag(matrix) if matrix.dim() == 1 else matrix
    slope = torch.zeros_like(center) if slope is None else torch.as_tensor(slope, dtype=torch.float64)

    def loss(p):
        away = p["x"] - center
        return floor + slope @ away + away @ matrix @ away / 2

    return ln.Objective.from_function(loss, {"x": center})


def relu_net(seed=0):
    """Three layers with biases, 83 parameters, in float64, with data it does not fit."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x, y = torch.randn(40, 4).double(), torch.randint(0, 3, (40,))
    return model.eval(), (x, y)


@torch.no_grad()
def rescaled(model, factors):
    """The same function: the units of the first layer times these factors, what follows divided by them."""
    other = copy.deepcopy(model)
    factors = torch.as_tensor(factors, dtype=torch.float64)
    other[0].weight *= factors[:, None] if factors.dim() else factors
    other[0].bias *= factors
    other[2].weight /= factors
    return other


def rosy(model, data, **options):
    return ln.Objective(model, "cross_entropy", data, **options)


def walled_bowl():
    """A bowl on whose flank, not far off, the loss becomes infinite."""

    def loss(p):
        height = (p["x"] ** 2).sum()
        return height / 0 if p["x"].sum() > 1.1 else height

    return ln.Objective.from_function(loss, {"x": torch.full((2,), 0.5)})
