"""How the eigenvalues of a Hessian are spread: stochastic Lanczos quadrature, and how sure the density is."""

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

_MEMORY = 2**31  # bytes for the bases of the probes that are advanced together, but no fewer than one probe
_INVARIANT = 1e-12  # of the spectral radius: what is left of an image is rounding
_SURE = 1e-3  # of the spread of the eigenvalues: a pair with a larger error is not taken out
_RESOLVED = 1.5  # width in units of half the spread a step: less than that m steps do not resolve
_REACH, _FINE = 6, 4  # the grid goes so many widths beyond a node, with so many points a width


@dataclass(frozen=True)
class Quadrature:
    """Where a spectrum has its weight, by several random vectors.

    Attributes
    ----------
    nodes, weights : ndarray of shape (probes, m)
        Values, and the part of all eigenvalues that each stands for: each row of weights adds up to 1.
        The mean of sum(weights * f(nodes)) over the probes is tr f(H) / d, exactly in expectation where f is a
        polynomial of degree 2 steps - 1.
    known : int
        The first so many of each row are eigenvalues that were taken out before, with weight 1 / d; the others are Ritz
        values, increasing.
    size : int
        d.
    samples : tuple of float
        Of the trace beside what is known: (P v) . H (P v) for each probe v.
    """

    nodes: Array
    weights: Array
    known: int
    size: int
    samples: tuple[float, ...]


@dataclass(frozen=True)
class SpectralDensity:
    """The density of eigenvalues, each drawn as a Gaussian; its integral is 1.

    Attributes
    ----------
    values : ndarray of shape (n,)
        Where it is taken, increasing, in the unit of the loss: closely wherever there are eigenvalues.
    density, error : ndarray of shape (n,)
        Per unit of eigenvalue, and the standard error by the choice of the probes. Of few probes take Student's t with
        a degree of freedom less than there are probes.
    nodes, weights : ndarray of shape (probes, m)
        The quadrature it is drawn from; see `Quadrature`.
    width : float
        Standard deviation of the Gaussians.
    mean : Estimate
        The mean eigenvalue, tr H / d, with an error of the same kind.
    products, passes : int
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

    From each vector v of random signs Lanczos takes some steps, with full reorthogonalisation; eigenvalues and first
    entries of eigenvectors of its tridiagonal matrix are the nodes and weights of a quadrature for v . f(H) v / d. All
    vectors take a step in one pass over the data.

    Parameters
    ----------
    operator : Operator
        A `Hessian`, a `GaussNewton`, or one of your own (see `Operator`): it says of which parameters, at which point.
    probes : int
        Random vectors. Together they hold probes * steps vectors as large as the model; as many probes are advanced
        together as fit in two gigabytes.
    steps : int
        Of Lanczos, each a product for each probe.
    width : float, optional
        Standard deviation of the Gaussian that each eigenvalue is drawn as. By default 0.75 of the spread of the nodes
        (of those that are not known) divided by the steps: about the finest that so many steps resolve, so that what
        the density is off by is the chance in the probes, which `error` says.
    pairs : Eigenpairs, optional
        What `top_eigenpairs` found of the same operator: surely known pairs are taken out, are drawn
        where they are with their weight 1 / d, and the steps are left for the others. Outliers are then no longer a
        matter of chance.
    seed : int
        Of the probes.
    progress : bool or None
        Whether to show a bar (None: on a terminal).

    Returns
    -------
    SpectralDensity
        NaN where the derivatives are not finite, with a warning.

    Raises
    ------
    OptionError
        If an option cannot be.
    Interrupted
        After Ctrl-C: with the density by the steps so far in ``partial``.
    Others
        As the operator does.

    Notes
    -----
    The error is not taken of the few probes' own spread. For random signs the variance of v . f(H) v / d is at most
    2 / d (<f^2> - <f>^2), with < > the mean over all eigenvalues (Hutchinson 1990; of entries beside the diagonal
    alone); these means the quadrature has.

    References
    ----------
    Lin, Saad, Yang 2016, "Approximating spectral densities of large matrices", section 3.2. Ghorbani, Krishnan, Xiao
    2019, "An investigation into neural net optimization via Hessian eigenvalue density", algorithm 1. Departures:
    random signs for Gaussian vectors, a width by the steps, and known eigenpairs taken out.

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
    """How a density is estimated, for what asks for more than a density: the options of `spectral_density`.

    Parameters
    ----------
    probes, steps, width
        As of `spectral_density`.

    Raises
    ------
    OptionError
        If one cannot be.

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
                f"probes={self.probes!r} and steps={self.steps!r} make no density with an error. Use 2 or more."
            )
        if self.width is not None and not 0 < self.width < math.inf:
            raise OptionError(f"width={self.width!r} must be positive, in the unit of the eigenvalues.")


