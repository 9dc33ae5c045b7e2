"""Per-sample losses, stored beside the mean: at one point in memory, and of all points in a store.

Sample i is the i-th of the data, whatever batches a plan uses. The loss at a point is the sum of the samples' losses
divided by the sum of their weights; without class weights and ignored targets a weight is 1. Weights depend on the
targets and not on the point, so they are stored once. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.lazy_import import lazily
from lossnav.storage.arrays import codecs, resized, seal

if TYPE_CHECKING:
    import zarr
else:
    zarr = lazily("zarr")

LOSS, WEIGHT, DIM = "sample_loss", "sample_weight", "sample"  # variables of a surface, and their dim
VARIABLES = (LOSS, WEIGHT)

TILE = 64  # points along each side of a chunk, at most
_CHUNK = 2**18  # float32 values of a chunk: 1 MiB
_WAITING = 2**26  # bytes that may wait to be written


class SampleLosses(NamedTuple):
    """Losses of the samples at one point, in the order of the data.

    Attributes
    ----------
    losses : ndarray of float32, shape (n,)
        Contribution of each sample to the numerator of the loss.
    weights : ndarray of float64, shape (n,)
        Contribution of each sample to the denominator.
    """

    losses: NDArray[np.float32]
    weights: NDArray[np.float64]


class Measurement(dict[str, float]):
    """Loss and metrics at a point, with statistics of its samples.

    Attributes
    ----------
    skewness : float or None
        Of the samples' losses about their mean (with weights: of the residuals of the ratio); None if they are not
        available.
    samples : SampleLosses or None
        Only with `keep_samples`.
    """

    skewness: float | None = None
    samples: SampleLosses | None = None


def chunks(shape: Sequence[int], chunk: int = _CHUNK) -> tuple[int, ...]:
    """Chunks of an array (*points, samples): about 1 MiB, square in the points, with as many samples as fit.

    Examples
    --------
    >>> chunks((51, 51, 10_000))
    (5, 5, 10000)
    >>> chunks((51, 51, 1_000_000))
    (1, 1, 262144)
    """
    *points, n = shape
    samples = max(1, min(n, chunk))
    side = int((chunk // samples) ** (1 / max(1, len(points))) + 1e-9)
    return (*(max(1, min(size, side, TILE if len(points) > 1 else TILE**2)) for size in points), samples)


class SampleStore:
    """The samples of a run in its store, written during the run, each point at its own place.

    A chunk is written atomically, and before the row of the journal that records the point: after a kill every chunk is
    complete, and points without a row are written again.

    Parameters
    ----------
    root : zarr.Group
        Of the store.
    dims : sequence of str
        Of the points: those of the grid, or ``point``.
    shape : sequence of int or None
        Points along each axis of a grid; None for point shape, in which points are in the order of their evaluation.
    """

    def __init__(self, root: zarr.Group, dims: Sequence[str], shape: Sequence[int] | None) -> None:
        self._root, self._dims, self._shape = root, tuple(dims), None if shape is None else tuple(shape)
        self._waiting: dict[tuple[int, ...], NDArray[np.float32]] = {}
        self._bytes = 0
        self._rows, self._has_weights = 0, False
        self._weights: NDArray[np.float64] | None = None

    @property
    def full(self) -> bool:
        """Whether enough samples are pending to be written."""
        return self._bytes > _WAITING

    def add(self, place: tuple[int, ...], samples: SampleLosses | None) -> None:
        """Add the samples of a point, or only its place if it has none."""
        self._rows = max(self._rows, place[0] + 1)
        if samples is None:
            return
        self._waiting[place] = samples.losses
        self._bytes += samples.losses.nbytes
        self._weights = samples.weights

    def flush(self) -> None:
        """Write pending samples."""
        if self._waiting:
            n = len(next(iter(self._waiting.values())))
            array = self._array(n)
            for corner, places in _by_chunk(self._waiting, array.chunks).items():
                ends = (min(a + c, size) for a, c, size in zip(corner, array.chunks, array.shape, strict=False))
                at = tuple(slice(a, b) for a, b in zip(corner, ends, strict=True))
                array[at] = self._block(array, at, places)
            self._waiting.clear()
            self._bytes = 0

    def finish(self, rows: int) -> None:
        """Write pending samples; in point shape, cut the array to the given number of points."""
        self.flush()
        array = self._root.get(LOSS)
        if isinstance(array, zarr.Array) and self._shape is None and array.shape[0] != rows:
            resized(array, (rows, *array.shape[1:]))

    def _block(
        self, array: zarr.Array[Any], at: tuple[slice, ...], places: Sequence[tuple[int, ...]]
    ) -> NDArray[np.float32]:
        """What a chunk holds, with what waits for it."""
        sizes = tuple(part.stop - part.start for part in at)
        if len(places) < math.prod(sizes):
            block = np.array(array[at], np.float32)
        else:
            block = np.empty((*sizes, array.shape[-1]), np.float32)
        for place in places:
            block[tuple(i - part.start for i, part in zip(place, at, strict=True))] = self._waiting[place]
        return block

    def _array(self, n: int) -> zarr.Array[Any]:
        """The array, with room for every row that was taken."""
        array = self._root.get(LOSS)
        if not self._has_weights:  # written before the losses: where these are, those are
            self._write_weights(n)
        if not isinstance(array, zarr.Array):
            shape = (*(self._shape or (self._rows,)), n)
            array = self._root.create_array(
                LOSS,
                shape=shape,
                chunks=chunks(shape if self._shape else (TILE**2, n)),
                dtype="float32",
                fill_value=np.nan,
                dimension_names=[*self._dims, DIM],
                **codecs(),
            )
            seal(array, {})
        if self._shape is None and array.shape[0] < self._rows:
            return resized(array, (self._rows, *array.shape[1:]))
        return array

    def _write_weights(self, n: int) -> None:
        if WEIGHT not in self._root:
            made = self._root.create_array(
                WEIGHT,
                shape=(n,),
                chunks=(max(1, n),),
                dtype="float64",
                fill_value=np.nan,
                dimension_names=[DIM],
                **codecs(),
            )
            seal(made, {})
        self._root[WEIGHT][...] = self._weights  # type: ignore[index, assignment]
        self._has_weights = True


def _by_chunk(
    places: Iterable[tuple[int, ...]], chunk: tuple[int, ...]
) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Places by the first corner of the chunk that they lie in, so that each chunk is written once."""
    made: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for place in places:
        made.setdefault(tuple(i // size * size for i, size in zip(place, chunk, strict=False)), []).append(place)
    return made
