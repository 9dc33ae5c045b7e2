"""Principal components of a path from its Gram matrix, and those of a random walk with the same steps. NumPy only.

A path of m points in N dimensions has an m x m matrix of inner products. Its eigenvectors are enough for principal
component analysis, without an N x N matrix. The same matrix is known exactly for a random walk in very many dimensions,
where steps are orthogonal. So the part of a path's variation in a plane can be compared with the part that would be
there if training had only diffused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Center = Literal["final", "mean"]
CENTERS = ("final", "mean")

Array = NDArray[np.float64]

DENSE = 3000  # largest side of a matrix whose eigenvalues are all computed: 72 MB, and some seconds


def origin(block: Array, center: Center) -> Array:
    """Return the last row, or the mean of the rows, of some columns of all points: from shape (m, c) to (c,)."""
    about: Array = block[-1].copy() if center == "final" else block.mean(0)
    return about


def spectrum(gram: Array) -> tuple[Array, Array]:
    """Return the eigenvalues of a Gram matrix, largest first, none negative, (m,), and eigenvectors as columns."""
    values, vectors = np.linalg.eigh(gram)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def steps_of(gram: Array) -> Array:
    """Return distances between consecutive points, shape (m - 1,), from their Gram matrix around any centre."""
    squares = gram.diagonal()[1:] + gram.diagonal()[:-1] - 2 * gram.diagonal(1)
    return np.sqrt(np.maximum(squares, 0.0))


class NotFinitePointsError(ValueError):
    """Some points of a path are not finite; `squares` holds the squared norms of all points."""

    def __init__(self, squares: Array) -> None:
        super().__init__(f"{int((~np.isfinite(squares)).sum())} points are not finite.")
        self.squares = squares


@dataclass(frozen=True)
class Principal:
    """The first n components of a path of m points in N dimensions.

    Attributes
    ----------
    values : ndarray
        Eigenvalues, largest first: n of them, or all.
    vectors : ndarray of shape (N, n)
        Of norm 1; no coordinate of the first point along them is negative.
    variation : float
        Sum of all eigenvalues.
    origin : ndarray of shape (N,)
        The centre of the variation.
    squares : ndarray of shape (m,)
        Squared norms of the points.
    steps : ndarray of shape (m - 1,)
        Distances between consecutive points.
    """

    values: Array
    vectors: Array
    variation: float
    origin: Array
    squares: Array
    steps: Array


def principal(blocks: Callable[[], Iterator[Array]], n: int, center: Center) -> Principal:
    """Compute the first n components of a path that is read a block of points at a time.

    For N up to 3,000: from the N x N matrix of the coordinates, summed block by block, in two passes. For more: by the
    Lanczos iteration (ARPACK, to machine precision), with one pass per product, some tens in all.

    Parameters
    ----------
    blocks : callable
        Each call reads from the beginning, and yields arrays of shape (points, N).
    n : int
        Fewer than there are points.
    center : "mean" or "final"
        The centre of the variation.

    Raises
    ------
    NotFinitePointsError
        If a point is not finite.
    """
    squares, steps = [], []
    total: Array = np.zeros(1)
    last: Array | None = None
    for block in blocks():
        squares.append(np.einsum("ij,ij->i", block, block))
        path = block if last is None else np.concatenate([last[None], block])
        steps.append(np.linalg.norm(np.diff(path, axis=0), axis=1))
        total, last = total + block.sum(0), block[-1].copy()
    norms = np.concatenate(squares)
    if last is None or not np.isfinite(norms).all():
        raise NotFinitePointsError(norms)
    about = last if center == "final" else total / len(norms)
    size, variation, first = len(about), 0.0, None
    matrix = np.zeros((size, size)) if size <= DENSE else None
    for block in blocks():
        first = block[0] - about if first is None else first
        block = block - about
        variation += float(np.einsum("ij,ij->", block, block))
        if matrix is not None:
            matrix += block.T @ block
    assert first is not None

    def product(vector: Array) -> Array:
        made = np.zeros(size)
        for block in blocks():
            block = block - about
            made += block.T @ (block @ vector.reshape(-1))
        return made

    values, vectors = spectrum(matrix) if matrix is not None else _largest(product, size, n)
    vectors = vectors[:, :n] * np.where(first @ vectors[:, :n] < 0, -1.0, 1.0)
    return Principal(values, vectors, variation, about, norms, np.concatenate(steps))


def _largest(product: Callable[[Array], Array], size: int, n: int) -> tuple[Array, Array]:
    """Return the n largest eigenvalues, none negative, and eigenvectors of a symmetric matrix, from its products."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)  # ARPACK's own start differs between calls
    values, vectors = eigsh(operator, k=n, which="LA", v0=start)
    order = np.argsort(-values)
    return np.maximum(values[order], 0.0), vectors[:, order]


