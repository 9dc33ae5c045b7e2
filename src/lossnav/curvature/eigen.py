"""Extreme eigenvalues of a Hessian, a Gauss-Newton matrix or another operator, with eigenvectors and errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav.curvature.base import CheckedOperator, Operator, V, as_operator
from lossnav.curvature.lanczos import Ritz, lanczos
from lossnav.curvature.products import Products
from lossnav.errors import OptionError

Which = Literal["largest", "smallest", "both"]

LIMIT = 500  # products, by default


@dataclass(frozen=True)
class Eigenpairs(Generic[V]):
    """Eigenvalues of an operator, most extreme first; if both ends were asked for, the smallest before the largest.

    Attributes
    ----------
    values : ndarray of shape (m,)
        In units of the loss over squared weights.
    errors : ndarray of shape (m,)
        The larger of the following two, plus the rounding of H v (about 1e-6 of the largest eigenvalue in float32, or
        the measured value). First, the norm of the residual H v - value v: an eigenvalue lies within this distance of
        the value. Second, how far beyond the value the eigenvalue of the same rank may lie (multiple eigenvalues
        counted with their multiplicity), with a probability of 95 % over the random start vectors, for all ends
        together (van Dorsselaer, Hochstenbach, van der Vorst 2000).
    vectors : tuple of m dict of str to Tensor
        Of length 1, with the names and shapes of the objective; the largest entry is positive. For an operator of your
        own, Tensors of shape (d,), float64, unless its `from_flat` returns something else.
    products : int
        Number of products with the operator.
    converged : bool
        Whether every error, without rounding, is within the tolerance.
    passes : int
        Number of passes over the data: one per product, three with ``bn="recompute"``.
    """

    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    vectors: tuple[V, ...]
    products: int
    converged: bool
    passes: int = 0


def top_eigenpairs(
    operator: Operator[V],
    k: int = 1,
    which: Which = "largest",
    *,
    seed: int = 0,
    tolerance: float = 1e-3,
    limit: int = LIMIT,
    progress: bool | None = None,
) -> Eigenpairs[V]:
    """Compute the largest or the most negative eigenvalues of an operator, and their eigenvectors.

    The Lanczos method needs only products; for a Hessian, each is one pass over the data (or three, with
    ``bn="recompute"``). Both ends come from the same products. An eigenvalue of multiplicity m counts as m of the k
    eigenvalues. If k is 2 or more, converged pairs are locked, and the search continues orthogonally to them from
    another random vector, until none of the k extreme eigenvalues is missing. The eigenvectors of a multiple eigenvalue
    are an orthonormal basis of its eigenspace, or of a part of it.

    Parameters
    ----------
    operator : Operator
        A `Hessian`, a `GaussNewton`, or one of your own (see `Operator`). It defines parameters and point.
    k : int
        Number of eigenvalues at each end.
    which : "largest", "smallest" or "both"
        By signed value, not by absolute value: the smallest are the most negative.
    seed : int
        Of the start vector.
    tolerance : float
        The allowed error relative to the value, or to a thousandth of the largest absolute eigenvalue if that is
        larger.
    limit : int
        Largest number of products.
    progress : bool or None
        Whether to show a progress bar (None: on a terminal).

    Returns
    -------
    Eigenpairs
        If the limit is reached first, there is a warning, and `errors` shows the accuracy. NaN if the derivatives are
        not finite.

    Raises
    ------
    OptionError
        If k, `which`, the tolerance, the limit or the seed is invalid.
    Interrupted
        After Ctrl-C, with the present pairs in ``partial``.

    Examples
    --------
    >>> from lossnav.curvature import Hessian
    >>> from lossnav.objective.objective import Objective
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2 * torch.tensor([1.0, -2.0, 5.0])).sum(),
    ...                                {"x": torch.ones(3)})
    >>> top_eigenpairs(Hessian(bowl), which="both").values.round(4)
    array([-4., 10.])
    """
    if which not in ("largest", "smallest", "both"):
        raise OptionError(f"which={which!r} is unknown. Use 'largest', 'smallest' or 'both'.")
    require_reachable(tolerance, limit, seed)
    matrix = as_operator(operator, "top_eigenpairs")
    smallest, largest = (k if which != "largest" else 0), (k if which != "smallest" else 0)
    require_count(k, smallest + largest, matrix, limit)
    with Products(matrix, "eigenvalues", None, progress) as multiply:
        pairs = search(multiply, smallest, largest, seed=seed, tolerance=tolerance, limit=limit)
    return multiply.conclude(pairs, doubts(pairs, tolerance, matrix.title))


def search(
    multiply: Products, smallest: int, largest: int, *, seed: int, tolerance: float, limit: int
) -> Eigenpairs[Any]:
    """Compute both ends of a spectrum from the same products; return the present pairs if a stop is requested."""
    matrix = multiply.operator
    before = matrix.passes
    found = lanczos(
        lambda vector: multiply(vector[None])[0],
        random_vector(matrix, seed),
        smallest,
        largest,
        tolerance=tolerance,
        limit=limit,
        seed=seed + 1,
        stop=lambda: multiply.signal is not None,
    )
    return _pairs(found, matrix, min(smallest, found.products), matrix.passes - before)


def doubts(pairs: Eigenpairs[Any], tolerance: float, title: str = "Hessian") -> str:
    """Return a warning about pairs that are not finite or not within the tolerance; empty if all are."""
    if not np.isfinite(pairs.values).all():
        return (
            f"The {title} is not finite at this point: its eigenvalues are NaN. Check the loss and the gradient there."
        )
    if pairs.converged:
        return ""
    worst = float(np.max(pairs.errors / np.maximum(np.abs(pairs.values), 1e-300)))
    return (
        f"After {pairs.products} products the relative error of an eigenvalue is {worst:.1%}, more than the tolerance "
        f"{tolerance:.1%}. Its error bound is in `errors`; allow more products with limit=, or a larger tolerance."
    )


def require_count(k: int, total: int, matrix: CheckedOperator[Any], limit: int) -> None:
    """Raise OptionError for a number of eigenvalues that is not possible."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= matrix.size or total > limit:
        raise OptionError(
            f"k={k} eigenvalues at each end are not possible for a matrix of shape {matrix.shape} in {limit} products. "
            "Ask for 1 or more, and allow some products for each."
        )


