"""What permutes along an axis: a tree of products and concatenations over atoms, joined by union-find.

An axis of 3·12·64 that a fused attention layer reads as (3, heads, width) is a *product* of three factors; one that a
concatenation made is a *concatenation* of segments. An `Atom` is a factor whose entries have not been told apart: each
atom that is still free at the end is a group of permutations. A rule of an operator says that two axes are one
(`merge`), that an axis is read as several (`divide`, `cut`), or that the order of its entries matters (`fix`).
Where two readings of an axis have no common refinement the axis is fixed: fewer groups, never a wrong one.

`Blank` is an axis along which all values are alike, as that of zeros or of an expanded tensor: no order can matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

AxisTree: TypeAlias = "Atom | Blank | Product | Concatenation"


class Atom:
    """A factor of an axis.

    Attributes
    ----------
    size : int
    bound : AxisTree or None
        What it was found to be: another atom, or a refinement of its own.
    reason : str or None
        Why its entries cannot be permuted.
    idle, used : bool
        Whether a sum over it was with constants (a first hidden state of zeros), and whether one was with data. What
        was summed with constants alone says nothing of how it is to be permuted.
    """

    __slots__ = ("bound", "idle", "reason", "size", "used")

    def __init__(self, size: int, reason: str | None = None, like: Atom | None = None) -> None:
        self.size, self.reason = size, reason
        self.idle: bool = like is not None and like.idle
        self.used: bool = like is not None and like.used
        self.bound: AxisTree | None = None


class Blank:
    """An axis along which all values are alike."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


class Product:
    """Factors, the outermost first: entry (i, j) lies at i · size(j) + j."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[AxisTree]) -> None:
        self.parts = tuple(parts)
        self.size: int = math.prod(part.size for part in self.parts)


class Concatenation:
    """Segments, one after the other."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[AxisTree]) -> None:
        self.parts = tuple(parts)
        self.size: int = sum(part.size for part in self.parts)


ONE = Blank(1)


# ---------------------------------------------------------------------- normal forms


def product(parts: Sequence[AxisTree]) -> AxisTree:
    """Join factors; what is nested is flattened, factors of one entry are left out."""
    flat: list[AxisTree] = []
    for part in map(resolve, parts):
        flat += part.parts if isinstance(part, Product) else [part] if part.size != 1 else []
    if all(isinstance(part, Blank) for part in flat):
        return Blank(math.prod(part.size for part in flat))
    return flat[0] if len(flat) == 1 else Product(flat)


def concatenation(parts: Sequence[AxisTree]) -> AxisTree:
    """Join segments; two blank ones stay two, since their values may differ."""
    flat: list[AxisTree] = []
    for part in map(resolve, parts):
        flat += part.parts if isinstance(part, Concatenation) else [part] if part.size else []
    return flat[0] if len(flat) == 1 else Concatenation(flat)


def resolve(axis: AxisTree) -> AxisTree:
    """Return what an axis is by now, in normal form."""
    if axis.size == 1:
        return ONE
    if isinstance(axis, Atom):
        if axis.bound is None:
            return axis
        axis.bound = resolve(axis.bound)  # the next look is short
        return axis.bound
    if isinstance(axis, Product):
        return product(axis.parts)
    return concatenation(axis.parts) if isinstance(axis, Concatenation) else axis


