import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from lossnav import params as algebra


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_filters_and_back_is_the_identity(groups, inputs, outputs, size):
    weight = torch.randn(groups * inputs, outputs, size, size)
    for layout in (None, groups):
        rows = algebra.to_filters(weight, layout)
        assert torch.equal(algebra.from_filters(rows, weight.shape, layout), weight)
        assert rows.numel() == weight.numel()


def test_a_filter_feeds_one_output():
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False)
    x = torch.randn(1, 4, 3, 3)
    before = layer(x)
    for j in range(6):
        rows = algebra.to_filters(layer.weight.detach(), 2).clone()
        rows[j] += 1.0
        changed = torch.nn.functional.conv_transpose2d(x, algebra.from_filters(rows, layer.weight.shape, 2), groups=2)
        differs = (changed != before).flatten(2).any(2)[0]
        assert differs.tolist() == [i == j for i in range(6)]


@pytest.mark.parametrize(("shape", "rows"), [((), 1), ((5,), 1), ((4, 3), 4), ((4, 3, 2, 2), 4)])
def test_number_of_filters(shape, rows):
    assert algebra.to_filters(torch.zeros(shape)).shape[0] == rows


def test_dot_and_norm_accumulate_in_float64():
    a = {"w": torch.full((100_000,), 300.0, dtype=torch.float16)}  # 300^2 overflows float16
    assert algebra.norm(a) == pytest.approx(300 * 100_000**0.5, rel=1e-12)
    assert algebra.cosine(a, a) == pytest.approx(1)
    assert algebra.cosine(a, {"w": torch.zeros(100_000)}) != algebra.cosine(a, a)


def test_combine_is_the_centre_at_zero_and_keeps_dtype_and_layout():
    center = {
        "w": torch.randn(8, 4, 2, 2).to(memory_format=torch.channels_last),
        "h": torch.ones(3, dtype=torch.bfloat16),
    }
    step = {"w": torch.randn(8, 4, 2, 2), "h": torch.full((3,), 1e-3)}
    assert all(algebra.combine(center, [0.0], [step])[name] is center[name] for name in center)
    moved = algebra.combine(center, [0.5, 2.0], [step, step])
    assert moved["w"].is_contiguous(memory_format=torch.channels_last)
    assert moved["h"].dtype == torch.bfloat16
    assert torch.allclose(moved["w"], center["w"] + 2.5 * step["w"], atol=1e-6)
    # rounded once, in the end: 4 steps of 1e-3 from 1 are lost one by one in bfloat16 (spacing 8e-3) but not together
    assert algebra.combine({"h": center["h"]}, [1.0] * 4, [{"h": step["h"]}] * 4)["h"][0] > 1


def test_first_difference_names_it():
    a, b = {"x": torch.zeros(2), "y": torch.zeros(3)}, {"x": torch.zeros(2), "y": torch.zeros(4)}
    assert algebra.first_difference(a, a) is None
    assert algebra.first_difference(a, b) == '"y": (3,) vs (4,)'
    assert "missing" in algebra.first_difference({"x": a["x"]}, a)
    assert "not in" in algebra.first_difference(a, {"x": a["x"]})


def test_fingerprint_sees_every_bit():
    a = {"w": torch.zeros(3), "e": torch.zeros(0)}
    b = {"w": torch.tensor([0.0, 0.0, -0.0]), "e": torch.zeros(0)}
    assert algebra.fingerprint(a) == algebra.fingerprint(algebra.copy(a)) != algebra.fingerprint(b)


def test_select_keeps_order():
    assert algebra.select(["b.w", "a.w", "a.b"], ["a.*", "*.w"]) == ["b.w", "a.w", "a.b"]
