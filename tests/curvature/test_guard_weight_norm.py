"""weight_norm has the curvature of its formula g v / ||v||, though torch's second derivative of it is wrong."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import weight_norm as old_weight_norm

import lossnav as ln
from networks import dense, dense_gauss_newton, flat


def new(layer, dim):
    return parametrizations.weight_norm(layer, dim=dim), ("parametrizations.weight.original", 0, 1)


def old(layer, dim):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return old_weight_norm(layer, dim=dim), ("weight_", "g", "v")


def normalised(p, layer, names, dim):
    """The weight of a layer by its formula."""
    stem, g, v = names
    g, v = p[f"{layer}.{stem}{g}"], p[f"{layer}.{stem}{v}"]
    over = [i for i in range(v.dim()) if i != dim]
    return g * v / (v**2).sum(over, keepdim=True).sqrt()


def linear(make, dim):
    torch.manual_seed(0)
    layer, names = make(nn.Linear(3, 4), dim)
    model, x, y = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2)).eval(), torch.randn(9, 3), torch.randn(9, 2)

    def outputs(p):
        h = torch.tanh(x.double() @ normalised(p, "0", names, dim).T + p["0.bias"])
        return h @ p["2.weight"].T + p["2.bias"]

    return ln.Objective(model, "mse", (x, y), batch_size=5), outputs, lambda out: F.mse_loss(out, y.double())


def convolution(make, dim):
    torch.manual_seed(0)
    layer, names = make(nn.Conv2d(2, 3, 3), dim)
    model = nn.Sequential(layer, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    x, y = torch.randn(7, 2, 5, 5), torch.randint(0, 2, (7,))

    def outputs(p):
        h = F.gelu(F.conv2d(x.double(), normalised(p, "0", names, dim), p["0.bias"])).mean((2, 3))
        return h @ p["4.weight"].T + p["4.bias"]

    return ln.Objective(model, "cross_entropy", (x, y)), outputs, lambda out: F.cross_entropy(out, y)


@pytest.mark.parametrize("make", [new, old])
@pytest.mark.parametrize("network", [linear, convolution])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_products_and_ends_are_those_of_the_formula(make, network, dim):
    objective, outputs, loss = network(make, dim)
    generator = torch.Generator().manual_seed(2)
    point = {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in objective.params.items()}
    _, slope, matrix = dense(lambda p: loss(outputs(p)), point)
    gauss_newton = dense_gauss_newton(outputs, loss, point)
    for operator, truth in (("hessian", matrix), ("gauss-newton", gauss_newton)):
        found = ln.curvature.top_eigenpairs(ln.curvature.OPERATORS[operator](objective, point), which="both")
        ends = torch.linalg.eigvalsh(truth)
        assert abs(found.values[0] - ends[0].item()) <= found.errors[0] + 1e-5 * ends[-1].item()
        assert abs(found.values[1] - ends[-1].item()) <= found.errors[1] + 1e-5 * ends[-1].item()
        trace = ln.curvature.trace(ln.curvature.OPERATORS[operator](objective, point), products=3 * len(truth) + 3)
        assert trace.value == pytest.approx(truth.trace().item(), rel=1e-4, abs=1e-5)
    hessian = ln.curvature.Hessian(objective, point)
    vectors = torch.randn(4, hessian.size, dtype=torch.float64, generator=generator)
    images = torch.stack(hessian.derive(list(vectors)).products)
    assert torch.linalg.norm(images - vectors @ matrix) <= 1e-5 * torch.linalg.norm(images)
    assert torch.linalg.norm(flat(ln.curvature.gradient(objective, point)) - slope) <= 1e-5 * torch.linalg.norm(slope)
