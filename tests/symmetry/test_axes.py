"""Axes as trees: what is joined, cut and divided, on permutations that numpy enumerates."""

import itertools

import numpy as np
import pytest

from lossnav.symmetry.axes import Atom, Blank, Concatenation, Product, atoms, cut, divide, fix, fixed, merge, resolve


def free(axis):
    return [atom for atom in dict.fromkeys(atoms(axis)) if atom.reason is None]


def orders(axis, chosen):
    """The order of an axis' entries, written down entry by entry: a permutation for each free atom."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return list(chosen.get(axis, range(axis.size)))
    if isinstance(axis, Product):
        made = [0]
        for part in axis.parts:
            made = [i * part.size + j for i in made for j in orders(part, chosen)]
        return made
    if isinstance(axis, Concatenation):
        made = []
        for part in axis.parts:
            made += [len(made) + j for j in orders(part, chosen)]
        return made
    return list(range(axis.size))


def all_orders(*axes):
    """Every common choice of permutations of the free atoms of some axes, as the orders of these axes."""
    units = list(dict.fromkeys(atom for axis in axes for atom in free(axis)))
    for each in itertools.product(*(itertools.permutations(range(atom.size)) for atom in units)):
        yield [tuple(orders(axis, dict(zip(units, each, strict=True)))) for axis in axes]


def test_two_atoms_become_one():
    a, b = Atom(4), Atom(4)
    merge(a, b, "x")
    assert resolve(a) is resolve(b)
    fix(a, "because")
    assert next(atoms(b)).reason == "because"


def test_what_is_fixed_fixes_what_joins_it():
    a = Atom(3)
    merge(a, fixed(3, "first"), "second")
    assert next(atoms(a)).reason == "first"
    product = Product([Atom(2), Atom(3)])
    merge(product, fixed(6, "first"), "second")
    assert free(product) == []


def test_blank_constrains_nothing_and_takes_the_others_label():
    a = Atom(4)
    assert merge(Blank(4), a, "x") is a
    assert merge(a, Blank(4), "x") is a
    assert free(a) == [a]


def test_a_division_is_read_the_same_by_all_who_share_the_atom():
    a, b = Atom(12), Atom(12)
    merge(a, b, "x")
    outer, inner = divide(a, 4, "x")
    assert (outer.size, inner.size) == (3, 4)
    for first, second in all_orders(a, b):
        assert first == second
    assert [atom.size for atom in free(b)] == [3, 4]


@pytest.mark.parametrize(("left", "right"), [((2, 6), (4, 3)), ((12,), (3, 4)), ((2, 2, 3), (4, 3)), ((3, 4), (12,))])
def test_merged_products_permute_alike(left, right):
    a, b = (Product([Atom(size) for size in sizes]) for sizes in (left, right))
    merge(a, b, "x")
    seen = set()
    for first, second in all_orders(a, b):
        assert first == second
        seen.add(first)
    assert len(seen) > 1


def test_products_without_a_common_refinement_are_fixed():
    a, b = Product([Atom(2), Atom(3)]), Product([Atom(3), Atom(2)])
    merge(a, b, "why")
    assert free(a) == free(b) == []
    assert next(atoms(a)).reason == "why"


def test_merged_concatenations_permute_alike():
    a, b = Concatenation([Atom(2), Atom(5)]), Concatenation([Atom(4), Atom(3)])
    merge(a, b, "x")
    assert [atom.size for atom in free(a)] == [2, 2, 3]
    for first, second in all_orders(a, b):
        assert first == second


@pytest.mark.parametrize("sizes", [(3, 3, 3), (6, 3)])
def test_a_product_that_is_concatenated_elsewhere(sizes):
    a, b = Product([Atom(3), Atom(3)]), Concatenation([Atom(size) for size in sizes])
    merge(a, b, "x")
    for first, second in all_orders(a, b):
        assert first == second
    assert free(a)


def test_segments_that_are_read_as_rows_share_what_is_inside():
    a = Concatenation([Atom(4), Atom(2)])  # 4 and 2 entries, read as (3, 2)
    outer, inner = divide(a, 2, "x")
    whole = Product([outer, inner])
    for first, second in all_orders(a, whole):
        assert first == second
    assert sorted(atom.size for atom in free(a)) == [1, 2, 2] or sorted(atom.size for atom in free(a)) == [2, 2]


def test_cutting_a_product_inside_a_row_is_refused():
    a = Product([Atom(3), Atom(4)])
    pieces = cut(a, [6, 6], "cut")
    assert free(a) == [] and [piece.size for piece in pieces] == [6, 6]
    b = Product([Atom(3), Atom(4)])
    assert [piece.size for piece in cut(b, [4, 8], "cut")] == [4, 8]
    assert sorted(atom.size for atom in free(b)) == [2, 4]


def test_an_atom_is_never_part_of_itself():
    a, b = Atom(6), Atom(6)
    outer, _ = divide(a, 2, "x")
    merge(b, Product([outer, Atom(2)]), "x")
    merge(outer, fixed(3, "end"), "x")
    assert {atom.size for atom in free(b)} == {2}
    c = Atom(4)
    merge(c, Product([c, Atom(1)]), "x")  # itself, once factors of one entry are left out
    assert np.prod([atom.size for atom in atoms(c)]) == 4
