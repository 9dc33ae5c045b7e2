"""What random directions are made of, in slices: no tensor need ever be held whole.

The directions of one call are drawn numbers times a small lower triangular matrix C, one a filter (or one a tensor, or
one for all)::

    d_i = sum_{j <= i} C_ij g_j          times |theta|, entry by entry, for normalize="weight"

g_j is what is drawn for direction j. C holds Gram-Schmidt and the norms; it is found from inner products of the draws,
summed up slice by slice. With C and the seed any part of a direction can be made anew.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav.errors import DirectionError
from lossnav.params import Params, hollow

if TYPE_CHECKING:
    from lossnav._utils.progress import Progress

_SLICE = 2**20  # entries that one generator draws; another number gives other directions
_PIECE = 2**14  # entries that are worked on at once: in cache, and too few for torch to start threads of its own
_NEARLY_PARALLEL = 1e-4  # of a squared length left by Gram-Schmidt: four digits are lost, so it is done once more
_NO_ROOM = 1e-12  # of a squared length: what is left is rounding
_ONE_BY_ONE = 8  # directions that are summed up one by one: their bits hang on no library, whatever n is

Job = TypeVar("Job")
Made = TypeVar("Made")


class DrawPart(NamedTuple):
    """A part of a weight as a matrix: some whole rows, or a stretch of one. In memory it is one stretch."""

    number: int
    rows: slice
    columns: slice


def slices(shape: torch.Size) -> list[DrawPart]:
    """Cut a weight into what one generator draws: as many rows along its first axis as fit, or parts of a long one."""
    rows, columns = _matrix_shape(shape)
    return _cut(slice(0, rows), slice(0, columns), _SLICE)


def pieces(part: DrawPart) -> list[DrawPart]:
    """Cut a slice, in order, into what is worked on at once."""
    return _cut(part.rows, part.columns, _PIECE)


def block(tensor: Tensor, part: DrawPart) -> Tensor:
    """A part of a weight, as a matrix; of a contiguous tensor it is a view."""
    if tensor.dim() < 2:
        return tensor.reshape(1, -1)[:, part.columns]
    return tensor[part.rows].reshape(part.rows.stop - part.rows.start, -1)[:, part.columns]


def in_threads(work: Callable[[Job], Made], jobs: Sequence[Job]) -> list[Made]:
    """Do every job, as many at once as torch has threads; the results are in the order of the jobs."""
    workers = min(torch.get_num_threads(), len(jobs))
    if workers <= 1:
        return [work(job) for job in jobs]
    inference = torch.is_inference_mode_enabled()  # which a thread does not inherit
    stop = threading.Event()

    def begin(job: Job) -> Made:
        _THREAD.stop = stop
        with torch.inference_mode(inference):
            return work(job)

    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(begin, jobs))
    except BaseException:
        stop.set()  # after Ctrl-C those under way end at their next piece
        raise
    finally:
        pool.shutdown(cancel_futures=True)  # and no other is begun


def way_out(params: Mapping[str, Tensor], n: int, normalize: str | None, room: int) -> str:
    """What to type where there is no room for n orthogonal directions of one normalisation, or no weights to scale to.

    Parameters
    ----------
    params : mapping of str to Tensor
        What moves.
    n, normalize
        What was asked for.
    room : int
        How many there are of that normalisation.

    Returns
    -------
    str
        A normalisation of which there are n, and the number there is of this one; a sentence or two.
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


class _StoppedError(Exception):
    """What ends a thread whose results nobody waits for."""


_THREAD, _TELLING = threading.local(), threading.Lock()