def random_walk(steps: Array, center: Center = "mean", n: int | None = None) -> Array:
    """Compute the part of its variation that each component of a random walk explains, in very many dimensions.

    Steps of lengths s_k in independent directions are orthogonal in the limit of many dimensions (many more than the m
    points of the path). So the inner products of the points are known without random draws: relative to the start,
    x_i . x_j = sum of s_k^2 over k <= min(i, j); relative to the end, the same over k > max(i, j); relative to the
    mean, by centring. The explained parts are the eigenvalues of that matrix, divided by their sum.

    Parameters
    ----------
    steps : ndarray of shape (m - 1,)
        Lengths of the steps.
    center : "mean" or "final"
        The centre of the variation.
    n : int, optional
        The number of components to compute. For a long walk, only these are computed, from products with its matrix,
        which take O(m).

    Returns
    -------
    ndarray of shape (m,) or (n,)
        Largest first; all m of them add up to 1. For many equal steps, component k around the mean explains
        6/(pi^2 k^2): 60.8 %, 15.2 %, 6.8 %; around the final point, 8/(pi^2 (2k - 1)^2): 81.1 %, 9.0 %, 3.2 %.

    References
    ----------
    Antognini & Sohl-Dickstein 2018, "PCA of high dimensional random walks with comparison to neural network
    training", eq. 11 (around the mean, equal steps). Departures: the actual steps; the final point.

    Examples
    --------
    >>> random_walk(np.ones(1000))[:3].round(3)
    array([0.608, 0.152, 0.068])
    """
    squares = np.concatenate(
        [[0.0], np.cumsum(np.asarray(steps, np.float64) ** 2)]
    )  # (m,): squared distance from start
    if n is not None and len(squares) > DENSE:
        return _long_walk(np.asarray(steps, np.float64) ** 2, center, n)
    gram = np.minimum.outer(squares, squares)
    if center == "final":
        gram = squares[-1] - np.maximum.outer(squares, squares)
    else:
        gram = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    values, _ = spectrum(gram)
    shares: Array = values / values.sum()
    return shares[:n]


def _long_walk(squares: Array, center: Center, n: int) -> Array:
    """Compute the same for many points, from squared steps.

    Point i is the sum of the steps up to i (around the final point: minus those after it). So a product with the Gram
    matrix is, for each step, its square times the sum over later points, and then for each point the sum over earlier
    steps.
    """
    m = len(squares) + 1

    def product(vector: Array) -> Array:
        x = vector.reshape(-1)
        if center == "mean":
            x = x - x.mean()
            beyond = np.cumsum(x[::-1])[::-1][1:]  # for each step, the sum over later points
            made = np.concatenate([[0.0], np.cumsum(squares * beyond)])
            return np.asarray(made - made.mean())
        before = np.cumsum(x)[:-1]  # for each step, the sum over earlier points
        return np.concatenate([np.cumsum((squares * before)[::-1])[::-1], [0.0]])

    part = np.arange(1, m) / m  # of the points after each step, counted from the last step
    variation = (
        float(m * (squares * part * (1 - part)).sum()) if center == "mean" else float((squares * m * part).sum())
    )
    values, _ = _largest(product, m, n)
    return values / variation


def norm_drift(norms: Array, variation: float) -> float:
    """Compute the part of a path's variation that is explained by a change of the weights' norm, in [0, 1].

    sum_i (|theta_i| - r)^2 / sum_i |theta_i - c|^2 around a centre c with norm r: 1 for a path that only rescales the
    weights, 0 for one on a sphere. By the triangle inequality it is at most 1.

    Parameters
    ----------
    norms : ndarray of shape (m,)
        Norms of the points minus that of the centre (or their mean).
    variation : float
        The denominator.
    """
    return float(np.sum(norms**2) / variation)