def atoms(axis: AxisTree) -> Iterator[Atom]:
    """All atoms of an axis, from left to right."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        yield axis
    elif isinstance(axis, Product | Concatenation):
        for part in axis.parts:
            yield from atoms(part)


# ---------------------------------------------------------------------- what rules say


def fixed(size: int, reason: str) -> AxisTree:
    """Return an axis whose entries are told apart."""
    return ONE if size == 1 else Atom(size, reason)


def fix(axis: AxisTree, reason: str) -> AxisTree:
    """The order of the entries matters; the first reason given is kept."""
    for atom in atoms(axis):
        if atom.reason is None:
            atom.reason = reason
    return axis


def mark_sum(axis: AxisTree, other: AxisTree) -> None:
    """Entries of an axis are summed up with those of another, which may be constants."""
    constant = isinstance(resolve(other), Blank)
    for atom in atoms(axis):
        atom.idle, atom.used = atom.idle or constant, atom.used or not constant


def merge(a: AxisTree, b: AxisTree, reason: str) -> AxisTree:
    """Two axes are permuted alike; where they have no common refinement both are fixed, for this reason."""
    a, b = resolve(a), resolve(b)
    if a is b or isinstance(b, Blank):
        return a
    if isinstance(a, Blank):
        return b
    if isinstance(a, Atom) and isinstance(b, Atom):
        if b.reason is not None:
            a, b = b, a
        b.bound, a.idle, a.used = a, a.idle or b.idle, a.used or b.used
        return a
    if isinstance(a, Atom):
        return _refine(a, b, reason)
    if isinstance(b, Atom):
        return _refine(b, a, reason)
    if isinstance(a, Product) and isinstance(b, Product):
        return _merge_products(a, b, reason)
    if isinstance(a, Concatenation) and isinstance(b, Concatenation):
        sizes = _common(a, b)
        return concatenation(
            [merge(x, y, reason) for x, y in zip(cut(a, sizes, reason), cut(b, sizes, reason), strict=True)]
        )
    if isinstance(b, Product):
        a, b = b, a
    assert isinstance(a, Product) and isinstance(b, Concatenation)
    inner, last = a.size // a.parts[0].size, a.parts[-1]
    sizes = [part.size for part in b.parts]
    if not any(size % inner for size in sizes):
        return concatenation([merge(x, y, reason) for x, y in zip(cut(a, sizes, reason), b.parts, strict=True)])
    if not any(size % last.size for size in sizes):
        outside, inside = divide(b, last.size, reason)
        inside = merge(inside, last, reason)
        return product([merge(product(a.parts[:-1]), outside, reason), inside])
    return _give_up(a, b, reason)


def divide(axis: AxisTree, inner: int, reason: str) -> tuple[AxisTree, AxisTree]:
    """Read an axis as two, the inner one of this size (which divides its own)."""
    axis = resolve(axis)
    outer = axis.size // inner
    if inner == 1:
        return axis, ONE
    if outer == 1:
        return ONE, axis
    if isinstance(axis, Blank):
        return Blank(outer), Blank(inner)
    if isinstance(axis, Atom):
        if axis.reason is not None:
            return fixed(outer, axis.reason), fixed(inner, axis.reason)
        halves: list[AxisTree] = [Atom(outer, like=axis), Atom(inner, like=axis)]
        axis.bound = Product(halves)
        return halves[0], halves[1]
    if isinstance(axis, Product):
        rest, last = product(axis.parts[:-1]), axis.parts[-1]
        if inner % last.size == 0:
            outside, inside = divide(rest, inner // last.size, reason)
            return outside, product([inside, last])
        if last.size % inner == 0:
            outside, inside = divide(last, inner, reason)
            return product([rest, outside]), inside
    elif not any(part.size % inner for part in axis.parts):
        every = [divide(part, inner, reason) for part in axis.parts]
        inside = every[0][1]
        for _, other in every[1:]:
            inside = merge(inside, other, reason)
        return concatenation([outside for outside, _ in every]), inside
    fix(axis, reason)
    return fixed(outer, reason), fixed(inner, reason)


def cut(axis: AxisTree, sizes: Sequence[int], reason: str) -> list[AxisTree]:
    """Read an axis as segments of these sizes."""
    axis = resolve(axis)
    if len(sizes) == 1:
        return [axis]
    if isinstance(axis, Blank):
        return [Blank(size) for size in sizes]
    if isinstance(axis, Atom):
        if axis.reason is not None:
            return [fixed(size, axis.reason) for size in sizes]
        parts: list[AxisTree] = [Atom(size, like=axis) for size in sizes]
        axis.bound = Concatenation(parts)
        return parts
    if isinstance(axis, Product):
        inner = axis.size // axis.parts[0].size
        if not any(size % inner for size in sizes):
            outside = cut(axis.parts[0], [size // inner for size in sizes], reason)
            return [product([part, *axis.parts[1:]]) for part in outside]
        fix(axis, reason)
        return [fixed(size, reason) for size in sizes]
    return _cut_segments(axis.parts, sizes, reason)


# ---------------------------------------------------------------------- helpers


def _refine(atom: Atom, axis: AxisTree, reason: str) -> AxisTree:
    """An atom is found to be a product or a concatenation."""
    if atom.reason is not None:
        fix(axis, atom.reason)
        return atom
    if any(other is atom for other in atoms(axis)):
        fix(axis, reason)
        return fix(atom, reason)
    atom.bound = _without_blanks(axis, atom)
    for part in atoms(atom.bound):
        part.idle, part.used = part.idle or atom.idle, part.used or atom.used
    return atom.bound


def _without_blanks(axis: AxisTree, atom: Atom) -> AxisTree:
    """A weight that meets what is blank in parts is not blank there: it has an order of its own."""
    if isinstance(axis, Product):
        return Product([_without_blanks(part, atom) for part in axis.parts])
    if isinstance(axis, Concatenation):
        return Concatenation([_without_blanks(part, atom) for part in axis.parts])
    return Atom(axis.size, like=atom) if isinstance(axis, Blank) and axis.size > 1 else axis


def _merge_products(a: Product, b: Product, reason: str) -> AxisTree:
    """From the inside outwards."""
    if a.parts[-1].size < b.parts[-1].size:
        a, b = b, a
    rest, last = product(a.parts[:-1]), a.parts[-1]
    inner = b.parts[-1]
    if last.size % inner.size:
        return _give_up(a, b, reason)
    outside, inside = divide(last, inner.size, reason)
    inside = merge(inside, inner, reason)
    return product([merge(product([rest, outside]), product(b.parts[:-1]), reason), inside])


def _give_up(a: AxisTree, b: AxisTree, reason: str) -> AxisTree:
    fix(a, reason)
    fix(b, reason)
    return fixed(a.size, reason)


def _common(a: Concatenation, b: Concatenation) -> list[int]:
    """Sizes of the segments between the ends of all segments of both."""
    ends: set[int] = set()
    for one in (a, b):
        end = 0
        for part in one.parts:
            ends.add(end := end + part.size)
    stops = sorted(ends)
    return [stop - start for start, stop in pairwise([0, *stops])]


def _cut_segments(parts: Sequence[AxisTree], sizes: Sequence[int], reason: str) -> list[AxisTree]:
    stops, end = set(), 0
    for size in sizes:
        stops.add(end := end + size)
    pieces: list[AxisTree] = []
    start = 0
    for part in parts:
        inside = sorted(stop - start for stop in stops if start < stop < start + part.size)
        bounds = [0, *inside, part.size]
        pieces += cut(part, [b - a for a, b in pairwise(bounds)], reason)
        start += part.size
    made: list[AxisTree] = []
    waiting = iter(pieces)
    for size in sizes:
        own: list[AxisTree] = []
        while sum(piece.size for piece in own) < size:
            own.append(next(waiting))
        made.append(concatenation(own) if own else Blank(0))
    return made
