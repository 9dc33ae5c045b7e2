"""The verb: one objective, one definition, one number."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

from lossnav import params as algebra
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests, conclude
from lossnav.curvature.operators import ProductPrecision
from lossnav.errors import NonFiniteCenterError, OptionError
from lossnav.objective.objective import Objective
from lossnav.sharpness_measures.basin_width import width
from lossnav.sharpness_measures.keskar import epsilon
from lossnav.sharpness_measures.neighborhood import Neighborhood
from lossnav.sharpness_measures.noise import average, magnitude
from lossnav.sharpness_measures.options import require_count
from lossnav.sharpness_measures.result import KindResult, Sharpness
from lossnav.sharpness_measures.sam import asam, sam
from lossnav.sharpness_measures.spectral import lambda_max, relative_flatness, trace

SharpnessKind = Literal[
    "epsilon", "sam", "asam", "average", "magnitude", "trace", "lambda_max", "relative_flatness", "width"
]  # fmt: skip


class _Entry(NamedTuple):
    function: Callable[..., KindResult]
    exclude: tuple[str, ...] = ()


_RANDOM = ("bias", "norm")  # as directions.random leaves out: a random step in them is arbitrary

KINDS: dict[str, _Entry] = {
    "epsilon": _Entry(epsilon),
    "sam": _Entry(sam),
    "asam": _Entry(asam),
    "average": _Entry(average, _RANDOM),
    "magnitude": _Entry(magnitude, _RANDOM),
    "trace": _Entry(trace),
    "lambda_max": _Entry(lambda_max),
    "relative_flatness": _Entry(relative_flatness),
    "width": _Entry(width, _RANDOM),
}
assert set(KINDS) == set(get_args(SharpnessKind))


def sharpness(
    objective: Objective,
    kind: SharpnessKind,
    *,
    params: str | Sequence[str] = "*",
    exclude: str | Sequence[str] | None = None,
    seed: int = 0,
    precision: ProductPrecision = "native",
    progress: bool | None = None,
    **options: Any,
) -> Sharpness:
    """Measure how sharp the loss is around an objective's centre, by one of many definitions.

    They disagree: a ball and a box measure different things, and what is not scale-invariant can be made anything by
    multiplying one layer and dividing the next (Dinh et al. 2017). So the result names its definition.

    Parameters
    ----------
    objective : Objective
        Its own loss, over all its data, is what rises. ``objective.at(state)`` looks at other weights.
    kind : str
        ``"epsilon"``: the largest loss in a small box, relative, in per cent (Keskar et al. 2017); options epsilon,
        dimension, steps, starts.
        ``"sam"``: the largest rise in a ball (Foret et al. 2021); radius, steps, starts.
        ``"asam"``: the same of steps measured by the weights (Kwon et al. 2021); also normalize, eta.
        ``"average"``: the mean rise under normal noise (Neyshabur et al. 2017); sigma, normalize, draws, antithetic.
        ``"magnitude"``: the noise at which the mean loss has risen so far (Jiang et al. 2020); rise, rise_by,
        normalize, draws, limit, tolerance. Large is flat.
        ``"trace"``: of the Hessian, or scaled; normalize, probes.
        ``"lambda_max"``: its largest eigenvalue, or scaled; normalize, tolerance, limit.
        ``"relative_flatness"``: of one layer, named by `params` (Petzka et al. 2021); probes.
        ``"width"``: of the basin along random directions (Huang et al. 2020); rise, rise_by, normalize, directions,
        limit, tolerance. Large is flat.
        The options are described in the functions of these names in `lossnav.sharpness_measures`, and in
        docs/sharpness.md.
    params : str or sequence of str
        Glob patterns over the parameters: which move.
    exclude : str or sequence of str, optional
        ``"bias"``, ``"norm"`` or glob patterns, which do not. By default none do not, as in the papers, except that
        random noise and directions (average, magnitude, width) leave out biases and normalisation layers.
    seed : int
        Of everything random.
    precision : "native" or "float64"
        What the model computes in. A rise of the loss by less than a millionth of itself is rounding in float32.
    progress : bool or None
        Whether to show a bar (None: on a terminal).
    **options
        Of the kind.

    Returns
    -------
    Sharpness

    Raises
    ------
    OptionError
        If the kind or an option is unknown or cannot be.
    NonFiniteCenterError
        If the loss at the centre is NaN or infinite.
    ObjectiveError
        If the model cannot be differentiated where the kind needs it.
    Interrupted
        After Ctrl-C: a KeyboardInterrupt with the sharpness as far as it is known in ``partial``.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> a = torch.tensor([1.0, 3.0])
    >>> bowl = ln.Objective.from_function(lambda p: (a * p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> found = ln.sharpness(bowl, "sam", radius=2.0)
    >>> round(found.value, 3), found.interval[1], found.scale_invariant
    (12.0, inf, False)
    >>> round(float(ln.sharpness(bowl, "lambda_max")), 3)
    6.0
    """
    known = _require_known(kind, options)
    require_count("seed", seed, 0)
    left_out = algebra.listed(known.exclude if exclude is None else exclude)
    moving: dict[str, Any] = {"params": algebra.listed(params), "exclude": left_out}
    with Progress(f"sharpness ({kind})", None, "passes", progress) as bar, StopRequests() as stop:
        ground = Neighborhood(
            objective, **moving, precision=precision, stopping=lambda: stop.signal is not None, advance=bar.advance
        )
        if not math.isfinite(ground.center):
            raise NonFiniteCenterError(
                f"The loss at the centre is {ground.center}, from which there is no rise. Check weights and data, or "
                "precision='float64'."
            )
        finding = known.function(ground, seed, **options)
    excluded = [name for name in objective.params if name not in ground.names]
    settings = finding.settings | moving | {"excluded": excluded, "parameters": ground.size}
    settings |= {"seed": seed, "precision": precision, "loss": ground.center}
    settings |= {"objective": objective.fingerprint, "center": algebra.fingerprint(objective.params)}
    made = Sharpness(
        kind=kind,
        value=finding.value,
        error=finding.error,
        interval=finding.interval,
        uncertainty=finding.uncertainty,
        definition=finding.definition,
        source=finding.source,
        scale_invariant=finding.invariance.holds,
        invariance=finding.invariance.words,
        samples=finding.samples,
        settings=settings,
        evaluations=ground.evaluations,
        gradients=ground.gradients,
        products=ground.products,
        passes=ground.passes,
    )
    return conclude(made, stop.signal, f"{ground.passes} passes over the data")


def _require_known(kind: str, options: dict[str, Any]) -> _Entry:
    """The function of a kind; OptionError where there is none, or it takes no such options."""
    if kind not in KINDS:
        raise OptionError(f"kind={kind!r} is unknown. Use {', '.join(KINDS)}.")
    known = KINDS[kind]
    taken = [name for name in inspect.signature(known.function).parameters if name not in ("ground", "seed")]
    if unknown := [name for name in options if name not in taken]:
        raise OptionError(f"kind={kind!r} takes no {unknown[0]}=. Its options are {', '.join(taken)}.")
    return known