# ---------------------------------------------------------------------- the quadrature


def surely_known(operator: CheckedOperator[V], pairs: Eigenpairs[V]) -> tuple[Array, Tensor] | None:
    """Eigenvalues and orthonormal eigenvectors, shape (k, d), of the pairs that are sure; None if there are none."""
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
    """Nodes and weights by so many probes and steps, beside what is known; by fewer where a stop was asked for."""
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
            break  # these took fewer steps than the others
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
    """Lanczos from several vectors at a time: diagonals, shape (p, m), and what is beside them, shape (p, m - 1).

    The bases are held in the numbers the model computes in: a product sees no more of a vector than that.
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
            # the space holds its own images: go on beside it, with weight 0
            betas[i, step] = 0.0
            anew = torch.randn(1, d, dtype=torch.float64, generator=fresh).to(starts.device)
            vectors[i] = _orthogonal(anew, basis[i : i + 1, : step + 1], known)[0]
    return alphas, betas[:, :-1]


def _orthogonal(vectors: Tensor, basis: Tensor, known: Tensor | None) -> Tensor:
    """What of each vector, shape (p, d), is orthogonal to its basis, shape (p, m, d), and to all that is known.

    Projected out twice: after once, orthogonality is lost by and by.
    """
    for _ in range(2):
        vectors = without(vectors, known)
        along = torch.bmm(basis, vectors.to(basis.dtype)[:, :, None])  # (p, m, 1)
        vectors = vectors - torch.bmm(along.mT, basis)[:, 0]
    return vectors


def _decomposed(alpha: Array, beta: Array) -> tuple[Array, Array]:
    """Eigenvalues of a tridiagonal matrix, and the first entries of its eigenvectors; NaN where it is."""
    if not np.isfinite(alpha).all():
        return alpha, alpha
    values, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    return values, vectors[:1].sum(0)


def _precision(operator: Operator[Any]) -> torch.dtype:
    """What an operator computes in, float32 at least."""
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
    """Draw every node of a quadrature as a Gaussian; `rounding` says how sure a node of an operator of some size is."""
    d, k, (p, _) = found.size, found.known, found.nodes.shape
    share = (d - k) / d

    def chance(first: Any, second: Any) -> Any:
        """Standard error of a mean over the probes, by the moments of what it is the mean of."""
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
    slopes = np.zeros(len(values))  # by the eigenvalues: what rounding moves them by moves the density
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
    """The width that so many steps resolve."""
    unknown = found.nodes[:, found.known :] if found.nodes.shape[1] > found.known else found.nodes
    spread, largest = float(np.ptp(unknown)), float(np.abs(found.nodes).max())
    return _RESOLVED * spread / 2 / steps if spread > 1e-6 * largest else 1e-3 * (largest or 1.0)


def _grid(found: Quadrature, width: float) -> Array:
    """Multiples of a part of the width, wherever a node with weight is near."""
    step = width / _FINE
    near = np.unique(np.round(found.nodes[found.weights > 1e-14] / step).astype(np.int64))
    return np.unique(near[:, None] + np.arange(-_REACH * _FINE, _REACH * _FINE + 1)) * step
