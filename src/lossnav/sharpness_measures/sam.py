"""The worst case in a ball: what sharpness-aware minimisation takes for sharpness, plain and adaptive."""

from __future__ import annotations

import torch
from torch import Tensor

from lossnav.directions.normalize import Normalization
from lossnav.errors import OptionError
from lossnav.sharpness_measures.ascent import ascent_words, ascents, largest
from lossnav.sharpness_measures.neighborhood import Neighborhood
from lossnav.sharpness_measures.options import require_count, require_normalization, require_positive
from lossnav.sharpness_measures.registry import register
from lossnav.sharpness_measures.result import Invariance, KindResult
from lossnav.sharpness_measures.scaling import INVARIANCES, WORDS, scales


@register(
    "sam",
    formula="max L(θ+e) − L(θ), |e|₂ ≤ ρ; `steps=1, starts=1` is the single step of the paper",
    source="Foret et al. 2021, eq. 1 and 2",
    invariant_under="nothing",
    uncertainty="a lower bound of the maximum; spread over starts",
)
def sam(ground: Neighborhood, seed: int, *, radius: float = 0.05, steps: int = 10, starts: int = 3) -> KindResult:
    """Find the largest rise of the loss in a ball: max L(theta + e) - L(theta) over |e|_2 <= radius.

    One ascent begins at the centre; its first step is that of sharpness-aware minimisation, radius * grad / |grad|, and
    with ``steps=1, starts=1`` it is all there is. The others begin at random on the sphere.

    Parameters
    ----------
    radius : float
        rho, in units of weights.
    steps : int
        Of each ascent; a step takes a gradient.
    starts : int
        Ascents.

    References
    ----------
    Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving Generalization", eq. 1 (the maximum) and
    eq. 2 (one step). Departure: more steps and starts.
    """
    require_positive("radius", radius)
    rises = _rises(ground, torch.ones_like(ground.origin()), radius, steps, starts, seed)
    return KindResult(
        *largest(rises),
        f"max L(theta + e) - L(theta) over |e|_2 <= {radius:g}; {ascent_words(steps, starts)}",
        "Foret et al. 2021, eq. 1 and 2"
        + ("" if steps == starts == 1 else "; more ascent steps or starts than their one"),
        INVARIANCES[None],
        tuple(rises),
        {"radius": radius, "steps": steps, "starts": starts},
    )


@register(
    "asam",
    formula="max L(θ+e) − L(θ), |T⁻¹e|₂ ≤ ρ",
    source="Kwon et al. 2021, definition 2",
    invariant_under="as T",
    uncertainty="a lower bound of the maximum; spread over starts",
)
def asam(
    ground: Neighborhood,
    seed: int,
    *,
    radius: float = 0.5,
    normalize: Normalization = "weight",
    eta: float = 0.0,
    steps: int = 10,
    starts: int = 3,
) -> KindResult:
    """Find the largest rise of the loss for steps bounded by what they change: |T^-1 e|_2 <= radius.

    Parameters
    ----------
    radius : float
        rho, in parts of the weights: 0.1 lets each weight (or filter) change by a tenth of itself if it alone moves.
    normalize : "weight", "filter" or "layer"
        T_theta: |theta| entry by entry; the norm of each filter, of vectors |theta| entry by entry; of each tensor.
    eta : float
        Added to T_theta, so that weights of zero move too; then it is not scale-invariant any more.
    steps, starts : int
        As of `sam`.

    References
    ----------
    Kwon et al. 2021, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
    Networks", definition 2, with T_theta of section 3.1. Departures: more steps and starts; eta is 0, not 0.01; whole
    tensors as a third normalisation.
    """
    require_positive("radius", radius)
    require_normalization(normalize)
    if normalize is None:
        raise OptionError(
            "normalize=None leaves steps as they are: that is kind='sam'. Use 'weight', 'filter' or 'layer'."
        )
    if eta:
        require_positive("eta", eta)
    scale = scales(ground, normalize) + eta
    rises = _rises(ground, scale, radius, steps, starts, seed)
    added = f" plus {eta:g}" if eta else ""
    kept = INVARIANCES[normalize]
    if eta and kept.holds:
        kept = Invariance(False, f"eta = {eta:g} is added to the weights' own scale")
    return KindResult(
        *largest(rises),
        f"max L(theta + e) - L(theta) over |T^-1 e|_2 <= {radius:g}, T = {WORDS[normalize]}{added}; "
        + ascent_words(steps, starts),
        "Kwon et al. 2021, definition 2"
        + ("" if steps == starts == 1 else "; more ascent steps or starts than their one"),
        kept,
        tuple(rises),
        {"radius": radius, "normalize": normalize, "eta": eta, "steps": steps, "starts": starts},
    )


def _rises(ground: Neighborhood, scale: Tensor, radius: float, steps: int, starts: int, seed: int) -> list[float]:
    """What ascents reach in the ball |u| <= radius, where the step is scale * u.

    A stride is the ball's diameter, cut off at its surface: from the centre that is the step of the papers, and after
    it nearly one of a power iteration, which on a quadratic ends at the largest eigenvalue.
    """
    require_count("steps", steps)
    require_count("starts", starts)
    generator = torch.Generator().manual_seed(seed)

    def on_the_sphere() -> Tensor:
        drawn = ground.normal(generator)
        return radius / float(torch.linalg.vector_norm(drawn)) * drawn

    def ahead(at: Tensor, uphill: Tensor, stride: float) -> Tensor:
        beyond = at + 2 * radius * stride / float(torch.linalg.vector_norm(uphill)) * uphill
        return beyond * (radius / max(radius, float(torch.linalg.vector_norm(beyond))))

    elsewhere, *others = (on_the_sphere() for _ in range(starts))
    return ascents(
        ground, lambda u: scale * u, lambda g: scale * g, ahead, [ground.origin(), *others], elsewhere, steps
    )
