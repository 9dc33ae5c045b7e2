"""Sharpness as curvature: trace and largest eigenvalue of the Hessian, plain or of steps measured by the weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.curvature.eigen import LIMIT, require_reachable
from lossnav.curvature.lanczos import lanczos
from lossnav.directions.normalize import Normalization
from lossnav.errors import LossnavWarning, OptionError
from lossnav.sharpness_measures.neighborhood import Neighborhood, Stopped
from lossnav.sharpness_measures.noise import mean_of
from lossnav.sharpness_measures.options import require_count, require_normalization
from lossnav.sharpness_measures.registry import register
from lossnav.sharpness_measures.result import Bounds, Invariance, KindResult
from lossnav.sharpness_measures.scaling import INVARIANCES, WORDS, scales

_AT_ONCE, _MEMORY = 8, 2**30  # probes in one pass, as far as their vectors take no more bytes
_RELATIVE = Invariance(
    True, "multiplying the layer, or single rows of it, where what follows is divided by the same (not its columns)"
)


@register(
    "trace",
    formula="tr T H T",
    source="Dinh et al. 2017, section 2; Hutchinson 1990; T of Kwon et al.",
    invariant_under="as T",
    uncertainty="standard error over probes; 95 % interval",
)
def trace(ground: Neighborhood, seed: int, *, normalize: Normalization = None, probes: int = 30) -> KindResult:
    """Find the trace of the Hessian, or of T H T for steps measured by the weights.

    Parameters
    ----------
    normalize : None, "weight", "filter" or "layer"
        T_theta: 1, |theta|, the norm of each filter or tensor. sigma^2 / 2 times the trace is what `average` finds for
        small sigma at a stationary point, with None and "weight"; with the others it shares a norm out among entries.
    probes : int
        Hessian-vector products.

    References
    ----------
    Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix". T of Kwon et al. 2021, section 3.1;
    with filters it is the diagonal part of relative flatness (Petzka et al. 2021).
    """
    require_normalization(normalize)
    require_count("probes", probes)
    scale = scales(ground, normalize)
    found, value, error, interval, uncertainty, method = _trace(lambda v: scale * v, ground, probes, seed)
    of = "the Hessian H" if normalize is None else f"T H T, T = {WORDS[normalize]}"
    return KindResult(
        value,
        error,
        interval,
        uncertainty,
        f"trace of {of}; {method}",
        "trace of the Hessian, as in Dinh et al. 2017, section 2; Hutchinson 1990"
        + ("" if normalize is None else "; T of Kwon et al. 2021, section 3.1"),
        INVARIANCES[normalize],
        tuple(found),
        {"normalize": normalize, "probes": probes},
    )


@register(
    "relative_flatness",
    formula='Σ_st ⟨w_s, w_t⟩ tr H_st over the rows of one layer (`params="fc.weight"`)',
    source="Petzka et al. 2021",
    invariant_under="the layer, or single rows of it",
    uncertainty="standard error over probes; 95 % interval",
)
def relative_flatness(ground: Neighborhood, seed: int, *, probes: int = 30) -> KindResult:
    """Find the relative flatness of one layer: the sum over its rows of <w_s, w_t> tr H_st.

    H_st is the block of the Hessian of rows s and t of the weight. With G = W W^T the sum is the trace of
    (G^1/2 x I) H (G^1/2 x I), so that it is estimated as a trace is. ``params=`` says which layer.

    Parameters
    ----------
    probes : int
        Hessian-vector products.

    References
    ----------
    Petzka et al. 2021, "Relative Flatness and Generalization", the definition of relative flatness.
    """
    require_count("probes", probes)
    shapes = {name: ground.objective.params[name].shape for name in ground.names}
    if len(shapes) != 1 or len(next(iter(shapes.values()))) < 2:
        weights = [name for name, tensor in ground.objective.params.items() if tensor.dim() > 1]
        raise OptionError(
            f"Relative flatness is that of one layer's weight, not of {', '.join(list(shapes)[:3])}… Pass one name, "
            f"such as params={weights[-1] if weights else 'fc.weight'!r}."
        )
    ((name, shape),) = shapes.items()
    groups = ground.objective.transposed.get(name)
    rows = algebra.to_filters(ground.objective.params[name].detach().double(), groups)  # (m, n)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T  # (m, m)

    def spread(vector: Tensor) -> Tensor:
        filters = algebra.to_filters(vector.reshape(shape), groups)
        return algebra.from_filters(root @ filters, shape, groups).reshape(-1)

    found, value, error, interval, uncertainty, method = _trace(spread, ground, probes, seed)
    return KindResult(
        value,
        error,
        interval,
        uncertainty,
        f'sum over rows s, t of "{name}" of <w_s, w_t> tr H_st; {method}',
        "Petzka et al. 2021, relative flatness",
        _RELATIVE,
        tuple(found),
        {"probes": probes},
    )


@register(
    "lambda_max",
    formula="λmax(T H T)",
    source="Dinh et al. 2017, section 2; T of Kwon et al.",
    invariant_under="as T",
    uncertainty="norm of the residual: an eigenvalue lies within this distance",
)
def lambda_max(
    ground: Neighborhood, seed: int, *, normalize: Normalization = None, tolerance: float = 1e-3, limit: int = LIMIT
) -> KindResult:
    """Find the largest eigenvalue of the Hessian, or of T H T for steps measured by the weights.

    At a minimum, radius^2 / 2 times it is what `sam` (`asam`) finds for a small radius.

    Parameters
    ----------
    normalize : None, "weight", "filter" or "layer"
        T_theta: 1, |theta|, the norm of each filter or tensor.
    tolerance, limit
        As of `curvature.top_eigenpairs`.

    References
    ----------
    Dinh et al. 2017, "Sharp Minima Can Generalize For Deep Nets", section 2 (spectral norm and trace of the Hessian as
    measures of sharpness). T of Kwon et al. 2021, section 3.1.
    """
    require_normalization(normalize)
    require_reachable(tolerance, limit, seed)
    scale = scales(ground, normalize)
    start = ground.normal(torch.Generator().manual_seed(seed))
    value, error, products, converged = math.nan, math.nan, 0, True
    try:
        found = lanczos(
            lambda v: scale * ground.multiply(scale * v)[0],
            start / torch.linalg.vector_norm(start),
            0,
            1,
            tolerance=tolerance,
            limit=limit,
            seed=seed + 1,
            stop=lambda: ground.stopped,
        )
        value, error, products = float(found.values[-1]), float(found.errors[-1]), found.products
        if math.isfinite(value):  # of T H T as of H
            error += ground.rounding(found.radius)
        converged = found.converged or ground.stopped
    except Stopped:
        pass
    if not converged and math.isfinite(value):
        warnings.warn(
            f"After {products} products the largest eigenvalue is known to within {error:.2g} only. Allow more "
            "products with limit=, or a larger tolerance.",
            LossnavWarning,
            stacklevel=3,
        )
    of = "the Hessian H" if normalize is None else f"T H T, T = {WORDS[normalize]}"
    return KindResult(
        value,
        error,
        (value - error, value + error) if math.isfinite(value) else (-math.inf, math.inf),
        "the error is the larger of the residual's norm and of how far beyond the value the largest eigenvalue may "
        "lie, with a probability of 95 % over the random start"
        if math.isfinite(value)
        else "the Hessian is not finite here, or nothing was computed",
        f"largest eigenvalue of {of}; Lanczos, {products} products",
        "largest eigenvalue of the Hessian, as in Dinh et al. 2017, section 2"
        + ("" if normalize is None else "; T of Kwon et al. 2021, section 3.1"),
        INVARIANCES[normalize],
        (),
        {"normalize": normalize, "tolerance": tolerance, "limit": limit},
    )


def _no_surer(
    rounding: float, value: float, error: float, interval: Bounds, uncertainty: str
) -> tuple[float, float, Bounds, str]:
    """The same with an error and an interval that hold what rounding may do."""
    low, high = interval
    return value, math.hypot(error, rounding), (low - rounding, high + rounding), uncertainty


def _trace(
    apply: Callable[[Tensor], Tensor], ground: Neighborhood, probes: int, seed: int
) -> tuple[list[float], float, float, Bounds, str, str]:
    """Estimate the trace of A H A, A symmetric: samples, value, error, interval, what these are, and the method.

    The samples are z . A H A z over random signs z. Where there are no more parameters than probes, the trace is the
    sum over unit vectors, and nothing is left to chance; these come in a random order, so that some of them are a
    sample of all where it was stopped.
    """
    at_once = max(1, min(_AT_ONCE, _MEMORY // (32 * ground.size)))
    few = ground.size <= probes
    n = ground.size if few else probes
    blocks = (ground.entries(seed) if few else ground.signs(seed)).blocks(n, at_once)
    found: list[float] = []
    squares = 0.0
    with suppress(Stopped):
        for probing in blocks:
            vectors = [apply(each) for each in probing]
            images = ground.multiply(*vectors)
            found += [float(v @ image) for v, image in zip(vectors, images, strict=True)]
            squares += sum(float(apply(image).square().sum()) for image in images)
    norm = math.sqrt(squares * (n if few else 1) / len(found)) if found and math.isfinite(squares) else 0.0
    rounding = 2 * ground.rounding(norm)
    value = math.fsum(found)
    if few and len(found) == n and math.isfinite(value):
        interval, exact = (value - rounding, value + rounding), "exact but for rounding"
        return [], value, rounding, interval, exact, f"the sum of v . H v over the {n} unit vectors v"
    if few:
        found = [n * each for each in found]
        method = f"{n} times the mean of v . H v over {len(found)} of the {n} unit vectors v"
    else:
        method = f"Hutchinson's estimator with {len(found)} vectors of random signs"
    return found, *_no_surer(rounding, *mean_of(found)), method
