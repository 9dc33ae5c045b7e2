"""Every loss that differentiates its network by the inputs, in the three forms in which one writes it.

`test_passes_losses_by_inputs` holds one of them against the chain rule by hand. Here are its siblings: second
derivatives, forces of an energy, score matching, Hamiltonians, penalties, and what `torch.func` is used for inside a
loss. The truth is plain torch on a copy of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import lossnav as ln

_G = torch.Generator().manual_seed(0)
X, XT = torch.randn(13, 2, generator=_G), torch.rand(13, 2, generator=_G)
ATOMS, FORCES = torch.randn(9, 4, 3, generator=_G), torch.randn(9, 4, 3, generator=_G)
ALONG = torch.randn(13, 2, generator=_G)

Net = Callable[[Tensor], Tensor]


def slope(made: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(made.sum(), x, create_graph=True)[0]


def heat(u: Net, x: Tensor) -> Tensor:
    """u_t - u_xx, of inputs (x, t)."""
    x = x.clone().requires_grad_(True)
    first = slope(u(x), x)
    return first[:, 1] - slope(first[:, 0], x)[:, 0]


def burgers(u: Net, x: Tensor) -> Tensor:
    """Writes into its own batch that it is to be derived by, as many do: x.requires_grad_()."""
    x.requires_grad_(True)
    made = u(x)
    first = slope(made, x)
    return first[:, 1] + made[:, 0] * first[:, 0] - 0.1 * slope(first[:, 0], x)[:, 0]


def forces(u: Net, x: Tensor, wanted: Tensor) -> Tensor:
    """Of a small molecule: the energy is a sum over pairs of atoms, and a force minus its gradient."""
    x = x.clone().requires_grad_(True)
    pairs = x[:, :, None] - x[:, None]  # (n, atoms, atoms, 3)
    distances = (pairs.square().sum(-1) + torch.eye(x.shape[1])).sqrt()
    energy = u(torch.stack([distances, 1 / distances], -1)).sum((1, 2, 3))
    return -slope(energy, x) - wanted


def hamiltonian(u: Net, x: Tensor, wanted: Tensor) -> Tensor:
    """dq/dt = dH/dp, dp/dt = -dH/dq (Greydanus et al. 2019)."""
    x = x.clone().requires_grad_(True)
    first = slope(u(x), x)
    return torch.stack([first[:, 1], -first[:, 0]], 1) - wanted


def score(u: Net, x: Tensor) -> Tensor:
    """Hyvarinen 2005: trace of the Jacobian of the score + |score|^2 / 2, of an energy; by torch.func."""

    def of_one(point: Tensor) -> Tensor:
        return -u(point[None]).sum()

    gradient = torch.func.vmap(torch.func.grad(of_one))(x)
    trace = torch.func.vmap(torch.func.hessian(of_one))(x).diagonal(dim1=1, dim2=2).sum(1)
    return trace + 0.5 * gradient.square().sum(1)


def sliced(u: Net, x: Tensor, along: Tensor) -> Tensor:
    """The same along one direction a sample, by a product of Jacobian and vector in forward mode."""

    def energy_slope(points: Tensor) -> Tensor:
        return torch.func.grad(lambda y: u(y).sum())(points)

    value, product = torch.func.jvp(energy_slope, (x,), (along,))
    return (product * along).sum(1) + 0.5 * (value * along).sum(1).square()


def pulled(u: Net, x: Tensor) -> Tensor:
    """A penalty on the norm of the gradient, by a vector-Jacobian product."""
    made, pull = torch.func.vjp(u, x)
    (first,) = pull(torch.ones_like(made))
    return first.square().sum(1).sqrt() - 1


def jacobian(u: Net, x: Tensor) -> Tensor:
    """By the older functional interface."""
    made = torch.autograd.functional.jacobian(lambda y: u(y).sum(0), x, create_graph=True)  # (1, n, 2)
    return made[0] - 0.5


CASES = {
    "heat": (heat, 2, (XT,)),
    "burgers, in place": (burgers, 2, (XT,)),
    "forces": (forces, 2, (ATOMS, FORCES)),
    "hamiltonian": (hamiltonian, 2, (X, ALONG)),
    "score matching": (score, 2, (X,)),
    "sliced score, jvp": (sliced, 2, (X, ALONG)),
    "penalty, vjp": (pulled, 2, (X,)),
    "jacobian": (jacobian, 2, (X,)),
}
FORMS = ("forward=", "loss=None", "function")


def network(inputs: int) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 1))


class Own(nn.Module):
    def __init__(self, net: nn.Module, residual: Callable[..., Tensor]) -> None:
        super().__init__()
        self.net, self.residual = net, residual

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.residual(self.net, *inputs).square().mean()


def objective(case: str, form: str) -> ln.Objective:
    residual, inputs, data = CASES[case]
    net = network(inputs)
    given = data if len(data) > 1 else data[0]

    def inside(batch: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (batch,) if isinstance(batch, Tensor) else tuple(batch)

    if form == "loss=None":
        return ln.Objective(Own(net, residual), None, given, batch_size=5)
    if form == "forward=":

        def pair(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
            made = residual(model, *inside(batch))
            return made, torch.zeros_like(made)

        return ln.Objective(net, "mse", given, forward=pair, batch_size=5)

    def loss(params: dict[str, Tensor], batch: Tensor) -> Tensor:
        made = residual(lambda x: functional_call(net, params, (x,)), *inside(batch))
        return made.square().flatten(1).mean(1) if made.dim() > 1 else made.square()

    return ln.Objective.from_function(loss, dict(net.named_parameters()), given, reduction="none", batch_size=5)


def truth(case: str, vector: Tensor) -> Tensor:
    """The mean of squares over all the data, in one batch, of a network with these numbers."""
    residual, inputs, data = CASES[case]
    net = network(inputs)
    point, start = {}, 0
    for name, tensor in net.named_parameters():
        point[name] = vector[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    copies = [part.clone() for part in data]
    return residual(lambda x: functional_call(net, point, (x,)), *copies).square().mean()


def flat(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in params.values()])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_value_gradient_and_curvature_are_those_of_plain_torch(case, form):
    data = [copy.deepcopy(part) for part in CASES[case][2]]
    found = objective(case, form)
    line = ln.Line(found.params, ln.directions.random(found, exclude=(), seed=1)[0])
    surface = ln.evaluate(found, line, ln.Grid(alpha=(-1, 1, 3)), progress=False)
    for alpha, value in zip(surface["alpha"].values, surface["loss"].values, strict=True):
        assert value == pytest.approx(float(truth(case, flat(line([alpha])))), rel=1e-5)

    center = flat(found.params).requires_grad_(True)
    (wanted,) = torch.autograd.grad(truth(case, center), center)
    gradient = flat(ln.curvature.gradient(found)).float()
    assert torch.allclose(gradient, wanted, atol=1e-5 * float(wanted.abs().max()))

    hessian = torch.autograd.functional.hessian(lambda vector: truth(case, vector), center.detach()).double()
    ends = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
    pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(found), k=1, which="largest", progress=False)
    assert float(pairs.values[0]) == pytest.approx(float(ends[-1]), rel=2e-3)
    rise = ln.sharpness(found, "sam", radius=0.05, progress=False).value
    to_first_order = 0.05 * float(wanted.norm())
    assert rise > 0.3 * to_first_order > 0

    for before, after in zip(data, CASES[case][2], strict=True):
        assert torch.equal(before, after) and not after.requires_grad


def test_noise_in_such_a_loss_is_drawn_once_a_pass():
    """Hutchinson's estimate of a divergence: by noise of the seed, the same at every point, and in derivatives."""

    def divergence(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randint(0, 2, x.shape).float() * 2 - 1
        x = x.clone().requires_grad_(True)
        made = slope((slope(model(x), x) * noise).sum(1), x) * noise
        return made.sum(1), torch.zeros(len(x))

    net = network(2)
    found = ln.Objective(net, "mse", X, forward=divergence, batch_size=13, seed=6)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        wanted = divergence(net, X)[0].square().mean()
        wanted.backward()
    assert [found.evaluate(found.params)["loss"] for _ in range(2)] == pytest.approx(
        [float(wanted.detach())] * 2, rel=1e-6
    )
    for name, gradient in ln.curvature.gradient(found).items():
        expected = net.get_parameter(name).grad
        assert torch.allclose(gradient.float(), torch.zeros(()) if expected is None else expected, atol=1e-6)


def test_a_model_that_returns_energy_and_forces_beside_each_other():
    """As machine-learned potentials do: `autograd.grad` inside forward(), and a loss over both."""

    class Potential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            with torch.enable_grad():
                x = x.clone().requires_grad_(True)
                energy = self.net(x).sum((1, 2))
                return {"energy": energy, "forces": -slope(energy, x)}

    def both(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return outputs["energy"].square() + (outputs["forces"] - targets).square().flatten(1).mean(1)

    model = Potential()
    found = ln.Objective(model, both, (ATOMS, FORCES), reduction="none", batch_size=4)
    wanted = both(model(ATOMS), FORCES).mean()
    wanted.backward()
    assert found.evaluate(found.params)["loss"] == pytest.approx(float(wanted.detach()), rel=1e-6)
    for name, gradient in ln.curvature.gradient(found).items():
        assert torch.allclose(gradient.float(), model.get_parameter(name).grad, atol=1e-6)
