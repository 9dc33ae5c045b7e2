"""Acting with permutations, entry by entry against loops of plain Python."""

import itertools

import pytest
import torch

from lossnav.symmetry.groups import Action, Layout, PermutationGroup, compose, draw, identity, permute, permuted
from lossnav.symmetry.matching import coordinates, rows

HEADS, WIDTH, FREE = Layout("unit", 3, "heads"), Layout("unit", 2, "width", (), "heads"), Layout("unit", 4)
GROUPS = [PermutationGroup("heads", 3), PermutationGroup("width", 2, within="heads")]
PRODUCT = Layout("product", 6, None, (HEADS, WIDTH))


def chosen(seed):
    return draw(GROUPS, torch.Generator().manual_seed(seed))


def test_a_width_is_permuted_in_each_head_by_itself():
    p = chosen(0)
    tensor = torch.arange(24.0).reshape(4, 6)
    made = permuted(tensor, (FREE, PRODUCT), p)
    for i, j in itertools.product(range(3), range(2)):
        source = int(p["heads"][i]) * 2 + int(p["width"][i, j])
        assert torch.equal(made[:, 2 * i + j], tensor[:, source])


def test_an_inner_group_on_another_axis_is_permuted_slice_by_slice():
    p = chosen(1)
    tensor = torch.randn(3, 4, 2)
    made = permuted(tensor, (HEADS, FREE, WIDTH), p)
    for i in range(3):
        assert torch.equal(made[i], tensor[int(p["heads"][i])][:, p["width"][i]])


def test_segments_are_permuted_alike_or_not_at_all():
    axis = Layout("concatenation", 16, None, (PRODUCT, FREE, PRODUCT))
    p = chosen(2)
    made = permuted(torch.arange(16), (axis,), p)
    assert made[6:10].tolist() == [6, 7, 8, 9]
    assert torch.equal(made[10:] - 10, made[:6])


@pytest.mark.parametrize("axes", [(FREE, PRODUCT), (PRODUCT, FREE)])
def test_composed_permutations_do_one_after_the_other(axes):
    tensor = torch.randn(*(axis.size for axis in axes))
    first, second = chosen(3), chosen(4)
    both = compose(first, second, GROUPS)
    assert torch.equal(permuted(permuted(tensor, axes, first), axes, second), permuted(tensor, axes, both))


def test_the_identity_changes_nothing_and_a_draw_is_no_identity():
    tensor = torch.randn(6)
    assert torch.equal(permuted(tensor, (PRODUCT,), identity(GROUPS)), tensor)
    for seed in range(20):
        p = chosen(seed)
        assert p["heads"].tolist() != [0, 1, 2] and all(row.tolist() == [1, 0] for row in p["width"])


def test_tensors_that_are_permuted_among_each_other():
    action = Action(("a", "b", "c"), (HEADS, WIDTH))
    state = {name: torch.randn(2) for name in "abcd"}
    p = chosen(5)
    made = permute(state, [action], p)
    for i, name in enumerate("abc"):
        source = "abc"[int(p["heads"][i])]
        assert torch.equal(made[name], state[source][p["width"][i]])
    assert made["d"] is state["d"]


def test_units_are_told_apart_entry_by_entry():
    axis = Layout("concatenation", 16, None, (PRODUCT, FREE, PRODUCT))
    assert coordinates(axis, "heads").tolist() == [0, 0, 1, 1, 2, 2, -1, -1, -1, -1, 0, 0, 1, 1, 2, 2]
    assert coordinates(axis, "width").tolist() == [0, 1] * 3 + [-1] * 4 + [0, 1] * 3
    tensor = torch.arange(32.0).reshape(16, 2)
    (matrix,) = rows(tensor, (axis, Layout("unit", 2)), "heads")
    assert matrix.shape == (3, 8)
    assert matrix[1].tolist() == [4, 5, 6, 7, 24, 25, 26, 27]


def test_another_group_of_as_many_units_is_no_outer_one():
    other = Layout("unit", 3, "other")  # as many as heads
    p = chosen(6) | {"other": torch.tensor([2, 0, 1])}
    tensor = torch.randn(3, 6)
    made = permuted(tensor, (other, PRODUCT), p)
    assert torch.equal(made, permuted(tensor[p["other"]], (Layout("unit", 3), PRODUCT), p))
    deep = Layout("product", 18, None, (other, HEADS, WIDTH))
    rows = permuted(torch.arange(18), (deep,), p).reshape(3, 3, 2)
    for i, j, k in itertools.product(range(3), range(3), range(2)):
        source = int(p["other"][i]) * 6 + int(p["heads"][j]) * 2 + int(p["width"][j, k])
        assert int(rows[i, j, k]) == source
