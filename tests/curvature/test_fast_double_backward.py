"""Cheaper second derivatives are those of torch, operation by operation and model by model, or given up."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav.curvature.fast_double_backward import Cheaper
from lossnav.curvature.gauss_newton import GaussNewton
from networks import BATCH, conv_net, flat, images

POLICIES = ("frozen", "recompute", "batch")


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def derivatives(function, tensors, by):
    """Value, gradient and a product with the Hessian of sum(sin(function)) by some of the tensors."""
    leaves = [tensor.clone().requires_grad_(i in by) for i, tensor in enumerate(tensors)]
    value = function(*leaves).sin().sum()
    chosen = [leaves[i] for i in by]
    slope = torch.autograd.grad(value, chosen, create_graph=True)
    inner = sum((part * drawn(*part.shape, seed=9)).sum() for part in slope)
    return [value.detach(), *slope, *torch.autograd.grad(inner, chosen)]


CONVOLUTIONS = {
    "plain": (F.conv2d, (3, 4, 6, 7), (5, 4, 3, 3), {}),
    "strided": (F.conv2d, (3, 4, 7, 6), (5, 4, 3, 2), {"stride": (2, 1), "padding": 1, "dilation": (1, 2)}),
    "grouped": (F.conv2d, (3, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "padding": [1, 0]}),
    "depthwise": (F.conv2d, (2, 4, 5, 5), (4, 1, 3, 3), {"groups": 4}),
    "by word": (F.conv2d, (2, 3, 5, 5), (4, 3, 3, 3), {"padding": "same"}),
    "without a batch": (F.conv2d, (3, 5, 5), (4, 3, 3, 3), {"padding": (1,)}),
    "along a line": (F.conv1d, (3, 4, 9), (5, 4, 3), {"stride": 2}),
    "in space": (F.conv3d, (2, 3, 4, 5, 4), (4, 3, 2, 3, 2), {"padding": 1}),
}


@pytest.mark.parametrize("by", [(0, 1, 2), (1,), (0, 2)], ids=["all", "weight", "input and bias"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind, by):
    function, shape, weight, options = CONVOLUTIONS[kind]
    tensors = drawn(*shape), drawn(*weight, seed=1) / 3, drawn(weight[0], seed=2)
    known = derivatives(lambda x, w, b: function(x, w, b, **options), tensors, by)
    with Cheaper(True) as cheaper:
        found = derivatives(lambda x, w, b: function(x, w, bias=b, **options), tensors, by)
    assert cheaper.count == (kind != "by word")
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_frozen_batch_norm(shape, affine):
    mean, variance = drawn(3, seed=3), drawn(3, seed=4).abs() + 0.1
    tensors = (drawn(*shape), *((drawn(3, seed=1), drawn(3, seed=2)) if affine else ()))

    def norm(x, *affine):
        return F.batch_norm(x, mean, variance, *affine, eps=1e-3)

    known = derivatives(norm, tensors, range(len(tensors)))
    with Cheaper(True) as cheaper:
        found = derivatives(norm, tensors, range(len(tensors)))
    assert cheaper.count == 1
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_what_is_no_plain_tensor_is_left_to_torch():
    x, w = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    with Cheaper(True) as cheaper:
        with torch.autocast("cpu", torch.bfloat16):
            assert F.conv2d(x, w).dtype == torch.bfloat16
        assert torch.func.vmap(lambda part: part.sum())(x).shape == (2,)
        assert F.batch_norm(x, None, None, training=True).shape == x.shape
    assert cheaper.count == 0


def test_a_view_is_there_whatever_the_layout():
    x, w = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    known = F.conv2d(x, w).view(2, -1)
    with Cheaper(True):
        made = F.conv2d(x, w)
        assert not made.is_contiguous()
        torch.testing.assert_close(made.view(2, -1), known)
        with pytest.raises(RuntimeError, match="is invalid for input of size"):
            made.view(2, 7)


def both_ways(objective, kind=ln.curvature.Hessian, **options):
    """A product as it comes, and one with torch's own derivatives."""
    made = []
    for plans in ({}, {("second derivatives", kind.kind): None}):
        own = copy.copy(objective)
        own._plans = plans
        operator = kind(own, **options)
        vector = drawn(operator.size, seed=7)
        made.append(operator.derive([vector]))
    (plan,) = own_plans(objective, kind, **options)
    return plan, *made


