"""A whole model as one kernel gives what torch gives, or says what it cannot do."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fusible import CASES, HALF, AddsItsData, fuse, images, ready, state_of, vectors
from lossnav.acceleration import compiler
from lossnav.acceleration.kernel import Kernel
from lossnav.acceleration.trace_reader import read

pytestmark = pytest.mark.skipif(not compiler.can_compile(), reason="no C++ compiler")


@pytest.mark.parametrize("case", CASES)
def test_a_fused_model_gives_what_torch_gives(case):
    model, x = ready(case)
    fused = fuse(model, x)
    for n in (30, 1, 13):
        torch.testing.assert_close(fused(x[:n]), model(x[:n]).detach(), rtol=2e-5, atol=2e-5)


@HALF
@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_half_precise(case):
    model, x = ready(case)
    truth, got = model(x).detach(), fuse(model, x, half=True)(x)
    error = float((got - truth).norm() / truth.norm())
    assert 1e-5 < error < 0.02


@pytest.mark.parametrize("case", CASES)
def test_what_overflows_overflows(case):
    model, x = ready(case)
    fused = fuse(model, x)
    x = x.clone()
    x[0].view(-1)[3] = torch.nan
    x[1].view(-1)[3] = torch.inf
    truth, got = model(x).detach(), fused(x)
    assert not torch.isfinite(truth[:2]).all()
    torch.testing.assert_close(got.isfinite(), truth.isfinite())
    torch.testing.assert_close(got[2:], truth[2:], rtol=2e-5, atol=2e-5)


def test_any_number_of_threads_will_do():
    model, x = ready("residual")
    fused, before = fuse(model, x), torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made.append(fused(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    torch.testing.assert_close(made[0], made[2])  # smaller parts of the data: rounded otherwise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_defaults_do_not_matter(dtype):
    torch.manual_seed(0)
    model, x = AddsItsData().eval(), vectors(13)
    expected = model(x)
    torch.set_default_dtype(dtype)
    try:
        made = fuse(model, x)(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)


@HALF
def test_a_diverged_point_leaves_nothing_behind():
    """Odd channels are read in pairs: what stands beside the last one must not matter, nor what stood there before."""
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)).eval()
    x, state = images(3, 6, 8), state_of(model)
    made = Kernel(read(lambda weights, x: functional_call(model, weights, (x,)), state, x[:3]), half=True)
    made.load(state)
    before = made([x])
    made.load({name: 1e38 * tensor for name, tensor in state.items()})
    assert not made([x]).isfinite().all()
    made.load(state)
    assert torch.equal(made([x]), before)
    x = x.clone()
    x[0] = torch.inf
    assert made([x]).isfinite()[1:].all()
