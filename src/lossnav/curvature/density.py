"""The density of the eigenvalues of an operator by stochastic Lanczos quadrature, with its error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav.curvature.base import CheckedOperator, Operator, V, as_operator
from lossnav.curvature.eigen import Eigenpairs
from lossnav.curvature.products import Products, Signs, without
from lossnav.curvature.trace import Estimate
from lossnav.errors import OptionError

Array = NDArray[np.float64]

_MEMORY = 2**31  # bytes for the bases of the probes that are advanced together; at least one probe
_INVARIANT = 1e-12  # of the spectral radius: a smaller remainder is rounding
_SURE = 1e-3  # of the spread of the eigenvalues: a pair with a larger error is not treated as known
_RESOLVED = 1.5  # default width, in half spreads per step: m steps do not resolve less
_REACH, _FINE = 6, 4  # the grid extends so many widths beyond a node, with so many points per width


@dataclass(frozen=True)
class Quadrature:
    """A quadrature of a spectrum, from several random vectors (probes).

    Attributes
    ----------
    nodes, weights : ndarray of shape (probes, m)
        Values, and the part of all eigenvalues that each represents: each row of weights adds up to 1. The mean of
        sum(weights * f(nodes)) over the probes estimates tr f(H) / d; it is unbiased if f is a polynomial of degree
        up to 2 steps - 1.
    known : int
        The number of known eigenvalues, which come first in each row, with weight 1 / d; the others are Ritz values,
        increasing.
    size : int
        d.
    samples : tuple of float
        Samples of the trace without the known part: (P v) . H (P v) for each probe v.
    """

    nodes: Array
    weights: Array
    known: int
    size: int
    samples: tuple[float, ...]


@dataclass(frozen=True)
class SpectralDensity:
    """The density of eigenvalues, each represented by a Gaussian; its integral is 1.

    Attributes
    ----------
    values : ndarray of shape (n,)
        Eigenvalues at which the density is given, increasing, in units of the loss; dense near eigenvalues.
    density, error : ndarray of shape (n,)
        Density per unit of eigenvalue, and its standard error over the random probes. For a confidence interval with
        few probes, use Student's t with (probes - 1) degrees of freedom.
    nodes, weights : ndarray of shape (probes, m)
        The quadrature from which it is computed; see `Quadrature`.
    width : float
        Standard deviation of the Gaussians.
    mean : Estimate
        The mean eigenvalue, tr H / d, with its standard error.
    products, passes : int
        Number of products, and of passes over the data.
    """

    values: Array
    density: Array
    error: Array
    nodes: Array
    weights: Array
    width: float
    mean: Estimate
    products: int
    passes: int


def spectral_density(
    operator: Operator[V],
    *,
    probes: int = 5,
    steps: int = 50,
    width: float | None = None,
    pairs: Eigenpairs[V] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> SpectralDensity:
    """Estimate the density of the eigenvalues of an operator, by stochastic Lanczos quadrature.

    Lanczos takes some steps from each vector v of random signs, with full reorthogonalisation. Eigenvalues and first
    entries of eigenvectors of its tridiagonal matrix are the nodes and weights of a quadrature for v . f(H) v / d. One
    pass over the data makes a step for all vectors.

    Parameters
    ----------
    operator : Operator
        A `Hessian`, a `GaussNewton`, or one of your own (see `Operator`). It defines parameters and point.
    probes : int
        Number of random vectors. They need memory for probes * steps vectors as large as the model; as many probes are
        advanced together as fit into two gigabytes.
    steps : int
        Lanczos steps, each of which needs one product per probe.
    width : float, optional
        Standard deviation of the Gaussian that represents each eigenvalue. By default 0.75 of the spread of the nodes
        (without known ones) divided by the steps. This is about the finest width that so many steps resolve, so the
        main error of the density is the randomness of the probes, which `error` contains.
    pairs : Eigenpairs, optional
        Eigenpairs of the same operator from `top_eigenpairs`. Those with a small error are removed from the random
        part, and added exactly, with weight 1 / d. So the steps resolve the others, and outliers are not random.
    seed : int
        Of the probes.
    progress : bool or None
        Whether to show a progress bar (None: on a terminal).

    Returns
    -------
    SpectralDensity
        NaN, with a warning, if the derivatives are not finite.

    Raises
    ------
    OptionError
        If an option is invalid.
    Interrupted
        After Ctrl-C, with the density after the steps so far in ``partial``.
    Others
        As the operator does.

    Notes
    -----
    The error is not estimated from the spread of the few probes. For random signs, the variance of v . f(H) v / d is at
    most 2 / d (<f^2> - <f>^2), where < > is the mean over all eigenvalues (Hutchinson 1990; only entries off the
    diagonal contribute). The quadrature gives these means.

    References
    ----------
    Lin, Saad, Yang 2016, "Approximating spectral densities of large matrices", section 3.2. Ghorbani, Krishnan, Xiao
    2019, "An investigation into neural net optimization via Hessian eigenvalue density", algorithm 1. Departures:
    random signs instead of Gaussian vectors, a width that depends on the steps, and exact known eigenpairs.

    Examples
    --------
    >>> from lossnav.curvature import Hessian
    >>> from lossnav.objective.objective import Objective
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(4)})
    >>> found = spectral_density(Hessian(bowl), probes=2, steps=3, width=0.1)
    >>> float(found.values[found.density.argmax()].round(2)), float(np.trapezoid(found.density, found.values).round(6))
    (2.0, 1.0)
    """
    DensityOptions(probes, steps, width)
    matrix = as_operator(operator, "spectral_density")
    signs = Signs(matrix, seed)
    known = None if pairs is None else surely_known(matrix, pairs)
    with Products(matrix, "density", probes * min(steps, matrix.size), progress) as multiply:
        found = quadrature(multiply, signs, probes, steps, known, seed + 1)
    made = density_of(found, steps, width, matrix.rounding, products=multiply.count, passes=multiply.passes)
    nowhere = "The products are not finite at this point: the density is NaN. Check the loss and the gradient there."
    return multiply.conclude(made, "" if math.isfinite(made.width) else nowhere)


@dataclass(frozen=True)
class DensityOptions:
    """The options of `spectral_density`, for functions that compute more than a density.

    Parameters
    ----------
    probes, steps, width
        As for `spectral_density`.

    Raises
    ------
    OptionError
        If an option is invalid.

    Examples
    --------
    >>> DensityOptions(steps=80)
    DensityOptions(probes=5, steps=80, width=None)
    """

    probes: int = 5
    steps: int = 50
    width: float | None = None

    def __post_init__(self) -> None:
        numbers = (self.probes, self.steps)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in numbers):
            raise OptionError(
                f"probes={self.probes!r} and steps={self.steps!r} are too few for a density with an error. Use 2 or "
                "more of each."
            )
        if self.width is not None and not 0 < self.width < math.inf:
            raise OptionError(
                f"width must be positive, got width={self.width!r}. Pass a number in units of the eigenvalues, or None."
            )


# ---------------------------------------------------------------------- the quadrature


def surely_known(operator: CheckedOperator[V], pairs: Eigenpairs[V]) -> tuple[Array, Tensor] | None:
    """Return values and orthonormal vectors, shape (k, d), of the pairs with a small error; None if there are none."""
    if not pairs.vectors:
        return None
    operator.require_vector(pairs.vectors[0])
    reach = max(float(np.ptp(pairs.values)), float(np.abs(pairs.values).max()))
    sure = [i for i, error in enumerate(pairs.errors) if error <= _SURE * reach]
    if not sure:
        return None
    vectors = torch.stack([operator.to_flat(pairs.vectors[i]) for i in sure])
    return pairs.values[sure], torch.linalg.qr(vectors.T).Q.T.contiguous()


def quadrature(
    multiply: Products, signs: Signs, probes: int, steps: int, known: tuple[Array, Tensor] | None, seed: int
) -> Quadrature:
    """Compute nodes and weights with some probes and steps, beside known pairs; with fewer if a stop is requested."""
    d = multiply.operator.size
    values, rows = (np.zeros(0), None) if known is None else known
    k = len(values)
    steps = min(steps, d - k)
    together = max(1, min(probes, multiply.most, _MEMORY // max(1, steps * d * _precision(multiply.operator).itemsize)))
    nodes, weights, samples = list[Array](), list[Array](), list[float]()
    fresh = torch.Generator().manual_seed(seed)
    for starts in signs.blocks(probes, together):
        outside = without(starts, rows)
        alphas, betas = _tridiagonal(multiply, outside, steps, rows, fresh)
        if multiply.signal is not None and nodes:
            break  # these probes took fewer steps than the others
        samples += (alphas[:, :1].sum(1) * (outside**2).sum(1).cpu().numpy()).tolist()
        for alpha, beta in zip(alphas, betas, strict=True):
            ritz, firsts = _decomposed(alpha, beta)
            nodes.append(np.concatenate([values, ritz]))
            weights.append(np.concatenate([np.full(k, 1 / d), (d - k) / d * firsts**2]))
        if multiply.signal is not None:
            break
    return Quadrature(np.array(nodes), np.array(weights), k, d, tuple(samples))


def _tridiagonal(
    multiply: Products, starts: Tensor, steps: int, known: Tensor | None, fresh: torch.Generator
) -> tuple[Array, Array]:
    """Run Lanczos from several vectors at a time: return diagonals, (p, m), and off-diagonals, (p, m - 1).

    The bases are stored in the model's precision, because products use vectors in that precision.
    """
    p, d = starts.shape
    basis = torch.empty((p, steps, d), dtype=_precision(multiply.operator), device=starts.device)
    alphas, betas, radius, vectors = np.zeros((p, steps)), np.zeros((p, steps)), 0.0, starts
    for step in range(steps):
        basis[:, step] = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        here = basis[:, step].double()
        images = multiply(here)
        if not bool(torch.isfinite(images).all()):
            return np.full((p, steps), math.nan), betas[:, 1:]
        alphas[:, step] = (here * images).sum(1).cpu().numpy()
        if multiply.signal is not None:
            return alphas[:, : step + 1], betas[:, :step]
        vectors = _orthogonal(images, basis[:, : step + 1], known)
        betas[:, step] = torch.linalg.vector_norm(vectors, dim=1).cpu().numpy()
        radius = max(radius, float(np.abs(alphas[:, step]).max()), float(betas[:, step].max()))
        if step + 1 == steps:
            break
        for i in np.flatnonzero(betas[:, step] <= _INVARIANT * radius):
            # the space is invariant: continue with a new vector orthogonal to it, of weight 0
            betas[i, step] = 0.0
            anew = torch.randn(1, d, dtype=torch.float64, generator=fresh).to(starts.device)
            vectors[i] = _orthogonal(anew, basis[i : i + 1, : step + 1], known)[0]
    return alphas, betas[:, :-1]


def _orthogonal(vectors: Tensor, basis: Tensor, known: Tensor | None) -> Tensor:
    """Return the part of each vector, (p, d), orthogonal to its basis, (p, m, d), and to the known vectors.

    The projection is done twice, because after one orthogonality is lost gradually.
    """
    for _ in range(2):
        vectors = without(vectors, known)
        along = torch.bmm(basis, vectors.to(basis.dtype)[:, :, None])  # (p, m, 1)
        vectors = vectors - torch.bmm(along.mT, basis)[:, 0]
    return vectors


def _decomposed(alpha: Array, beta: Array) -> tuple[Array, Array]:
    """Return the eigenvalues of a tridiagonal matrix and the first entries of its eigenvectors; NaN if it is NaN."""
    if not np.isfinite(alpha).all():
        return alpha, alpha
    values, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    return values, vectors[:1].sum(0)


def _precision(operator: Operator[Any]) -> torch.dtype:
    """Return the dtype in which an operator computes, float32 or wider."""
    return torch.promote_types(operator.dtype, torch.float32)


# ---------------------------------------------------------------------- the density


def density_of(
    found: Quadrature,
    steps: int,
    width: float | None,
    rounding: Callable[[float], float] = lambda size: 0.0,
    *,
    products: int,
    passes: int,
) -> SpectralDensity:
    """Sum a Gaussian at every node of a quadrature; `rounding` returns the error of a node from the operator's size."""
    d, k, (p, _) = found.size, found.known, found.nodes.shape
    share = (d - k) / d

    def chance(first: Any, second: Any) -> Any:
        """Return the standard error of a mean over the probes, from first and second moments over the eigenvalues."""
        variance = np.maximum(second / share - (first / share) ** 2, 0.0) if share else 0.0 * second
        return share * np.sqrt(2 * variance / max(d - k, 1) / p)

    moments = [float((found.weights * found.nodes**n)[:, k:].sum(1).mean()) for n in (1, 2)]
    middle = float((found.weights * found.nodes).sum(1).mean())
    inexact = rounding(float(np.abs(found.nodes).max())) if np.isfinite(found.nodes).all() else 0.0
    mean = Estimate(middle, math.hypot(float(chance(*moments)), inexact), products, passes, p)
    if not np.isfinite(found.nodes).all():
        nowhere = np.zeros(0)
        return SpectralDensity(nowhere, nowhere, nowhere, found.nodes, found.weights, math.nan, mean, products, passes)
    width = _resolved(found, steps) if width is None else width
    values = _grid(found, width)
    heights = np.zeros(len(values))
    slopes = np.zeros(len(values))  # derivative by the eigenvalues: their rounding errors change the density
    first, second = np.zeros(len(values)), np.zeros(len(values))  # moments of the kernel over the unknown eigenvalues
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        kernel = np.exp(-0.5 * ((values[:, None] - nodes) / width) ** 2) / (width * math.sqrt(2 * math.pi))
        heights += kernel @ weights / p
        slopes += (kernel * np.abs(values[:, None] - nodes) / width**2) @ weights / p
        first += kernel[:, k:] @ weights[k:] / p
        second += kernel[:, k:] ** 2 @ weights[k:] / p
    error = np.hypot(chance(first, second), slopes * inexact)
    return SpectralDensity(values, heights, error, found.nodes, found.weights, width, mean, products, passes)


def _resolved(found: Quadrature, steps: int) -> float:
    """Return the width that so many steps resolve."""
    unknown = found.nodes[:, found.known :] if found.nodes.shape[1] > found.known else found.nodes
    spread, largest = float(np.ptp(unknown)), float(np.abs(found.nodes).max())
    return _RESOLVED * spread / 2 / steps if spread > 1e-6 * largest else 1e-3 * (largest or 1.0)


def _grid(found: Quadrature, width: float) -> Array:
    """Return the multiples of a part of the width that are near a node with weight."""
    step = width / _FINE
    near = np.unique(np.round(found.nodes[found.weights > 1e-14] / step).astype(np.int64))
    return np.unique(near[:, None] + np.arange(-_REACH * _FINE, _REACH * _FINE + 1)) * step
