"""A physics-informed network: its loss differentiates it by its inputs, twice."""

import torch
from torch import nn

import lossnav as ln

x = torch.linspace(0, 1, 101).reshape(-1, 1)  # u'' = -pi^2 sin(pi x) on [0, 1], zero at both ends
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))


def bends(model, x):
    x = x.clone().requires_grad_(True)
    u = x * (1 - x) * model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return bend, -(torch.pi**2) * torch.sin(torch.pi * x)


optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(500):
    optimizer.zero_grad()
    nn.functional.mse_loss(*bends(model, x)).backward()
    optimizer.step()
objective = ln.Objective(model, "mse", x, forward=bends)
plane = ln.Plane(objective.params, *ln.directions.hessian(objective, n=2))
surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-0.5, 0.5, 15), beta=(-0.5, 0.5, 15)))
print(surface.lossnav.summary())
ln.plot.write("contour", surface, "pinn.png", overwrite=True)