def require_reachable(tolerance: float, limit: int, seed: int) -> None:
    """Raise OptionError for an invalid tolerance, limit or seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed must be an integer of 0 or more, got seed={seed!r}. Pass, for example, seed=0.")
    if not 0 < tolerance < 1 or limit < 1:
        raise OptionError(
            f"The tolerance must be between 0 and 1 and the limit positive, got tolerance={tolerance!r} and "
            f"limit={limit!r}. Use a tolerance such as 1e-3 and a limit such as {LIMIT}."
        )


def random_vector(operator: CheckedOperator[Any], seed: int) -> Tensor:
    """Return a random vector of length 1, shape (d,), float64; drawn on the CPU, so equal on every device."""
    drawn = torch.randn(operator.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    drawn /= torch.linalg.vector_norm(drawn)
    return drawn.to(operator.device)


def _pairs(found: Ritz, operator: CheckedOperator[V], smallest: int, passes: int) -> Eigenpairs[V]:
    """Return eigenpairs, most extreme first, with signs that do not depend on the iteration."""
    order = [*range(smallest), *reversed(range(smallest, len(found.values)))]
    rows = [found.vectors[i] for i in order] if len(found.vectors) else []
    vectors = tuple(operator.from_flat(row * torch.sign(row[row.abs().argmax()])) for row in rows)
    errors = found.errors[order] + operator.rounding(found.radius)
    return Eigenpairs(found.values[order], errors, vectors, found.products, found.converged, passes)
