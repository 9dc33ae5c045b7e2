"""Gram-Schmidt in the coordinates of the draws: the triangular matrix C that makes directions orthogonal."""

from __future__ import annotations

import torch
from torch import Tensor

from lossnav.directions.filter_layout import ONE_BY_ONE


def triangle(gram: Tensor, squares: Tensor, orthogonal: bool, entries: int) -> tuple[Tensor, list[float]]:
    """Compute C from inner products G, so that C G C^T is diagonal (if orthogonal) with the given squares.

    Gram-Schmidt in the coordinates of the draws, for all filters at once. A filter of m entries has only m orthogonal
    directions; further directions are zero there.

    Parameters
    ----------
    gram : Tensor of shape (n, n, filters); (n, 1, filters) if directions are not made orthogonal
        G.
    squares : Tensor of shape (n, filters)
        Squared norms of the resulting directions. Zeros stay zeros.
    entries : int
        The number of entries of a filter.

    Returns
    -------
    matrix : Tensor of the shape of gram
        C, or its diagonal only.
    left : list of floats, one per direction
        The part of a direction's squared length that Gram-Schmidt leaves, in the filter where it is smallest.
    """
    if not orthogonal:
        return torch.sqrt(squares[:, None] / torch.where(gram > 0, gram, 1.0)), [1.0] * len(gram)
    matrix, left = torch.zeros_like(gram), []
    rest = _rest_of_triangle(gram, squares, entries) if len(gram) > ONE_BY_ONE else None
    for i in range(len(gram) if rest is None else ONE_BY_ONE):
        row = torch.zeros_like(gram[i])
        row[i] = 1.0
        for earlier in matrix[:i]:
            image = torch.einsum("jkf,kf->jf", gram, earlier)
            length = (earlier * image).sum(0)
            row = row - (row * image).sum(0) / torch.where(length > 0, length, 1.0) * earlier
        square = torch.einsum("jf,jkf,kf->f", row, gram, row)
        if i >= entries:
            left.append(0.0)
            continue
        own = gram[i, i]
        left.append(float(torch.where(own > 0, square / own, 1.0).min()) if own.numel() else 1.0)
        matrix[i] = row * torch.sqrt(squares[i] / torch.where(square > 0, square, 1.0))
    if rest is not None:
        matrix[ONE_BY_ONE:] = rest[0]
        left += rest[1]
    return matrix, left


def _rest_of_triangle(gram: Tensor, squares: Tensor, entries: int) -> tuple[Tensor, list[float]] | None:
    """Return the rows of C after the first few: those of L^-1, scaled, where G = L L^T. None if G has no such L.

    Gram-Schmidt row by row takes time proportional to n^4; this takes n^3.
    """
    n, few, room = len(gram), ONE_BY_ONE, min(len(gram), entries)
    inner = gram[:room, :room].permute(2, 0, 1).contiguous()
    own = inner.diagonal(dim1=1, dim2=2)
    factor, failed = torch.linalg.cholesky_ex(inner)
    if bool(failed.any()) or not len(inner):
        return None
    unit = torch.eye(room, dtype=gram.dtype, device=gram.device).expand_as(factor)
    rows = torch.linalg.solve_triangular(factor, unit, upper=False)  # each of length 1
    made = torch.zeros_like(gram[few:])
    scaled = rows * torch.sqrt(squares[:room]).T[:, :, None]
    made[: max(0, room - few), :room] = scaled[:, few:].permute(1, 2, 0)
    parts = (factor.diagonal(dim1=1, dim2=2).square() / own).amin(0).tolist()
    return made, [*parts[few:], *[0.0] * (n - max(room, few))]
