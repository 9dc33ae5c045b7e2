"""The verb `sharpness`: measure an objective by one definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lossnav import params as algebra
from lossnav._utils.conclusion import conclude
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav.curvature.loss_operator import ProductPrecision
from lossnav.errors import NonFiniteCenterError, OptionError
from lossnav.objective.objective import Objective
from lossnav.sharpness_measures.neighborhood import Neighborhood
from lossnav.sharpness_measures.options import require_count
from lossnav.sharpness_measures.registry import KINDS, SharpnessKind
from lossnav.sharpness_measures.result import Sharpness


def sharpness(
    objective: Objective,
    kind: str,
    *,
    params: str | Sequence[str] = "*",
    exclude: str | Sequence[str] | None = None,
    seed: int = 0,
    precision: ProductPrecision = "native",
    progress: bool | None = None,
    **options: Any,
) -> Sharpness:
    """Measure the sharpness of the loss at an objective's centre, by one of several definitions.

    The definitions differ: a ball and a box measure different things, and a measure that is not scale-invariant can be
    given any value by multiplying one layer and dividing the next (Dinh et al. 2017). So the result names its
    definition.

    Parameters
    ----------
    objective : Objective
        Its loss over all its data is used. ``objective.at(state)`` moves the centre to other weights.
    kind : str
        The definition: "epsilon", "sam", "asam", "average", "magnitude", "trace", "lambda_max", "relative_flatness",
        "width", or one that you `register`. docs/sharpness.md has a table of them, `KINDS[kind].options` the options of
        each, and the functions of these names in `lossnav.sharpness_measures` describe them.
    params : str or sequence of str
        Glob patterns of the parameters that move.
    exclude : str or sequence of str, optional
        ``"bias"``, ``"norm"`` or glob patterns of parameters that do not move. The default depends on the kind:
        nothing, as in the papers, except that random noise and directions (average, magnitude, width) exclude biases
        and normalisation layers.
    seed : int
        Seed of all random numbers.
    precision : "native" or "float64"
        Precision of the model. In float32 a rise of the loss by less than a millionth is rounding.
    progress : bool or None
        Whether to show a bar (None: on a terminal).
    **options
        Options of the kind.

    Returns
    -------
    Sharpness

    Raises
    ------
    OptionError
        If the kind or an option is unknown or invalid.
    NonFiniteCenterError
        If the loss at the centre is NaN or infinite.
    ObjectiveError
        If the kind needs derivatives that the model does not have.
    Interrupted
        After Ctrl-C: a KeyboardInterrupt with the sharpness so far in ``partial``.

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
                f"The loss at the centre is {ground.center}, so a rise cannot be measured. Check weights and data, or "
                "precision='float64'."
            )
        finding = known.measure(ground, seed, **options)
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


def _require_known(kind: str, options: dict[str, Any]) -> SharpnessKind:
    """Return the kind of a name; raise OptionError if it is unknown or lacks an option."""
    if kind not in KINDS:
        raise OptionError(f"kind={kind!r} is unknown. Use one of {', '.join(KINDS)}.")
    known = KINDS[kind]
    if unknown := [name for name in options if name not in known.options]:
        has = f"Its options are {', '.join(known.options)}." if known.options else "It has none."
        raise OptionError(f"kind={kind!r} takes no {unknown[0]}=. {has}")
    return known
