"""Random directions from counter-based generators, computed in slices: no tensor need be held in memory as a whole.

The directions of one call are random draws times a small lower triangular matrix C, one per filter (or per tensor, or
one for all)::

    d_i = sum_{j <= i} C_ij g_j          times |theta|, entry by entry, for normalize="weight"

g_j is the draw for direction j. C contains Gram-Schmidt and the norms; it is computed from inner products of the draws,
which are summed slice by slice. From C and the seed, any part of a direction can be computed again.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav._utils.threads import in_threads, raise_if_stopped
from lossnav.directions.draw_parts import DrawPart, block, pieces, slices
from lossnav.directions.filter_layout import ONE_BY_ONE, layout_of
from lossnav.directions.gram_schmidt import triangle
from lossnav.errors import DirectionError
from lossnav.params import Params, hollow

if TYPE_CHECKING:
    from lossnav._utils.progress import Progress

_NEARLY_PARALLEL = 1e-4  # part of a squared length left by Gram-Schmidt: four digits are lost, so it is repeated
_NO_ROOM = 1e-12  # part of a squared length: less is rounding


def way_out(params: Mapping[str, Tensor], n: int, normalize: str | None, room: int) -> str:
    """Return what to type if n orthogonal directions do not exist for a normalisation, or the weights are zero.

    Parameters
    ----------
    params : mapping of str to Tensor
        The moving parameters.
    n, normalize
        The options of the call.
    room : int
        The number of orthogonal directions with that normalisation.

    Returns
    -------
    str
        A sentence or two: the number that is possible, and a normalisation for which n directions exist.
    """
    fewer = f"Ask for {room} or fewer" if room else ""
    if normalize is None:
        return f"{fewer}."
    layers = max((tensor.numel() for tensor in params.values() if bool((tensor != 0).any())), default=0)
    total = sum(tensor.numel() for tensor in params.values())
    if normalize == "filter" and n <= layers:
        other = "normalize='layer'"
    elif n <= total:
        other = "normalize=None"
    else:
        most = f"n={total}, normalize=None."
        return f"{fewer}." if room == total else f"{fewer}, or for {most}" if fewer else f"Ask for {most}"
    return f"{fewer}, or use {other}." if fewer else f"Use {other}."


_TELLING = threading.Lock()


class Draws:
    """The n directions of one call: draws that can be repeated, and the matrices C.

    Parameters
    ----------
    params : mapping of str to Tensor
        The moving parameters. Their values are kept only for ``normalize="weight"``.
    n, seed, distribution, normalize, orthogonal
        As in `directions.random`.
    transposed : mapping of str to int
        Weights whose filters lie along the second axis, with their number of groups.
    progress : Progress, optional
        Advanced after every piece, by the number of its entries in all directions.

    Attributes
    ----------
    like : dict of str to Tensor
        Zeros that take no memory, with the shapes, dtypes and devices of the directions.
    left_out : list of int
        For each direction, the number of filters in which it is zero because they have too few entries.

    Raises
    ------
    DirectionError
        If there are no n orthogonal directions.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        n: int,
        *,
        seed: int,
        distribution: str,
        normalize: str | None,
        orthogonal: bool,
        transposed: Mapping[str, int],
        progress: Progress | None = None,
    ) -> None:
        self._progress = progress
        self.n, self.seed, self.distribution, self.orthogonal = n, seed, distribution, orthogonal
        self.like = {name: hollow(tensor) for name, tensor in params.items()}
        self.left_out = [0] * n
        by_filter = normalize == "filter"
        self._layouts = {name: layout_of(t.shape, by_filter, transposed.get(name)) for name, t in params.items()}
        self._weights = dict(params) if normalize == "weight" else {}
        self._matrices: Params = {}  # C of each tensor, (n, n, filters), or its diagonal, (n, 1, filters)
        room = max((layout.entries for layout in self._layouts.values()), default=0)
        if orthogonal and normalize in ("filter", "layer") and n > room:
            scaled = [layout.entries for name, layout in self._layouts.items() if bool((params[name] != 0).any())]
            what = "filters" if normalize == "filter" else "layers"
            raise DirectionError(
                f"Direction {room + 1} of {n} is zero: the {what} are too small for {n} orthogonal directions. "
                f"{way_out(params, n, normalize, max(scaled, default=0))}"
            )
        if normalize in ("filter", "layer"):
            self._find_matrices(params)
        elif orthogonal and n > 1:
            self._find_one_matrix(params)

    def pieces(self, name: str, part: DrawPart, wanted: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Compute a slice of the wanted directions, piece by piece, in their dtype and on their device."""
        like = self.like[name]
        for _, made in self._pieces(name, part, wanted):
            yield {i: values.to(like.device, like.dtype) for i, values in made.items()}

    def finish(self) -> None:
        """Stop advancing the progress bar."""
        self._progress = None

    def fill(self, wanted: Mapping[str, Mapping[int, Tensor]]) -> None:
        """Write directions into contiguous tensors, given by the name and the number of the direction."""

        def write(job: tuple[str, DrawPart]) -> None:
            name, part = job
            for piece, made in zip(pieces(part), self.pieces(name, part, list(wanted[name])), strict=True):
                for i, values in made.items():
                    block(wanted[name][i], piece).copy_(values)

        in_threads(write, self._jobs(wanted))

    def measure(self) -> tuple[dict[str, list[float]], NDArray[np.float64]]:
        """Compute norms and inner products of the directions, in float64.

        Returns
        -------
        norms : dict of str to list of n floats
            Frobenius norm of each tensor of each direction.
        gram : ndarray of shape (n, n)
            Inner products of the directions.
        """

        def products(job: tuple[str, DrawPart]) -> NDArray[np.float64]:
            total = np.zeros((self.n, self.n))
            for _, made in self._pieces(*job, range(self.n)):
                wide = [values.to(self.like[job[0]].dtype).double() for values in made.values()]
                few = [[float(torch.sum(a * b)) for b in wide[:ONE_BY_ONE]] for a in wide[:ONE_BY_ONE]]
                found = np.array(few)
                if self.n > ONE_BY_ONE:
                    flat = torch.stack(wide).reshape(self.n, -1)
                    found = (flat @ flat.T).numpy()
                    found[: len(few), : len(few)] = few
                total += found
            return total

        jobs = self._jobs(self.like)
        of_tensors = {name: np.zeros((self.n, self.n)) for name in self.like}
        for (name, _), found in zip(jobs, in_threads(products, jobs), strict=True):
            of_tensors[name] += found
        norms = {name: [math.sqrt(square) for square in found.diagonal()] for name, found in of_tensors.items()}
        return norms, np.sum(list(of_tensors.values()), axis=0)

    def still(self, name: str) -> int:
        """Count the entries of a tensor that are zero in all directions: filters of norm zero, or zero weights."""
        if (weights := self._weights.get(name)) is not None:
            return weights.numel() - int(torch.count_nonzero(weights))
        if (matrix := self._matrices.get(name)) is None:
            return 0
        layout = self._layouts[name]
        filters = int((matrix == 0).all(0).all(0).sum())
        return self.like[name].numel() if len(matrix[0, 0]) != layout.filters and filters else filters * layout.entries

    # ------------------------------------------------------------------ inside: draws

    def _jobs(self, names: Mapping[str, object]) -> list[tuple[str, DrawPart]]:
        return [(name, part) for name in names for part in slices(self.like[name].shape)]

    def _pieces(self, name: str, part: DrawPart, wanted: Sequence[int]) -> Iterator[tuple[DrawPart, dict[int, Tensor]]]:
        """Compute a slice of the wanted directions, piece by piece, in float64 on the CPU."""
        matrix = self._matrices.get(name)
        terms = {i: range(i + 1) if matrix is not None and self.orthogonal else (i,) for i in wanted}
        generators = {j: self._generator(j, name, part) for j in sorted({j for row in terms.values() for j in row})}
        weights = self._weights.get(name)
        spread = None if matrix is None else self._layouts[name].spread(matrix)  # (n, n, rows, 1 or columns)
        for piece in pieces(part):
            raise_if_stopped()
            drawn = {j: self._draw(generator, piece) for j, generator in generators.items()}
            if self._progress is not None:
                with _TELLING:
                    self._progress.advance(len(terms) * next(iter(drawn.values())).numel())
            if weights is not None:
                scale = block(weights, piece).abs().to("cpu", torch.float64)
                drawn = {j: numbers * scale for j, numbers in drawn.items()}
            if spread is None or matrix is None:
                yield piece, {i: drawn[i] for i in wanted}
                continue
            here = spread[:, :, piece.rows, piece.columns if spread.shape[3] > 1 else slice(None)]
            made = {}
            for i, row in terms.items():
                if len(row) > ONE_BY_ONE:
                    continue
                total = here[i, row[0] if self.orthogonal else 0] * drawn[row[0]]
                for j in row[1:]:
                    total.addcmul_(here[i, j], drawn[j])
                made[i] = total
            if many := [i for i, row in terms.items() if len(row) > ONE_BY_ONE]:
                made |= dict(zip(many, self._layouts[name].combine(matrix, here, many, drawn), strict=True))
            yield piece, {i: made[i] for i in terms}

    def _generator(self, index: int, name: str, part: DrawPart) -> np.random.Generator:
        """Return the counter-based generator of one slice of one tensor of one direction."""
        key = (index, zlib.crc32(name.encode()), *((part.number,) if part.number else ()))
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=self.seed, spawn_key=key)))

    def _draw(self, generator: np.random.Generator, piece: DrawPart) -> Tensor:
        """Draw the next numbers of a slice in float32, and return them in float64."""
        shape = (piece.rows.stop - piece.rows.start, piece.columns.stop - piece.columns.start)
        if self.distribution == "normal":
            return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).double()
        return torch.from_numpy(generator.random(shape, dtype=np.float32)).double()

    # ------------------------------------------------------------------ inside: C

    def _find_matrices(self, params: Mapping[str, Tensor]) -> None:
        """Compute one C per filter, or per tensor, in which each direction gets the norm of the weight."""
        nearly_parallel = []
        for name, (gram, squares) in self._sums(list(params), params).items():
            layout = self._layouts[name]
            self._matrices[name], left = triangle(gram, squares.expand(self.n, -1), self.orthogonal, layout.entries)
            if self.orthogonal:
                self.left_out = [
                    count + (layout.filters if i >= layout.entries else 0) for i, count in enumerate(self.left_out)
                ]
                if min(left[: layout.entries], default=1.0) < _NEARLY_PARALLEL:
                    nearly_parallel.append(name)
        for name, (gram, squares) in self._sums(nearly_parallel, params).items():
            again, _ = triangle(gram, squares.expand(self.n, -1), self.orthogonal, self._layouts[name].entries)
            self._matrices[name] = torch.einsum("ijf,jkf->ikf", again, self._matrices[name])

    def _find_one_matrix(self, params: Mapping[str, Tensor]) -> None:
        """Compute one C for all tensors; each direction keeps the length of its draw."""
        gram = torch.stack([found for found, _ in self._sums(list(params), params).values()]).sum(0)
        entries = sum(layout.entries for layout in self._layouts.values())
        matrix, left = triangle(gram, torch.diagonal(gram).T, True, entries)
        for i, part in enumerate(left):
            if part < _NO_ROOM:
                room, what, how = i, f"the moving parameters have only {i} dimensions", None
                if self._weights:
                    room, how = sum(int((tensor != 0).sum()) for tensor in params.values()), "weight"
                    what = f"only {room} of the weights are not zero"
                raise DirectionError(
                    f"Direction {i + 1} of {self.n} is zero: {what}. {way_out(params, self.n, how, room)}"
                )
        self._matrices = dict.fromkeys(params, matrix)

    def _sums(self, names: Sequence[str], params: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return inner products of the directions with the present C, (n, n, filters), and the weights' squared norms.

        If directions are not made orthogonal, only the product of each with itself, (n, 1, filters).
        """

        def of_slice(job: tuple[str, DrawPart]) -> tuple[slice, Tensor]:
            name, part = job
            layout, center = self._layouts[name], params[name]
            groups = slice(part.rows.start // layout.height, (part.rows.stop - 1) // layout.height + 1)
            total = torch.zeros(count + 1, groups.stop - groups.start, layout.width, dtype=torch.float64, device="cpu")
            for piece, made in self._pieces(name, part, range(self.n)):
                theta = block(center, piece).to("cpu", torch.float64)
                group = torch.arange(piece.rows.start, piece.rows.stop, device="cpu") // layout.height - groups.start

                def add(sums: Tensor, products: Tensor, group: Tensor = group, piece: DrawPart = piece) -> None:
                    if layout.width > 1:
                        sums[:, piece.columns].index_add_(0, group, products)
                    else:
                        sums.index_add_(0, group, products.sum(1, keepdim=True))

                for at, i, j in pairs:
                    add(total[at], made[i] * made[j])
                add(total[-1], theta * theta)
                if self.orthogonal and self.n > ONE_BY_ONE:
                    layout.add_products(
                        total[:-1].view(self.n, self.n, -1, layout.width), torch.stack([*made.values()]), group, piece
                    )
            return groups, total

        few = range(min(self.n, ONE_BY_ONE))
        pairs = [(i, i, i) for i in range(self.n)]
        count = self.n**2 if self.orthogonal else self.n
        if self.orthogonal:
            pairs = [(self.n * i + j, i, j) for i in few for j in few]
        jobs = self._jobs(dict.fromkeys(names))
        totals = {name: self._layouts[name].zeros(count + 1) for name in names}
        for (name, _), (groups, found) in zip(jobs, in_threads(of_slice, jobs), strict=True):
            totals[name][:, groups] += found
        gathered = {name: self._layouts[name].gather(total) for name, total in totals.items()}
        across = count // self.n  # n, or 1: only the product of each direction with itself
        return {name: (sums[:-1].reshape(self.n, across, -1), sums[-1]) for name, sums in gathered.items()}
