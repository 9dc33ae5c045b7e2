"""Graphs that are kept between products change nothing but the time, and stay within their budget."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav.curvature import batch_graph
from lossnav.curvature.gauss_newton import GaussNewton
from networks import BATCH, conv_net, images


class Drawing(nn.Module):
    """Draws random numbers, so that what a batch gives depends on those before it; counts its calls."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        type(self).calls += torch.is_grad_enabled()
        return self.second(torch.tanh(self.first(x + torch.randn(x.shape))))


def drawing():
    torch.manual_seed(0)
    return ln.Objective(
        Drawing().eval(), "cross_entropy", (torch.randn(12, 5), torch.randint(0, 4, (12,))), batch_size=3
    )


def convolving():
    return ln.Objective(conv_net(), "cross_entropy", images(), batch_size=BATCH)


def operator(make, kind, budget, monkeypatch):
    monkeypatch.setattr(batch_graph.GraphCache.__init__, "__defaults__", (budget,))
    return kind(make())


def vectors(size, n=4):
    return list(torch.randn(n, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", [ln.curvature.Hessian, GaussNewton])
@pytest.mark.parametrize("make", [drawing, convolving])
def test_kept_or_not_the_bits_are_the_same(make, kind, monkeypatch):
    made = []
    one = batch_graph.held_bytes(operator(make, kind, 0, monkeypatch)._first_graph().ends)
    for budget in (0, int(1.5 * one), 2**30):  # none, the last or last two, all
        matrix = operator(make, kind, budget, monkeypatch)
        each = vectors(matrix.size)
        made.append([matrix.derive(part) for part in (each[:1], each[1:2], each[1:], each[:2], each[:1])])
    for other in made[1:]:
        for a, b in zip(made[0], other, strict=True):
            assert a.loss == b.loss
            assert torch.equal(a.gradient, b.gradient)
            assert all(torch.equal(x, y) for x, y in zip(a.products, b.products, strict=True))


def test_only_what_fits_is_kept_and_only_from_the_second_product_on(monkeypatch):
    one = batch_graph.held_bytes(ln.curvature.Hessian(drawing())._first_graph().ends)
    calls = {}
    for batches in (0, 1, 2, 4):
        hessian = operator(drawing, ln.curvature.Hessian, batches * one + one // 2, monkeypatch)
        calls[batches] = []
        for vector in vectors(hessian.size):
            before = Drawing.calls
            hessian.derive([vector])
            calls[batches].append(Drawing.calls - before)
    first = calls[0][0]  # and the look at whether there is anything to be had cheaper
    assert calls == {n: [first, 4, 4 - n, 4 - n] for n in calls}


def test_a_gradient_alone_is_never_taken_from_what_is_kept():
    hessian = ln.curvature.Hessian(convolving())
    before = hessian.derive().gradient
    for vector in vectors(hessian.size, 3):
        hessian.derive([vector])
    assert torch.equal(hessian.derive().gradient, before)


@pytest.mark.parametrize("change", ["bn", "script"])
def test_what_would_not_last_is_not_kept(change):
    model, (x, y) = conv_net(), images()
    if change == "script":
        model, x = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(49, 5)).eval()), x
    objective = ln.Objective(model, "cross_entropy", (x, y), bn="batch" if change == "bn" else "frozen")
    hessian = ln.curvature.Hessian(objective)
    for vector in vectors(hessian.size, 3):
        hessian.derive([vector])
    assert hessian._keeper is None


def test_what_is_kept_goes_with_the_operator():
    hessian = ln.curvature.Hessian(convolving())
    for vector in vectors(hessian.size, 3):
        hessian.derive([vector])
    kept = [weakref.ref(tensor) for graph, _ in hessian._keeper._kept.values() for tensor in graph.ends]
    assert all(reference() is not None for reference in kept)
    gc.disable()  # at once, not when the garbage is next collected
    try:
        del hessian
        assert all(reference() is None for reference in kept)
    finally:
        gc.enable()


def test_the_bytes_of_a_graph():
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    assert batch_graph.held_bytes([x.exp()]) == 8000
    assert batch_graph.held_bytes([x.exp().exp(), x.sin()]) == 3 * 8000
    assert batch_graph.held_bytes([copy.deepcopy(x.detach())]) == 0