class Draws:
    """The n directions of one call, as numbers that can be drawn anew and the matrices C.

    Parameters
    ----------
    params : mapping of str to Tensor
        What moves. Its values are kept for ``normalize="weight"`` only.
    n, seed, distribution, normalize, orthogonal
        As in `directions.random`.
    transposed : mapping of str to int
        Weights whose filters run along the second axis, with their number of groups.
    progress : Progress, optional
        Told of every piece of a tensor that is drawn, with the number of its entries in all directions together.

    Attributes
    ----------
    like : dict of str to Tensor
        Zeros that take no memory, of the shape, dtype and device of what is made.
    left_out : list of int
        How many filters have no room for direction i.

    Raises
    ------
    DirectionError
        If there is no room for n orthogonal directions.
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
        self._layouts = {name: _layout(t.shape, by_filter, transposed.get(name)) for name, t in params.items()}
        self._weights = dict(params) if normalize == "weight" else {}
        self._matrices: Params = {}  # C of each tensor, (n, n, filters), or (n, 1, filters): the diagonal; or as drawn
        room = max((layout.entries for layout in self._layouts.values()), default=0)
        if orthogonal and normalize in ("filter", "layer") and n > room:
            scaled = [layout.entries for name, layout in self._layouts.items() if bool((params[name] != 0).any())]
            what = "filters" if normalize == "filter" else "layers"
            raise DirectionError(
                f"Direction {room + 1} of {n} is zero: the {what} have no room for {n} orthogonal directions. "
                f"{way_out(params, n, normalize, max(scaled, default=0))}"
            )
        if normalize in ("filter", "layer"):
            self._find_matrices(params)
        elif orthogonal and n > 1:
            self._find_one_matrix(params)

    def pieces(self, name: str, part: DrawPart, wanted: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Make a slice of the wanted directions, piece by piece, in their dtype and on their device."""
        like = self.like[name]
        for _, made in self._pieces(name, part, wanted):
            yield {i: values.to(like.device, like.dtype) for i, values in made.items()}

    def finish(self) -> None:
        """Tell nobody of what is drawn from now on."""
        self._progress = None

    def fill(self, wanted: Mapping[str, Mapping[int, Tensor]]) -> None:
        """Write directions into contiguous tensors, given by name and number of the direction."""

        def write(job: tuple[str, DrawPart]) -> None:
            name, part = job
            for piece, made in zip(pieces(part), self.pieces(name, part, list(wanted[name])), strict=True):
                for i, values in made.items():
                    block(wanted[name][i], piece).copy_(values)

        in_threads(write, self._jobs(wanted))

    def measure(self) -> tuple[dict[str, list[float]], NDArray[np.float64]]:
        """Sum up in float64 what is made.

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
                few = [[float(torch.sum(a * b)) for b in wide[:_ONE_BY_ONE]] for a in wide[:_ONE_BY_ONE]]
                found = np.array(few)
                if self.n > _ONE_BY_ONE:
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
        """Count the entries of a tensor that no direction moves: filters without a norm, or weights that are zero."""
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
        """Make a slice of the wanted directions, piece by piece, in float64 on the CPU."""
        matrix = self._matrices.get(name)
        terms = {i: range(i + 1) if matrix is not None and self.orthogonal else (i,) for i in wanted}
        generators = {j: self._generator(j, name, part) for j in sorted({j for row in terms.values() for j in row})}
        weights = self._weights.get(name)
        spread = None if matrix is None else self._layouts[name].spread(matrix)  # (n, n, rows, 1 or columns)
        for piece in pieces(part):
            stop = getattr(_THREAD, "stop", None)
            if stop is not None and stop.is_set():
                raise _StoppedError
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
                if len(row) > _ONE_BY_ONE:
                    continue
                total = here[i, row[0] if self.orthogonal else 0] * drawn[row[0]]
                for j in row[1:]:
                    total.addcmul_(here[i, j], drawn[j])
                made[i] = total
            if many := [i for i, row in terms.items() if len(row) > _ONE_BY_ONE]:
                made |= dict(zip(many, self._layouts[name].combine(matrix, here, many, drawn), strict=True))
            yield piece, {i: made[i] for i in terms}

    def _generator(self, index: int, name: str, part: DrawPart) -> np.random.Generator:
        """Each slice of each tensor of each direction has a counter-based generator of its own."""
        key = (index, zlib.crc32(name.encode()), *((part.number,) if part.number else ()))
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=self.seed, spawn_key=key)))

    def _draw(self, generator: np.random.Generator, piece: DrawPart) -> Tensor:
        """Draw the next numbers of a slice, float32 as float64."""
        shape = (piece.rows.stop - piece.rows.start, piece.columns.stop - piece.columns.start)
        if self.distribution == "normal":
            return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).double()
        return torch.from_numpy(generator.random(shape, dtype=np.float32)).double()

    # ------------------------------------------------------------------ inside: C

    def _find_matrices(self, params: Mapping[str, Tensor]) -> None:
        """Find one C a filter, or one a tensor: in it each direction gets the norm of the weight."""
        nearly_parallel = []
        for name, (gram, squares) in self._sums(list(params), params).items():
            layout = self._layouts[name]
            self._matrices[name], left = _triangle(gram, squares.expand(self.n, -1), self.orthogonal, layout.entries)
            if self.orthogonal:
                self.left_out = [
                    count + (layout.filters if i >= layout.entries else 0) for i, count in enumerate(self.left_out)
                ]
                if min(left[: layout.entries], default=1.0) < _NEARLY_PARALLEL:
                    nearly_parallel.append(name)
        for name, (gram, squares) in self._sums(nearly_parallel, params).items():
            again, _ = _triangle(gram, squares.expand(self.n, -1), self.orthogonal, self._layouts[name].entries)
            self._matrices[name] = torch.einsum("ijf,jkf->ikf", again, self._matrices[name])

    def _find_one_matrix(self, params: Mapping[str, Tensor]) -> None:
        """Find one C for all tensors; each direction keeps the length it was drawn with."""
        gram = torch.stack([found for found, _ in self._sums(list(params), params).values()]).sum(0)
        entries = sum(layout.entries for layout in self._layouts.values())
        matrix, left = _triangle(gram, torch.diagonal(gram).T, True, entries)
        for i, part in enumerate(left):
            if part < _NO_ROOM:
                room, what, how = i, f"the parameters that move have only {i} dimensions", None
                if self._weights:
                    room, how = sum(int((tensor != 0).sum()) for tensor in params.values()), "weight"
                    what = f"only {room} of the weights are not zero"
                raise DirectionError(
                    f"Direction {i + 1} of {self.n} has no room: {what}. {way_out(params, self.n, how, room)}"
                )
        self._matrices = dict.fromkeys(params, matrix)

    def _sums(self, names: Sequence[str], params: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Inner products of the directions as C makes them so far, (n, n, filters); squared norms of the weights.

        Without orthogonality each direction with itself alone, (n, 1, filters).
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
                if self.orthogonal and self.n > _ONE_BY_ONE:
                    layout.add_products(
                        total[:-1].view(self.n, self.n, -1, layout.width), torch.stack([*made.values()]), group, piece
                    )
            return groups, total

        few = range(min(self.n, _ONE_BY_ONE))
        pairs = [(i, i, i) for i in range(self.n)]
        count = self.n**2 if self.orthogonal else self.n
        if self.orthogonal:
            pairs = [(self.n * i + j, i, j) for i in few for j in few]
        jobs = self._jobs(dict.fromkeys(names))
        totals = {name: self._layouts[name].zeros(count + 1) for name in names}
        for (name, _), (groups, found) in zip(jobs, in_threads(of_slice, jobs), strict=True):
            totals[name][:, groups] += found
        gathered = {name: self._layouts[name].gather(total) for name, total in totals.items()}
        across = count // self.n  # n, or 1: each direction with itself alone
        return {name: (sums[:-1].reshape(self.n, across, -1), sums[-1]) for name, sums in gathered.items()}


class _FilterLayout(NamedTuple):
    """Where the filters of a weight lie, the weight being seen as a matrix of rows along its first axis.

    Groups of `height` rows; where filters run along the second axis, a group holds `outputs` filters beside each
    other, each of `span` columns. Else a group is a filter.
    """

    groups: int
    height: int
    outputs: int
    span: int
    entries: int

    @property
    def filters(self) -> int:
        return self.groups * self.outputs

    @property
    def width(self) -> int:
        """Columns that sums are kept apart for."""
        return self.outputs * self.span

    def zeros(self, count: int) -> Tensor:
        return torch.zeros(count, self.groups, self.width, dtype=torch.float64, device="cpu")

    def gather(self, sums: Tensor) -> Tensor:
        """From (k, groups, width) to (k, filters)."""
        return sums.reshape(len(sums), self.filters, self.span).sum(2)

    def add_products(self, sums: Tensor, drawn: Tensor, group: Tensor, piece: DrawPart) -> None:
        """Add the inner products of directions in a piece, but those of the first few, which are summed one by one.

        Parameters
        ----------
        sums : Tensor of shape (n, n, groups, width)
        drawn : Tensor of shape (n, rows, columns)
        group : Tensor of shape (rows,)
            The group of each row.
        """
        n, few = len(drawn), _ONE_BY_ONE
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
        """Make some directions in a piece: sums over j of C_ij g_j, shape (len(many), rows, columns).

        Parameters
        ----------
        matrix : Tensor of shape (n, n, filters)
            C.
        spread : Tensor of shape (n, n, rows, 1 or columns)
            The same as `spread` gives it, in this piece.
        many : sequence of int
        drawn : mapping of int to Tensor of shape (rows, columns)
            The g of all up to the last of these.
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
        """From (n, m, filters) to (n, m, rows, width); a view where a group is one row, or all."""
        n, m = matrix.shape[:2]
        of_groups = matrix.reshape(n, m, self.groups, 1, self.outputs, 1).expand(-1, -1, -1, -1, -1, self.span)
        of_groups = of_groups.reshape(n, m, self.groups, 1, self.width)
        return of_groups.expand(-1, -1, -1, self.height, -1).reshape(n, m, self.groups * self.height, self.width)


