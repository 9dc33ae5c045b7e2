"""What a backward pass computes anew or reads is of the point's weights: equal to the same network written plainly."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

import lossnav as ln
from lossnav import errors
from networks import dense, flat, module_loss


class Scaled(torch.autograd.Function):
    """x times the weight of a module, which the backward pass reads off the module."""

    @staticmethod
    def forward(ctx, x, weight, module):
        ctx.module = module
        ctx.save_for_backward(x)
        return x * weight

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * ctx.module.scale, (g * x).sum(0), None


class Blocks(nn.Module):
    """Two blocks and a head; `way` says how the blocks are called, which changes no number."""

    def __init__(self, way, norm=False, weights=lambda layer: layer):
        super().__init__()
        self.first = nn.Sequential(weights(nn.Linear(3, 5)), nn.BatchNorm1d(5) if norm else nn.Tanh(), nn.Sigmoid())
        self.second = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.way = way
        if way == "hook":
            self.second[0].register_full_backward_hook(lambda module, gi, go: (gi[0] + 0 * module.weight.sum(),))

    def forward(self, x):
        if self.way in ("block", "reentrant"):
            call = partial(checkpoint, use_reentrant=self.way == "reentrant")
            h = call(self.second, call(self.first, x))
        elif self.way == "nested":
            h = checkpoint(
                lambda x: self.second(checkpoint(self.first, x, use_reentrant=False)), x, use_reentrant=False
            )
        elif self.way == "sequential":
            h = checkpoint_sequential(nn.Sequential(self.first, self.second), 2, x, use_reentrant=False)
        elif self.way == "selective":
            save = lambda ctx, op, *a, **k: (  # noqa: E731
                CheckpointPolicy.MUST_SAVE if op == torch.ops.aten.addmm.default else CheckpointPolicy.PREFER_RECOMPUTE
            )
            contexts = partial(create_selective_checkpoint_contexts, save)
            h = self.second(checkpoint(self.first, x, use_reentrant=False, context_fn=contexts))
        elif self.way == "saved on the CPU":
            with torch.autograd.graph.save_on_cpu():
                h = self.second(self.first(x))
        else:
            h = self.second(self.first(x))
        h = Scaled.apply(h, self.scale, self) if self.way == "function" else h * self.scale
        return self.head(h)


WAYS = ("block", "nested", "sequential", "saved on the CPU", "hook", "function")


def pair(way, **options):
    torch.manual_seed(1)
    model, plain = Blocks(way, **options).eval(), Blocks("plain", **options).eval()
    plain.load_state_dict(model.state_dict())
    return model, plain, torch.randn(11, 3), torch.randn(11, 2)


def equal(a, b, to=1e-5):
    assert torch.linalg.vector_norm(a - b) <= to * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("point", ["centre", "displaced"])
def test_it_is_the_network_without_checkpointing(way, point):
    model, plain, x, y = pair(way)
    objective = ln.Objective(model, "mse", (x, y), batch_size=4)
    where = {n: t + (0.1 if point == "displaced" else 0) * torch.ones_like(t) for n, t in objective.params.items()}
    by_formula = module_loss(copy.deepcopy(plain), lambda out: nn.functional.mse_loss(out, y.double()), x.double())
    _, slope, matrix = dense(by_formula, where)
    hessian = ln.curvature.Hessian(objective, where)
    vectors = torch.randn(3, hessian.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    equal(flat(ln.curvature.gradient(objective, where)), slope)
    for _ in range(3):  # the second time graphs are kept, the third time they are used
        for product, wanted in zip(hessian.derive(list(vectors)).products, vectors @ matrix, strict=True):
            equal(product, wanted)
    found = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective, where), which="both")
    truth = torch.linalg.eigvalsh(matrix)
    assert found.values == pytest.approx([truth[0].item(), truth[-1].item()], rel=1e-3)


@pytest.mark.parametrize("bn", ["frozen", "batch", "recompute"])
@pytest.mark.parametrize("operator", ["hessian", "gauss-newton"])
def test_batch_norm_is_in_the_same_mode_when_it_is_computed_anew(bn, operator):
    model, plain, x, y = pair("block", norm=True)
    both = [ln.Objective(m, "mse", (x, y), bn=bn, batch_size=4) for m in (model, plain)]
    traces = [ln.curvature.trace(ln.curvature.OPERATORS[operator](o), method="hutchinson", products=5) for o in both]
    assert traces[0].value == pytest.approx(traces[1].value, rel=1e-5)
    equal(*(flat(ln.curvature.gradient(o)) for o in both))


def test_weight_norm_within_a_checkpoint():
    model, plain, x, y = pair("block", weights=weight_norm)
    both = [ln.Objective(m, "mse", (x, y)) for m in (model, plain)]
    found = [ln.curvature.top_eigenpairs(ln.curvature.Hessian(o), k=2) for o in both]
    assert found[0].values == pytest.approx(found[1].values, rel=1e-4)


def test_every_consumer_takes_a_checkpointed_network():
    model, plain, x, y = pair("block")
    both = [ln.Objective(m, "mse", (x, y)) for m in (model, plain)]

    def each(objective):
        yield ln.spectrum(objective, top=1, density=ln.curvature.DensityOptions(steps=5, probes=2), trace=True).attrs[
            "trace"
        ]["value"]
        yield ln.sharpness(objective, "sam", radius=0.05).value
        yield flat(ln.directions.hessian(objective)[0]).abs().sum().item()
        yield flat(ln.curvature.diagonal(ln.curvature.Hessian(objective), products=5).value).sum().item()

    assert list(each(both[0])) == pytest.approx(list(each(both[1])), rel=1e-3)


def leafy(model, batch):
    return model(batch[0].requires_grad_()), batch[1]


def test_a_reentrant_checkpoint_is_refused_with_what_to_type():
    model, _, x, y = pair("reentrant")
    objective = ln.Objective(model, lambda out, y: nn.functional.mse_loss(out, y), (x, y), forward=leafy)
    with pytest.raises(errors.ObjectiveError, match="use_reentrant=False"):
        ln.curvature.gradient(objective)


def test_a_selective_checkpoint_has_a_gradient_and_no_second_derivative():
    model, plain, x, y = pair("selective")
    objective = ln.Objective(model, "mse", (x, y))
    equal(flat(ln.curvature.gradient(objective)), flat(ln.curvature.gradient(ln.Objective(plain, "mse", (x, y)))))
    with pytest.raises(errors.ObjectiveError, match="context_fn"):
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective))
