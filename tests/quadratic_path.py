"""A chart as somebody else writes one, in a module of their own: a parabola through weight space, by three points."""

import torch

import lossnav as ln
from lossnav.charts import Chart, register


@register(axes={"t": "from a to c, drawn towards b"})
class QuadraticPath(Chart):
    """theta(t) = (1 - t)^2 a + 2 t (1 - t) b + t^2 c."""

    dims = ("t",)

    def __init__(self, a, b, c):
        super().__init__({"a": a, "b": b, "c": c})

    def _at(self, coords, points):
        (t,), (a, b, c) = coords, points.values()
        return {name: (1 - t) ** 2 * a[name] + 2 * t * (1 - t) * b[name] + t**2 * c[name] for name in a}


def model():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    with torch.no_grad():
        for i, tensor in enumerate(net.parameters()):
            tensor.copy_(torch.sin(torch.arange(tensor.numel()) + i).reshape(tensor.shape))
    return net


def objective():
    x = torch.cos(torch.arange(60.0)).reshape(20, 3)
    return ln.Objective(model(), "cross_entropy", (x, torch.arange(20) % 2))


def path(objective, bend=0.3):
    shift = {name: torch.cos(torch.arange(t.numel()).to(t)).reshape(t.shape) for name, t in objective.params.items()}
    b = {name: tensor + bend * shift[name] for name, tensor in objective.params.items()}
    c = {name: 0.5 * tensor - 0.2 * shift[name] for name, tensor in objective.params.items()}
    return QuadraticPath(objective.params, b, c)
