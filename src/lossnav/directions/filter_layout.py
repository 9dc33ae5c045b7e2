"""The filters of a weight, seen as a matrix: sums over each filter, and factors for each filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossnav.directions.draw_parts import DrawPart, matrix_shape

# this many directions are summed one by one, not by matrix products: their bits depend neither on n nor on a library
ONE_BY_ONE = 8


class FilterLayout(NamedTuple):
    """The positions of the filters of a weight that is seen as a matrix of rows along its first axis.

    A group consists of `height` rows. If filters lie along the second axis, a group contains `outputs` filters side by
    side, each of `span` columns; else a group is a filter.
    """

    groups: int
    height: int
    outputs: int
    span: int
    entries: int

    @property
    def filters(self) -> int:
        """Number of filters."""
        return self.groups * self.outputs

    @property
    def width(self) -> int:
        """Columns with separate sums."""
        return self.outputs * self.span

    def zeros(self, count: int) -> Tensor:
        """Return zeros to add sums to, shape (count, groups, width)."""
        return torch.zeros(count, self.groups, self.width, dtype=torch.float64, device="cpu")

    def gather(self, sums: Tensor) -> Tensor:
        """Add up sums of shape (k, groups, width) to shape (k, filters)."""
        return sums.reshape(len(sums), self.filters, self.span).sum(2)

    def add_products(self, sums: Tensor, drawn: Tensor, group: Tensor, piece: DrawPart) -> None:
        """Add the inner products of directions in a piece, without those of the first few, which are summed one by one.

        Parameters
        ----------
        sums : Tensor of shape (n, n, groups, width)
        drawn : Tensor of shape (n, rows, columns)
        group : Tensor of shape (rows,)
            The group of each row.
        """
        n, few = len(drawn), ONE_BY_ONE
        if self.filters == 1:
            found = (drawn.reshape(n, -1) @ drawn.reshape(n, -1).T)[:, :, None, None]
            found[:few, :few] = 0
            sums += found
        elif self.width == 1 and self.height == 1:
            found = torch.bmm(drawn.transpose(0, 1), drawn.permute(1, 2, 0)).permute(1, 2, 0)  # (n, n, rows)
            found[:few, :few] = 0
            sums.squeeze(3).index_add_(2, group, found)
        else:
            for i in range(n):
                products = drawn[i] * drawn
                if i < few:
                    products[:few] = 0
                if self.width > 1:
                    sums[i, :, :, piece.columns].index_add_(1, group, products)
                else:
                    sums[i].index_add_(1, group, products.sum(2, keepdim=True))

    def combine(self, matrix: Tensor, spread: Tensor, many: Sequence[int], drawn: Mapping[int, Tensor]) -> Tensor:
        """Compute some directions in a piece: sums over j of C_ij g_j, shape (len(many), rows, columns).

        Parameters
        ----------
        matrix : Tensor of shape (n, n, filters)
            C.
        spread : Tensor of shape (n, n, rows, 1 or columns)
            C as `spread` returns it, in this piece.
        many : sequence of int
            The directions i.
        drawn : mapping of int to Tensor of shape (rows, columns)
            g_j, for all j up to the last of `many`.
        """
        all_drawn = torch.stack([drawn[j] for j in range(max(many) + 1)])  # (m, rows, columns)
        m = len(all_drawn)
        if self.filters == 1:
            flat: Tensor = matrix[list(many), :m, 0] @ all_drawn.reshape(m, -1)
            return flat.reshape(len(many), *all_drawn.shape[1:])
        if spread.shape[3] == 1:
            factors = spread[list(many), :m, :, 0].permute(2, 0, 1)  # (rows, k, m)
            return torch.bmm(factors, all_drawn.transpose(0, 1)).transpose(0, 1)
        return torch.stack([(spread[i, :m] * all_drawn).sum(0) for i in many])

    def spread(self, matrix: Tensor) -> Tensor:
        """Expand factors from (n, m, filters) to (n, m, rows, width); a view if a group is one row, or all rows."""
        n, m = matrix.shape[:2]
        of_groups = matrix.reshape(n, m, self.groups, 1, self.outputs, 1).expand(-1, -1, -1, -1, -1, self.span)
        of_groups = of_groups.reshape(n, m, self.groups, 1, self.width)
        return of_groups.expand(-1, -1, -1, self.height, -1).reshape(n, m, self.groups * self.height, self.width)


def layout_of(shape: torch.Size, by_filter: bool, transposed_groups: int | None) -> FilterLayout:
    """Return the layout: one filter per row or, as in `params.to_filters`, along the second axis; else one filter."""
    rows, columns = matrix_shape(shape)
    if not by_filter or len(shape) < 2:
        return FilterLayout(1, rows, 1, 1, rows * columns)
    if transposed_groups is None:
        return FilterLayout(rows, 1, 1, 1, columns)
    height, outputs = rows // transposed_groups, shape[1]
    span = columns // max(1, outputs)
    return FilterLayout(transposed_groups, height, outputs, span, height * span)