def _layout(shape: torch.Size, by_filter: bool, transposed_groups: int | None) -> _FilterLayout:
    """One filter a row or, as in `params.to_filters`, along the second axis; else the whole is one."""
    rows, columns = _matrix_shape(shape)
    if not by_filter or len(shape) < 2:
        return _FilterLayout(1, rows, 1, 1, rows * columns)
    if transposed_groups is None:
        return _FilterLayout(rows, 1, 1, 1, columns)
    height, outputs = rows // transposed_groups, shape[1]
    span = columns // max(1, outputs)
    return _FilterLayout(transposed_groups, height, outputs, span, height * span)


def _matrix_shape(shape: torch.Size) -> tuple[int, int]:
    entries = math.prod(shape)
    return (1, entries) if len(shape) < 2 else (shape[0], entries // max(1, shape[0]))


def _cut(rows: slice, columns: slice, most: int) -> list[DrawPart]:
    """Cut a part into parts of at most so many entries, in the order of memory."""
    width = columns.stop - columns.start
    tall, wide = max(1, most // max(1, width)), max(1, min(width, most))
    corners = [(r, c) for r in range(rows.start, rows.stop, tall) for c in range(columns.start, columns.stop, wide)]
    return [
        DrawPart(i, slice(r, min(r + tall, rows.stop)), slice(c, min(c + wide, columns.stop)))
        for i, (r, c) in enumerate(corners)
    ]


def _triangle(gram: Tensor, squares: Tensor, orthogonal: bool, entries: int) -> tuple[Tensor, list[float]]:
    """Find C from inner products: C G C^T is diagonal (if orthogonal), with these squares.

    Gram-Schmidt in the coordinates of the draws, for all filters at once. A filter of m entries has no room for an
    (m+1)-th direction; it stays zero there.

    Parameters
    ----------
    gram : Tensor of shape (n, n, filters); (n, 1, filters) where directions are not made orthogonal
    squares : Tensor of shape (n, filters)
        Squared norms that the directions shall have. Zeros stay zeros.
    entries : int
        Of a filter.

    Returns
    -------
    matrix : Tensor of the shape of gram
        C, or its diagonal alone.
    left : list of floats, one a direction
        What Gram-Schmidt leaves of a direction's squared length, in the filter where that is least.
    """
    if not orthogonal:
        return torch.sqrt(squares[:, None] / torch.where(gram > 0, gram, 1.0)), [1.0] * len(gram)
    matrix, left = torch.zeros_like(gram), []
    rest = _rest_of_triangle(gram, squares, entries) if len(gram) > _ONE_BY_ONE else None
    for i in range(len(gram) if rest is None else _ONE_BY_ONE):
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
        matrix[_ONE_BY_ONE:] = rest[0]
        left += rest[1]
    return matrix, left


def _rest_of_triangle(gram: Tensor, squares: Tensor, entries: int) -> tuple[Tensor, list[float]] | None:
    """The rows of C after the first few at once: with G = L L^T they are those of L^-1, scaled. None where G has no L.

    Row by row, Gram-Schmidt takes time that grows as n^4; this as n^3.
    """
    n, few, room = len(gram), _ONE_BY_ONE, min(len(gram), entries)
    inner = gram[:room, :room].permute(2, 0, 1).contiguous()
    own = inner.diagonal(dim1=1, dim2=2)
    factor, failed = torch.linalg.cholesky_ex(inner)
    if bool(failed.any()) or not len(inner):
        return None
    unit = torch.eye(room, dtype=gram.dtype, device=gram.device).expand_as(factor)
    rows = torch.linalg.solve_triangular(factor, unit, upper=False)  # of squared length 1 each
    made = torch.zeros_like(gram[few:])
    scaled = rows * torch.sqrt(squares[:room]).T[:, :, None]
    made[: max(0, room - few), :room] = scaled[:, few:].permute(1, 2, 0)
    parts = (factor.diagonal(dim1=1, dim2=2).square() / own).amin(0).tolist()
    return made, [*parts[few:], *[0.0] * (n - max(room, few))]
