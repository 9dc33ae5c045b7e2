"""Random directions, normalised and orthogonal, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.progress import Progress
from lossnav._utils.signals import signal_of
from lossnav._utils.validation import require
from lossnav.directions.base import TOGETHER, Direction, Distribution, direction_dtype, require_number
from lossnav.directions.counter_based import Draws, way_out
from lossnav.directions.lazy import Family, LazyDirection
from lossnav.directions.normalize import Normalization, require_normalization
from lossnav.directions.registry import register
from lossnav.errors import DirectionError, Interrupted, OptionError
from lossnav.objective.objective import Objective
from lossnav.params import Params


@overload
def random(
    objective: Objective,
    n: int = 1,
    *,
    normalize: Normalization = ...,
    distribution: Distribution = ...,
    orthogonal: bool = ...,
    exclude: Sequence[str] = ...,
    seed: int = ...,
    lazy: Literal[False] = ...,
    progress: bool | None = ...,
) -> tuple[Direction, ...]: ...


@overload
def random(
    objective: Objective,
    n: int = 1,
    *,
    normalize: Normalization = ...,
    distribution: Distribution = ...,
    orthogonal: bool = ...,
    exclude: Sequence[str] = ...,
    seed: int = ...,
    lazy: bool,
    progress: bool | None = ...,
) -> tuple[Direction | LazyDirection, ...]: ...


@register(
    "random",
    options=("n", "normalize", "distribution", "orthogonal", "exclude", "seed", "lazy"),
    on_command_line=True,
)
def random(
    objective: Objective,
    n: int = 1,
    *,
    normalize: Normalization = "filter",
    distribution: Distribution = "normal",
    orthogonal: bool = True,
    exclude: Sequence[str] = ("bias", "norm"),
    seed: int = 0,
    lazy: bool = False,
    progress: bool | None = None,
) -> tuple[Direction | LazyDirection, ...]:
    """Draw random directions.

    Each tensor is drawn separately, on the CPU in float32, from counter-based generators keyed by the seed, the number
    of the direction, the name of the tensor and the number of the slice (whole rows with at most 2^20 entries). So the
    numbers of a tensor do not depend on other tensors, on the device, on exclusions or on threads.

    With ``normalize="filter"``, the directions are made orthogonal *within each filter* before the filter is scaled.
    Then every filter has the norm of the weight's filter **and** the directions are orthogonal. Orthogonalising whole
    directions and scaling afterwards would lose one of the two. A filter of m entries has at most m orthogonal
    directions: from the (m+1)-th direction on it is zero, and the recipe counts it in ``filters_left_out``.

    Parameters
    ----------
    objective : Objective
        The objective whose parameters move.
    n : int
        Number of directions.
    normalize : "filter", "layer", "weight" or None
        ``filter``: d_ij <- d_ij * ||theta_ij|| / ||d_ij|| for filter j of layer i (Li et al. 2018, section 4).
        ``layer``: the same per tensor. ``weight``: every entry times the absolute value of its weight.
        None: as drawn.
    distribution : "normal" or "uniform"
        Standard normal, or uniform on [0, 1) as in the seed notebook (its mean is not zero).
    orthogonal : bool
        Whether directions are made exactly orthogonal, d_i . d_j = 0.
    exclude : sequence of str
        ``"bias"`` and ``"norm"`` (parameters of normalisation layers) leave out all parameters with that role; any
        other string is a glob pattern for names. Excluded parameters stay at the centre. Default as in Li et al. 2018.
    seed : int
        Recorded in the recipe.
    lazy : bool
        Whether tensors are drawn again at each use instead of being stored, for models too large to be held in memory
        together with their directions (with ``Objective(copy=False)``). The bits are the same. A Line, Plane or Volume
        of them needs memory only for the point that it computes. Drawing takes seven seconds per billion parameters,
        direction and point on two cores.
    progress : bool or None
        See `Progress`.

    Returns
    -------
    tuple of n Direction, or LazyDirection
        In the parameters' dtype, or float32 if that is less precise, so that small steps do not vanish.

    Raises
    ------
    OptionError
        If an option is unknown, or all parameters are excluded.
    DirectionError
        If there are no n orthogonal directions.
    Interrupted
        After Ctrl-C. Its ``.directions`` holds the first complete directions, as the whole call would return them.

    References
    ----------
    Li, Xu, Taylor, Studer, Goldstein 2018, "Visualizing the Loss Landscape of Neural Nets", section 4.
    Departures: they set excluded layers to zero only on request, and do not orthogonalise.
    """
    require(objective, "objective")
    require_normalization(normalize)
    require_number(n)
    if distribution not in ("normal", "uniform"):
        raise OptionError(f"distribution={distribution!r} is unknown. Use 'normal' or 'uniform'.")
    if not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed must be an integer of 0 or more, got seed={seed!r}. Pass, for example, seed=0.")
    exclude = algebra.listed(() if exclude is None else exclude)
    still = objective.excluded(exclude)
    names = [name for name in objective.params if name not in still]
    if not names:
        raise OptionError(
            f"exclude={tuple(exclude)!r} leaves no parameter to move. Exclude fewer, for example with exclude=()."
        )

    directions: list[Direction | LazyDirection] = []
    entries = sum(objective.params[name].numel() for name in names)
    passes = 2 if normalize in ("filter", "layer") or (orthogonal and n > 1) else 1  # one to measure, one to compute
    try:
        with Progress("draw directions", passes * n * entries, "entries", progress) as bar:
            draws = Draws(
                {name: objective.params[name] for name in names},
                n,
                seed=seed,
                distribution=distribution,
                normalize=normalize,
                orthogonal=orthogonal,
                transposed=objective.transposed,
                progress=bar,
            )
            family = Family(draws, objective.params) if lazy else None
            for first in range(0, n, TOGETHER):
                numbers = range(first, min(first + TOGETHER, n))
                stored = _stored(draws, objective.params, numbers) if family is None else {}
                for i in numbers:
                    recipe: dict[str, Any] = {
                        "kind": "random",
                        "distribution": distribution,
                        "normalize": normalize,
                        "orthogonal": orthogonal,
                        "seed": seed,
                        "index": i,
                        "n": n,
                        "exclude": exclude,
                        "excluded": sorted(still),
                        "filters_left_out": draws.left_out[i],
                    }
                    made = Direction(stored[i], recipe) if family is None else LazyDirection(family, i, recipe)
                    _require_length(made, i, n, {name: objective.params[name] for name in names}, normalize)
                    directions.append(made)
            draws.finish()
    except KeyboardInterrupt as error:
        words = f"Stopped after {len(directions)} of {n} directions. The exception's .directions holds them."
        stopped = Interrupted(words, signal=signal_of(error))
        stopped.directions = tuple(directions)
        raise stopped from None
    return tuple(directions)


def _require_length(
    direction: Direction | LazyDirection, i: int, n: int, params: Mapping[str, Tensor], normalize: str | None
) -> None:
    """Raise if a direction is zero: there are too few orthogonal directions, or the weights to scale to are zero."""
    if direction.recipe["norm"]:
        return
    line = way_out(params, n, normalize, i)
    if not i:
        raise DirectionError(
            f"Direction 1 of {n} is zero: normalize={normalize!r} scales it to the moving weights, which are zero. "
            f"{line}"
        )
    raise DirectionError(
        f"Direction {i + 1} of {n} is zero: the weights that are not zero are too few for {n} orthogonal directions. "
        f"{line}"
    )


def _stored(draws: Draws, params: Params, numbers: Sequence[int]) -> dict[int, Params]:
    """Compute all tensors of some of the directions; zeros for parameters that are excluded."""
    made = {
        i: {name: torch.zeros(t.shape, dtype=direction_dtype(t), device=t.device) for name, t in params.items()}
        for i in numbers
    }
    draws.fill({name: {i: made[i][name] for i in numbers} for name in draws.like})
    return made
