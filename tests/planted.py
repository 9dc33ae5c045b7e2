"""Pictures with one thing wrong each, and a clean one: tiny networks, in float64, trained to the last digit."""

import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln

PLAIN = ln.Local(plan="plain")


def clusters(n=600, seed=0):
    """Three overlapping clouds in six dimensions: no network separates them, so the loss has a minimum."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    middles = torch.eye(3, dtype=torch.float64).repeat(1, 2)
    return middles[labels] + torch.randn(n, 6, generator=generator, dtype=torch.float64), labels


class Decayed(nn.Module):
    """A network that returns its own loss, a value a sample, weight decay included: its minimum is one."""

    def __init__(self, net, decay=0.01):
        super().__init__()
        self.net, self.decay = net, decay

    def forward(self, x, y):
        size = sum((parameter**2).sum() for parameter in self.net.parameters())
        return F.cross_entropy(self.net(x), y, reduction="none") + self.decay * size


def network(activation=nn.Tanh, width=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), activation(), nn.Linear(width, 3)).double().eval()


def train(model, data, steps=300):
    """Full-batch L-BFGS on a model that returns its loss."""
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=steps,
        history_size=30,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
    )

    def closure():
        optimizer.zero_grad()
        loss = model(*data).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def plane_of(objective, n=13, reach=1.0, **options):
    """A plane of random directions, and its surface by the plain path."""
    chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2, **options))
    grid = ln.Grid(alpha=(-reach, reach, n), beta=(-reach, reach, n))
    return chart, ln.evaluate(objective, chart, grid, engine=PLAIN, progress=False)


def bent(eigenvalues, tilt=0.0, at=0.0):
    """An objective with a known Hessian at its centre, 0.2 high there, tilted perhaps, of one tensor and no data."""
    lengths = torch.as_tensor(eigenvalues, dtype=torch.float64)

    def loss(p):
        return 0.2 + (lengths * p["x"] ** 2).sum() / 2 + tilt * p["x"][-1]

    return ln.Objective.from_function(loss, {"x": torch.full((len(lengths),), at, dtype=torch.float64)})


def line_of(objective, n=13, reach=1.0, **options):
    chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None, **options))
    return chart, ln.evaluate(objective, chart, ln.Grid(alpha=(-reach, reach, n)), engine=PLAIN, progress=False)
