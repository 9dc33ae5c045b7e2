"""The diagonal of an operator from products with random vectors, with the error of each entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic

import torch

from lossnav.curvature.base import Operator, V, as_operator
from lossnav.curvature.products import Entries, Products, Signs
from lossnav.curvature.trace import LEAST
from lossnav.errors import OptionError


@dataclass(frozen=True)
class Diagonal(Generic[V]):
    """The diagonal of an operator, entry by entry.

    Attributes
    ----------
    value, error : dict of str to Tensor
        Each entry and its standard error (rounding included), with the names and shapes of the objective; zero for
        parameters that are left out. For an operator of your own, Tensors of shape (d,), float64, unless its
        `from_flat` returns something else.
    products : int
        Number of products with the operator, one per vector.
    passes : int
        Number of passes over the data.
    """

    value: V
    error: V
    products: int
    passes: int


def diagonal(
    operator: Operator[V],
    *,
    products: int = 50,
    seed: int = 0,
    progress: bool | None = None,
) -> Diagonal[V]:
    """Estimate the diagonal of an operator; for a Hessian, the second derivative by each single parameter.

    It is the mean of v * (H v), entry by entry, over vectors v of random signs. The error of entry i comes from the
    other entries of its row: its standard error is sqrt((sum over j of H_ij^2) - H_ii^2) / sqrt(products). This falls
    slowly, so always look at the error too. If there are no more parameters than products, unit vectors are used
    instead, and each entry is exact up to rounding.

    Parameters
    ----------
    operator : Operator
        A `Hessian`, a `GaussNewton`, or one of your own (see `Operator`). It defines parameters and point.
    products : int
        Number of random vectors, 5 or more; several share a pass over the data.
    seed : int
        Of the random vectors.
    progress : bool or None
        Whether to show a progress bar (None: on a terminal).

    Returns
    -------
    Diagonal

    Raises
    ------
    OptionError
        If an option is invalid.
    Interrupted
        After Ctrl-C, with the diagonal from the products so far in ``partial``.
    Others
        As the operator does.

    References
    ----------
    Bekas, Kokiopoulou, Saad 2007, "An estimator for the diagonal of a matrix", eq. 3; with random signs, its
    denominator is the number of vectors.

    Examples
    --------
    >>> from lossnav.curvature import Hessian
    >>> from lossnav.objective.objective import Objective
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2 * torch.tensor([1.0, -2.0])).sum(), {"x": torch.ones(2)})
    >>> found = diagonal(Hessian(bowl), products=5)
    >>> found.value["x"], found.error["x"].round(decimals=4)
    (tensor([ 2., -4.]), tensor([0., 0.]))
    """
    if isinstance(products, bool) or not isinstance(products, int) or products < LEAST:
        raise OptionError(f"products={products!r} are too few to estimate the error. Allow {LEAST} or more.")
    matrix = as_operator(operator, "diagonal")
    n, d, few = 0, matrix.size, matrix.size <= products
    mean = torch.zeros(d, dtype=torch.float64, device=matrix.device)
    squares = torch.zeros_like(mean)  # of the deviations from the mean
    seen = torch.zeros_like(mean)
    probing = Entries(matrix, seed) if few else Signs(matrix, seed)
    with Products(matrix, "diagonal", min(products, d), progress) as multiply:
        for probes in probing.blocks(min(products, d), multiply.most):
            for probe, image in zip(probes, multiply(probes), strict=True):
                n += 1
                seen += probe.abs()
                deviation = probe * image - mean * probe.abs()
                mean += deviation / seen.clamp_min(1)  # Welford 1962: sums of squares would cancel
                squares += deviation * (probe * image - mean * probe.abs())
            if multiply.signal is not None:
                break
    rounding = 2 * matrix.rounding(multiply.norm / math.sqrt(d))
    if few:
        error = torch.where(seen > 0, rounding, math.inf)
    else:
        error = torch.sqrt(squares / (n - 1) / n + rounding**2) if n > 1 else torch.full_like(mean, math.inf)
    found = Diagonal(matrix.from_flat(mean), matrix.from_flat(error), n, multiply.passes)
    return multiply.conclude(found)