def own_plans(objective, kind, **options):
    own = copy.copy(objective)
    own._plans = {}
    operator = kind(own, **options)
    operator.derive([drawn(operator.size)])
    return own._plans.values()


@pytest.mark.parametrize("kind", [ln.curvature.Hessian, GaussNewton])
@pytest.mark.parametrize("bn", POLICIES)
@pytest.mark.parametrize("exclude", [(), ("norm", "bias")])
def test_every_policy_and_operator(kind, bn, exclude):
    objective = ln.Objective(conv_net(), "cross_entropy", images(), bn=bn, batch_size=BATCH).double()
    plan, found, known = both_ways(objective, kind, exclude=exclude)
    assert plan is not None
    assert found.loss == pytest.approx(known.loss, rel=1e-13)
    torch.testing.assert_close(found.gradient, known.gradient, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found.products[0], known.products[0], rtol=1e-10, atol=1e-12)


class Shaped(nn.Module):
    """Looks at its images in ways that a layout in memory may forbid, and passes some of it twice."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
        self.out = nn.Linear(100, 5)
        self.how = how

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = self.second(x)
        if self.how == "later" and len(x) < BATCH and "Bilinear" in str(x.grad_fn):
            raise ValueError("another way")
        x = x.tanh_()
        if self.how == "view":
            return self.out(x.view(len(x), -1))
        if self.how == "view of a type":
            return self.out(x.view(torch.int32).view(torch.float32).flatten(1) + 0 * x.flatten(1))
        if self.how == "strides":
            return self.out(x.as_strided((len(x), 100), (100, 1)))
        if self.how == "vmap":
            x = x + torch.func.vmap(lambda image: F.conv2d(image[None], self.second.weight, padding=1)[0])(x)
        return self.out(x.flatten(1))


def test_a_view_of_another_type_has_no_derivatives():
    """Torch cuts the graph there, which is seen."""
    torch.manual_seed(0)
    objective = ln.Objective(Shaped("view of a type").eval(), "cross_entropy", images(), batch_size=BATCH)
    with pytest.raises(ln.errors.ObjectiveError, match="wrong"):
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), progress=False)


@pytest.mark.parametrize(
    ("how", "last"),
    [
        ("view", False),
        ("strides", False),
        ("vmap", None),
        ("later", None),
    ],
)
def test_models_with_ways_of_their_own_get_the_same(how, last):
    torch.manual_seed(0)
    objective = ln.Objective(Shaped(how).eval(), "cross_entropy", images(), batch_size=BATCH)
    plan, found, known = both_ways(objective)
    assert plan is last
    for a, b in ((found.gradient, known.gradient), (found.products[0], known.products[0])):
        assert torch.linalg.vector_norm(a - b) <= (0.0 if last is None else 1e-5) * torch.linalg.vector_norm(b)


def test_a_model_without_convolutions_has_torch_s_own():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    objective = ln.Objective(model, "mse", (torch.randn(5, 3), torch.randn(5, 2)))
    plan, found, known = both_ways(objective)
    assert plan is None
    assert torch.equal(found.products[0], known.products[0])


def test_the_users_own_error_is_raised_as_it_is():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 5, 7)

        def forward(self, x):
            if torch.is_grad_enabled():
                raise KeyError("mine")
            return self.conv(x).flatten(1)

    objective = ln.Objective(Broken().eval(), "cross_entropy", images())
    with pytest.raises(KeyError, match="mine"):
        _ = ln.curvature.Hessian(objective) @ objective.params


def test_float32_is_as_close_as_float32_can_be():
    objective = ln.Objective(conv_net(), "cross_entropy", images(), batch_size=BATCH)
    vector = objective.params
    exact = flat(ln.curvature.Hessian(objective, precision="float64") @ vector)
    found = flat(ln.curvature.Hessian(objective) @ vector)
    assert torch.linalg.vector_norm(found - exact) <= 1e-5 * torch.linalg.vector_norm(exact)
