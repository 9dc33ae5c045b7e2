"""Parts of a weight: the slice that one generator draws, and the piece that is computed at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_SLICE = 2**20  # entries that one generator draws; changing this changes the directions
_PIECE = 2**14  # entries computed at once: they fit into the cache, and are too few for torch to start threads


class DrawPart(NamedTuple):
    """A part of a weight seen as a matrix: some whole rows, or a part of one. It is contiguous in memory."""

    number: int
    rows: slice
    columns: slice


def slices(shape: torch.Size) -> list[DrawPart]:
    """Cut a weight into slices, one per generator: as many rows along the first axis as fit, or parts of a row."""
    rows, columns = matrix_shape(shape)
    return _cut(slice(0, rows), slice(0, columns), _SLICE)


def pieces(part: DrawPart) -> list[DrawPart]:
    """Cut a slice, in order, into the pieces that are computed at once."""
    return _cut(part.rows, part.columns, _PIECE)


def block(tensor: Tensor, part: DrawPart) -> Tensor:
    """Return a part of a weight as a matrix; for a contiguous tensor it is a view."""
    if tensor.dim() < 2:
        return tensor.reshape(1, -1)[:, part.columns]
    return tensor[part.rows].reshape(part.rows.stop - part.rows.start, -1)[:, part.columns]


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """Return rows and columns of a weight seen as a matrix of rows along its first axis; a vector is one row."""
    entries = math.prod(shape)
    return (1, entries) if len(shape) < 2 else (shape[0], entries // max(1, shape[0]))


def _cut(rows: slice, columns: slice, most: int) -> list[DrawPart]:
    """Cut a part into parts of at most `most` entries, in the order of memory."""
    width = columns.stop - columns.start
    tall, wide = max(1, most // max(1, width)), max(1, min(width, most))
    corners = [(r, c) for r in range(rows.start, rows.stop, tall) for c in range(columns.start, columns.stop, wide)]
    return [
        DrawPart(i, slice(r, min(r + tall, rows.stop)), slice(c, min(c + wide, columns.stop)))
        for i, (r, c) in enumerate(corners)
    ]
