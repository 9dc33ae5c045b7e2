"""Cells of a refined grid, and the points that they consist of."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

Key = tuple[int, ...]  # a point: its coordinates in units of half the smallest cell, without its shift


@dataclass(frozen=True)
class Cell:
    """A cube of side `size` whose lowest corner is `corner`."""

    corner: Key
    size: int

    @property
    def middle(self) -> Key:
        """Its midpoint."""
        return tuple(c + self.size // 2 for c in self.corner)

    def nodes(self) -> list[Key]:
        """Return the corners of its 2^k parts: its own corners, and the midpoints of edges, faces and the cell."""
        half = self.size // 2
        steps = itertools.product((0, half, self.size), repeat=len(self.corner))
        return [tuple(c + s for c, s in zip(self.corner, step, strict=True)) for step in steps]

    def corners(self) -> list[Key]:
        """Return its 2^k corners."""
        steps = itertools.product((0, self.size), repeat=len(self.corner))
        return [tuple(c + s for c, s in zip(self.corner, step, strict=True)) for step in steps]

    def parts(self) -> list[Cell]:
        """Return the 2^k cells of half the size into which it is divided."""
        half = self.size // 2
        steps = itertools.product((0, half), repeat=len(self.corner))
        return [Cell(tuple(c + s for c, s in zip(self.corner, step, strict=True)), half) for step in steps]
