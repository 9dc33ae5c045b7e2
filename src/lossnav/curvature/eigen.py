"""The ends of the spectrum of a Hessian or a Gauss-Newton matrix, with their eigenvectors and how sure they are."""

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

LIMIT = 500  # products, unless it is said otherwise


@dataclass(frozen=True)
class Eigenpairs(Generic[V]):
    """Eigenvalues of an operator, the most extreme first; of both ends the smallest ones before the largest ones.

    Attributes
    ----------
    values : ndarray of shape (m,)
        In units of the loss over squared weights.
    errors : ndarray of shape (m,)
        The larger of two, and the rounding of H v (about 1e-6 of the largest eigenvalue in float32, or what it was
        measured to be). The norm of the residual H v - value v: a true eigenvalue lies within this distance of the
        value. And how far beyond the value the one of its place itself may lie, equal ones counted as often as they
        occur, with a probability of 95 % over the random vectors to begin with, for all ends together (van Dorsselaer,
        Hochstenbach, van der Vorst 2000).
    vectors : tuple of m dict of str to Tensor
        Of length 1, with the names and shapes of the objective; the largest entry is positive. Of an operator of your
        own Tensors of shape (d,), float64, unless it says otherwise.
    products : int
        With the operator.
    converged : bool
        Whether every error is within the tolerance, but for the rounding.
    passes : int
        Over the data: one a product, three with ``bn="recompute"``.
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
    """Find the largest or the most negative eigenvalues of an operator, and their eigenvectors.

    By the Lanczos method: nothing but products, of a Hessian one pass over the data each (or three, with
    ``bn="recompute"``). Both ends come from the same products. An eigenvalue that occurs m times is m of the k, and so
    are several that lie close together: where k is 2 or more, what was found is locked and it is looked beside it,
    from another random vector, until nothing that belongs among the k is left. Of equal eigenvalues the eigenvectors
    are an orthonormal basis of their space, or of a part of it.

    Parameters
    ----------
    operator : Operator
        A `Hessian`, a `GaussNewton`, or one of your own (see `Operator`): it says of which parameters, at which point.
    k : int
        How many of each end.
    which : "largest", "smallest" or "both"
        Of the values themselves, not of their size: the smallest are the most negative ones.
    seed : int
        Of the vector to begin with.
    tolerance : float
        Each error is to be at most this part of its value, or of a thousandth of the largest in size where that is
        more.
    limit : int
        Most products there may be.
    progress : bool or None
        Whether to show a bar (None: on a terminal).

    Returns
    -------
    Eigenpairs
        Where the limit was reached first, with a warning, and its `errors` say how far it got. NaN where the
        derivatives are not finite.

    Raises
    ------
    OptionError
        If k, `which`, the tolerance, the limit or the seed cannot be.
    Interrupted
        After Ctrl-C: a KeyboardInterrupt with the pairs as far as they are known in ``partial``.

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
    """Both ends of a spectrum from the same products; what is known so far where a stop was asked for."""
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
    """What is to be said of pairs that are not as sure as they were to be; nothing where they are."""
    if not np.isfinite(pairs.values).all():
        return f"The {title} is not finite at this point: its eigenvalues are NaN. Check loss and gradient there."
    if pairs.converged:
        return ""
    worst = float(np.max(pairs.errors / np.maximum(np.abs(pairs.values), 1e-300)))
    return (
        f"After {pairs.products} products an eigenvalue is known to within {worst:.1%} of itself only, not "
        f"{tolerance:.1%}. Its error bound is in `errors`; allow more products with limit=, or a larger tolerance."
    )


def require_count(k: int, total: int, matrix: CheckedOperator[Any], limit: int) -> None:
    """Raise OptionError for numbers of eigenvalues that cannot be had."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= matrix.size or total > limit:
        raise OptionError(
            f"k={k} eigenvalues of each end cannot be had of a matrix of shape {matrix.shape} in {limit} products. "
            "Ask for 1 or more, and allow some products for each."
        )


def require_reachable(tolerance: float, limit: int, seed: int) -> None:
    """Raise OptionError for a tolerance, a limit or a seed that cannot be."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed={seed!r} cannot be used. Pass a whole number from 0 upwards.")
    if not 0 < tolerance < 1 or limit < 1:
        raise OptionError(
            f"tolerance={tolerance!r} and limit={limit!r} lead to no eigenvalue. Use a tolerance such as 1e-3 and a "
            f"limit such as {LIMIT}."
        )


def random_vector(operator: CheckedOperator[Any], seed: int) -> Tensor:
    """A random vector of length 1, shape (d,), float64; drawn on the CPU, so the same on every device."""
    drawn = torch.randn(operator.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    drawn /= torch.linalg.vector_norm(drawn)
    return drawn.to(operator.device)


def _pairs(found: Ritz, operator: CheckedOperator[V], smallest: int, passes: int) -> Eigenpairs[V]:
    """The most extreme first, with signs that do not depend on the way they were found."""
    order = [*range(smallest), *reversed(range(smallest, len(found.values)))]
    rows = [found.vectors[i] for i in order] if len(found.vectors) else []
    vectors = tuple(operator.from_flat(row * torch.sign(row[row.abs().argmax()])) for row in rows)
    errors = found.errors[order] + operator.rounding(found.radius)
    return Eigenpairs(found.values[order], errors, vectors, found.products, found.converged, passes)
