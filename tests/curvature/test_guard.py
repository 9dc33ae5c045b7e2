"""What torch calls a derivative and is none is refused, or said; what bends or is rounded is not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors


class Straight(torch.autograd.Function):
    """Rounds, and passes gradients straight through."""

    @staticmethod
    def forward(ctx, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx, g):
        return g


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-1e-4, 1e-4)


class Sine(torch.autograd.Function):
    """Right once; its second derivative is lost."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].detach().cos()


class Network(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(3, 6), nn.Linear(6, 2), function

    def forward(self, x):
        return self.second(self.function(self.first(x)))


def objective(function, seed=0):
    torch.manual_seed(seed)
    return ln.Objective(Network(function).eval(), "mse", (torch.randn(20, 3), torch.randn(20, 2)))


LYING = {
    "straight through": Straight.apply,
    "straight through, detached": lambda x: x + (x.round() - x).detach(),
    "clipped": Clipped.apply,
    "a part detached": lambda x: x * x.detach().sigmoid(),
    "a detached norm": lambda x: x / x.norm(dim=1, keepdim=True).detach(),
}


@pytest.mark.parametrize("function", LYING.values(), ids=LYING)
def test_a_gradient_that_is_not_that_of_the_loss_is_said_and_its_hessian_refused(function):
    with pytest.warns(errors.LossnavWarning, match="is not the gradient of its loss"):
        ln.curvature.gradient(objective(function))
    for operator in ("hessian", "gauss-newton"):
        with pytest.raises(errors.ObjectiveError, match="are wrong"):
            ln.curvature.trace(ln.curvature.OPERATORS[operator](objective(function)))


def test_a_lost_second_derivative_is_refused_and_what_needs_the_first_alone_is_not():
    given = objective(Sine.apply)
    with pytest.raises(errors.ObjectiveError, match="finite differences"):
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(given))
    with pytest.raises(errors.ObjectiveError, match="finite differences"):
        ln.curvature.diagonal(ln.curvature.Hessian(given))
    ln.curvature.gradient(given)
    right, wanted = (
        ln.curvature.top_eigenpairs(ln.curvature.GaussNewton(objective(f))) for f in (Sine.apply, torch.sin)
    )
    assert right.values == pytest.approx(wanted.values, rel=1e-3)
    ln.curvature.top_eigenpairs(ln.curvature.Hessian(given, params="second.*"))  # what lies behind it is whole


@pytest.mark.parametrize("function", [torch.relu, torch.round, nn.functional.hardtanh, nn.functional.gelu])
@pytest.mark.parametrize("seed", range(3))
def test_kinks_and_steps_are_no_lies(function, seed):
    given = objective(function, seed)
    given.params["first.bias"].zero_()
    for each in (given, given.double()):
        for operator in ("hessian", "gauss-newton"):
            ln.curvature.trace(ln.curvature.OPERATORS[operator](each), products=15)


def test_no_eigenvalue_is_surer_than_its_arithmetic():
    for function in (torch.tanh, torch.relu):
        given = objective(function)
        for each, eps in ((given, 1.2e-7), (given.double(), 2.2e-16)):
            pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(each), which="both", tolerance=1e-9, limit=200)
            assert (pairs.errors >= eps * abs(pairs.values).max()).all()
            trace = ln.curvature.trace(ln.curvature.Hessian(each), products=300)
            assert trace.error >= eps * abs(trace.value)
            assert ln.sharpness(each, "lambda_max").error >= eps * pairs.values[-1]
    flat = ln.Objective.from_function(lambda p: 3 * p["x"].sum(), {"x": torch.ones(5)})
    assert ln.curvature.top_eigenpairs(ln.curvature.Hessian(flat)).errors[0] > 0
    assert ln.curvature.trace(ln.curvature.Hessian(flat)).error > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("function", "curvature"),
    [
        (lambda x: 0.2 + (x**2).sum(), 2.0),  # the loss does not change
        (lambda x: 1e3 + 1e3 * x.sum() + (x**2).sum() / 2, 1.0),  # nor does the gradient
        (lambda x: 1.0 + (x**4).sum() + 3 * (x**2).sum(), 6.0),
    ],
)
def test_a_change_below_rounding_contradicts_nothing(function, curvature, dtype):
    tiny = torch.full((1, 30), 1e-9, dtype=dtype)
    objective = ln.Objective.from_function(lambda p: function(p["x"]), {"x": tiny})
    found = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), k=1, which="largest")
    assert abs(found.values[0] - curvature) <= found.errors[0] + 1e-5 * curvature


@pytest.mark.parametrize("way", ["no_grad", "inference_mode", "detach", "numbers", "function"])
@pytest.mark.parametrize("kind", ["lambda_max", "trace", "sam"])
def test_a_loss_that_nothing_leads_back_from_has_no_derivatives(way, kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(40, 6)
    y = (x[:, 0] > 0).long()

    def forward(model, batch):
        if way == "detach":
            return model(batch[0]).detach(), batch[1]
        with torch.inference_mode() if way == "inference_mode" else torch.no_grad():
            return model(batch[0]), batch[1]

    if way == "function":
        start = {"w": torch.randn(6, 2).double()}
        objective = ln.Objective.from_function(lambda p: float(F.cross_entropy(x.double() @ p["w"], y)), start)
    elif way == "numbers":
        objective = ln.Objective(net, lambda q, t: float(F.cross_entropy(q, t)), (x, y), reduction="batch")
    else:
        objective = ln.Objective(net, F.cross_entropy, (x, y), forward=forward)
    with pytest.raises(ln.errors.ObjectiveError, match=r"cannot be differentiated: .*no_grad\(\)"):
        ln.sharpness(objective, kind)


class Noisy(nn.Module):
    """Noise in every mode, as a VAE draws it."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.first, self.last = draw, nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.draw(torch.tanh(self.first(x))))


@pytest.mark.parametrize(
    "draw",
    [
        lambda h: h + 0.3 * torch.randn_like(h),
        lambda h: h + 0.3 * torch.randn(h.shape, dtype=h.dtype),
        lambda h: h * torch.empty_like(h).normal_(1, 0.2),
        lambda h: F.dropout(h, 0.3, training=True),
    ],
)
def test_noise_of_another_width_is_no_error_of_the_arithmetic(draw):
    torch.manual_seed(0)
    net, x = Noisy(draw), torch.randn(40, 6)
    y = (x[:, 0] > 0).long()
    objective = ln.Objective(net, F.cross_entropy, (x, y), seed=3)
    found = ln.sharpness(objective, "lambda_max", tolerance=1e-6)
    params = dict(net.named_parameters())

    def loss(flat):
        torch.manual_seed(3)
        parts = dict(zip(params, torch.split(flat, [p.numel() for p in params.values()]), strict=True))
        return F.cross_entropy(
            torch.func.functional_call(net, {n: t.reshape(params[n].shape) for n, t in parts.items()}, (x,)), y
        )

    dense = torch.autograd.functional.hessian(loss, torch.cat([p.detach().reshape(-1) for p in params.values()]))
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)
    assert found.error < 0.01 * found.value
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5)), engine=ln.Local(plan="plain"))
    line = ln.report(surface, objective=objective, chart=plane)["precision"]
    assert line.level != "warning", line.said
