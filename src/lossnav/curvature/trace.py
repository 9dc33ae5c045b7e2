"""The trace of an operator from products with random vectors, with its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lossnav._utils.lazy_import import lazily
from lossnav.curvature.base import Operator, as_operator
from lossnav.curvature.products import Entries, Products, Signs, without
from lossnav.errors import OptionError

if TYPE_CHECKING:
    from scipy import special
else:
    special = lazily("scipy.special")

Method = Literal["hutch++", "hutchinson"]

LEAST = 5  # probes that are needed to estimate an error
_SETTLED = 10  # probes before a tolerance may end the estimate: the error itself is known to 25 % then


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random vectors.

    Attributes
    ----------
    value : float
    error : float
        Its standard error.
    products : int
        Number of products with the operator.
    passes : int
        Number of passes over the data.
    probes : int
        Number of random vectors from which value and error were computed; 0 if nothing is random.
    """

    value: float
    error: float
    products: int
    passes: int = 0
    probes: int = 0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the ends of a confidence interval, by Student's t with (probes - 1) degrees of freedom.

        Examples
        --------
        >>> low, high = Estimate(10.0, 1.0, products=5, probes=5).interval()
        >>> round(low, 2), round(high, 2)
        (7.22, 12.78)
        """
        reach = self.error
        if self.probes > 1:
            reach *= float(special.stdtrit(self.probes - 1, 0.5 + confidence / 2))
        return self.value - reach, self.value + reach


def trace(
    operator: Operator[Any],
    *,
    products: int = 60,
    tolerance: float | None = None,
    method: Method = "hutch++",
    seed: int = 0,
    progress: bool | None = None,
) -> Estimate:
    """Estimate the trace of an operator: the sum of its eigenvalues.

    Hutchinson's estimate is the mean of v . H v over vectors v of random signs. Hutch++ first uses a third of the
    products to find a space Q that contains most of H. It computes the trace there exactly, and estimates the rest with
    P = 1 - Q Q^T::

        tr H = tr(Q^T H Q) + mean over v of (P v) . H (P v)

    Several vectors share a pass over the data. If there are no more parameters than products (with a tolerance: than
    ten), unit vectors are used instead, and the trace is exact up to rounding.

    Parameters
    ----------
    operator : Operator
        A `Hessian`, a `GaussNewton`, or one of your own (see `Operator`). It defines parameters and point.
    products : int
        Largest number of products: 15 or more (Hutchinson: 5 or more).
    tolerance : float, optional
        The standard error, relative to the value, at which the estimate may end earlier.
    method : "hutch++" or "hutchinson"
        Hutchinson stores only the vectors of one pass; Hutch++ stores as many as a third of the products.
    seed : int
        Of the random vectors.
    progress : bool or None
        Whether to show a progress bar (None: on a terminal).

    Returns
    -------
    Estimate
        Its error is the standard error of the mean over the probes (for Hutch++, of the rest only), and at least the
        one that follows from the bound 2 |P H P|_F^2 of the variance, as estimated from the probes; the rounding of the
        products is added. If nothing is random, the error is this rounding. NaN, with a warning, if the derivatives are
        not finite.

    Raises
    ------
    OptionError
        If an option is invalid.
    Interrupted
        After Ctrl-C, with the estimate from the probes so far in ``partial``.
    Others
        As the operator does.

    References
    ----------
    Meyer, Musco, Musco, Woodruff 2021, "Hutch++: Optimal stochastic trace estimation", algorithm 1. Hutchinson 1990,
    "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines".

    Examples
    --------
    >>> from lossnav.curvature import Hessian
    >>> from lossnav.objective.objective import Objective
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2 * torch.tensor([1.0, 2.0, 3.0])).sum(),
    ...                                {"x": torch.ones(3)})
    >>> found = trace(Hessian(bowl), products=15)
    >>> round(found.value, 4), round(found.error, 4)
    (12.0, 0.0)
    """
    least = {"hutch++": 3 * LEAST, "hutchinson": LEAST}
    if method not in least:
        raise OptionError(f"method={method!r} is unknown. Use 'hutch++' or 'hutchinson'.")
    if isinstance(products, bool) or not isinstance(products, int) or products < least[method]:
        raise OptionError(
            f"products={products!r} leave too few random vectors to estimate the error of {method}. "
            f"Allow {least[method]} or more."
        )
    if tolerance is not None and not tolerance > 0:
        raise OptionError(
            f"tolerance must be positive, got tolerance={tolerance!r}. Pass a relative error such as 0.05."
        )
    matrix = as_operator(operator, "trace")
    signs = Signs(matrix, seed)
    few = matrix.size <= (products if tolerance is None else min(products, _SETTLED))
    with Products(matrix, "trace", min(products, matrix.size), progress) as multiply:
        known, exact, first, variances = None, 0.0, list[float](), list[float]()
        if few:
            samples = entries(multiply, Entries(matrix, seed))
        else:
            if method == "hutch++":
                known, exact, first = _space(multiply, signs, products // 3)
            left = 0 if multiply.signal is not None else products - multiply.count
            samples, variances = residual(multiply, signs, left, known, exact, tolerance)
    whole = few and len(samples) == matrix.size
    if whole:
        exact = math.fsum(samples) / matrix.size
    if multiply.signal is not None and len(samples) < 2 and not whole:
        exact, samples, variances = 0.0, first, []  # the vectors for Q are probes too
    about = {"products": multiply.count, "passes": multiply.passes}
    found = estimate(exact, samples, variances, certain=whole, rounding=multiply.rounding, **about)
    nowhere = "The products are not finite at this point: the trace is NaN. Check the loss and the gradient there."
    return multiply.conclude(found, "" if math.isfinite(found.value) else nowhere)


def residual(
    multiply: Products,
    signs: Signs,
    n: int,
    known: Tensor | None = None,
    exact: float = 0.0,
    tolerance: float | None = None,
    samples: Sequence[float] = (),
) -> tuple[list[float], list[float]]:
    """Compute samples of the trace outside a space: (P v) . H (P v) for n vectors of signs, appended to `samples`.

    There are fewer if a stop is requested, or the error is within the tolerance. The second result is 2 |P H P v|^2 for
    each new sample. Its mean is 2 |P H P|_F^2, an upper bound of a sample's variance (Hutchinson 1990, proposition 1).
    """
    found, variances = list(samples), list[float]()
    for probes in signs.blocks(n, multiply.most):
        if multiply.signal is not None:
            break
        outside = without(probes, known)
        images = without(multiply(outside), known)
        found += (outside * images).sum(1).tolist()
        variances += (2 * images.square().sum(1)).tolist()
        if tolerance is not None and len(found) >= _SETTLED:
            so_far = estimate(exact, found, variances)
            if so_far.error <= tolerance * abs(so_far.value):
                break
    return found, variances


def estimate(
    exact: float,
    samples: Sequence[float],
    variances: Sequence[float] = (),
    *,
    certain: bool = False,
    rounding: float = 0.0,
    products: int = 0,
    passes: int = 0,
) -> Estimate:
    """Return an exact part plus the mean of samples of the rest, with its standard error; no samples if `certain`.

    A few samples of a skewed distribution may have too small a spread. So at least the square root of the mean of
    `variances` is used as their spread. The error includes rounding.
    """
    if certain:
        return Estimate(exact, rounding if math.isfinite(exact) else math.inf, products, passes)
    value = exact + float(np.mean(samples)) if samples else math.nan
    spread = float(np.std(samples, ddof=1)) if len(samples) > 1 else math.inf
    if len(variances):
        spread = max(spread, math.sqrt(float(np.mean(variances))))
    error = spread / math.sqrt(max(1, len(samples)))
    error = math.hypot(error, rounding)
    return Estimate(value, error if math.isfinite(value) else math.inf, products, passes, len(samples))


def entries(multiply: Products, units: Entries) -> list[float]:
    """Return the diagonal's entries times their number, as samples of the trace; not all if a stop is requested."""
    found = list[float]()
    d = multiply.operator.size
    for vectors in units.blocks(d, multiply.most):
        found += (d * (vectors * multiply(vectors)).sum(1)).tolist()
        if multiply.signal is not None:
            break
    return found


def _space(multiply: Products, signs: Signs, n: int) -> tuple[Tensor | None, float, list[float]]:
    """Return an orthonormal basis of H S, (n, d), the trace in it, and s . H s for each of the n vectors of signs S.

    The basis is None if a stop is requested, or the products are not finite.
    """
    sketch, images = [], []
    for probes in signs.blocks(n, multiply.most):
        sketch.append(probes)
        images.append(multiply(probes))
        if multiply.signal is not None:
            break
    image = torch.cat(images)
    samples = (torch.cat(sketch) * image).sum(1).tolist()
    if multiply.signal is not None:
        return None, 0.0, samples
    if not bool(torch.isfinite(image).all()):
        return None, math.nan, samples
    basis = torch.linalg.qr(image.T).Q.T.contiguous()
    again = multiply.in_blocks(basis)
    if len(again) < len(basis):
        return None, 0.0, samples
    return basis, float((basis * again).sum()), samples
