"""Random directions, normalised and orthogonal, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.progress import Progress
from lossnav._utils.signals import signal_of
from lossnav._utils.validation import require
from lossnav.directions.base import _TOGETHER, Direction, Distribution, _direction_dtype, _require_number
from lossnav.directions.counter_based import Draws, way_out
from lossnav.directions.lazy import Family, LazyDirection
from lossnav.directions.normalize import Normalization, _require_normalization
from lossnav.directions.registry import register
from lossnav.errors import DirectionError, Interrupted, OptionError
from lossnav.objective.objective import Objective
from lossnav.params import Params

if TYPE_CHECKING:
    pass


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

    Each tensor is drawn on its own, on the CPU in float32, from counter-based generators keyed by the seed, the
    number of the direction, the name of the tensor and the number of the slice (rows of at most 2^20 entries
    together): what is drawn for one does not depend on the others, on the device, on what is excluded or on threads.

    With ``normalize="filter"`` the directions are made orthogonal *within each filter* before the filter is scaled.
    Then every filter has the norm of the weight's filter **and** the directions are orthogonal. Orthogonalising as a
    whole and scaling afterwards loses one of the two. A filter of m entries has no more than m orthogonal
    directions: it is left out (zero) from the (m+1)-th on, which the recipe counts in ``filters_left_out``.

    Parameters
    ----------
    objective : Objective
        Whose parameters move.
    n : int
        How many directions.
    normalize : "filter", "layer", "weight" or None
        ``filter``: d_ij <- d_ij * ||theta_ij|| / ||d_ij|| for filter j of layer i (Li et al. 2018, section 4).
        ``layer``: the same per tensor. ``weight``: every entry times the absolute value of its weight.
        None: as drawn.
    distribution : "normal" or "uniform"
        Standard normal, or uniform on [0, 1) as in the seed notebook (not of zero mean).
    orthogonal : bool
        Whether d_i . d_j = 0 is made exact.
    exclude : sequence of str
        ``"bias"`` and ``"norm"`` (parameters of normalisation layers) leave out what has that role; anything else
        is a glob pattern over names. What is left out stays at the centre. Default as in Li et al. 2018.
    seed : int
        Recorded in the recipe.
    lazy : bool
        Whether tensors are drawn anew where they are needed instead of stored: for models too large to be held beside
        their directions (with ``Objective(copy=False)``). The bits are the same. A Line, Plane or Volume of them
        holds no more than the point it makes; to draw takes seven seconds a billion parameters, direction and point
        on two cores.
    progress : bool or None
        See `Progress`.

    Returns
    -------
    tuple of n Direction, or LazyDirection
        float32 where the parameters are of lower precision, so that small steps do not vanish, else their dtype.

    Raises
    ------
    OptionError
        If an option is unknown, or nothing is left to move.
    DirectionError
        If there is no room for n orthogonal directions.
    Interrupted
        After Ctrl-C, with the first of them that are whole in ``.directions``: those of the same call with that n.

    References
    ----------
    Li, Xu, Taylor, Studer, Goldstein 2018, "Visualizing the Loss Landscape of Neural Nets", section 4.
    Departures: they set excluded layers to zero only when asked, and do not orthogonalise.
    """
    require(objective, "objective")
    _require_normalization(normalize)
    _require_number(n)
    if distribution not in ("normal", "uniform"):
        raise OptionError(f"distribution={distribution!r} is unknown. Use 'normal' or 'uniform'.")
    if not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed={seed!r} cannot be used. Pass a whole number from 0 upwards.")
    exclude = algebra.listed(() if exclude is None else exclude)
    still = objective.excluded(exclude)
    names = [name for name in objective.params if name not in still]
    if not names:
        raise OptionError(f"exclude={tuple(exclude)!r} leaves no parameter to move. Exclude less, with exclude=().")

    directions: list[Direction | LazyDirection] = []
    entries = sum(objective.params[name].numel() for name in names)
    passes = 2 if normalize in ("filter", "layer") or (orthogonal and n > 1) else 1  # to measure, and to make
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
            for first in range(0, n, _TOGETHER):
                numbers = range(first, min(first + _TOGETHER, n))
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
        words = f"Stopped after {len(directions)} of {n} directions; they are in its .directions."
        stopped = Interrupted(words, signal=signal_of(error))
        stopped.directions = tuple(directions)
        raise stopped from None
    return tuple(directions)


def _require_length(
    direction: Direction | LazyDirection, i: int, n: int, params: Mapping[str, Tensor], normalize: str | None
) -> None:
    """Raise where a direction is zero: its filters have no room for it, or there are no weights to scale it to."""
    if direction.recipe["norm"]:
        return
    line = way_out(params, n, normalize, i)
    if not i:
        raise DirectionError(
            f"Direction 1 of {n} is zero: the weights that would move are zero, and normalize={normalize!r} scales to "
            f"them. {line}"
        )
    raise DirectionError(
        f"Direction {i + 1} of {n} is zero: what is not zero of the weights has no room for {n} orthogonal directions. "
        f"{line}"
    )


def _stored(draws: Draws, params: Params, numbers: Sequence[int]) -> dict[int, Params]:
    """All tensors of some of the directions; zeros where nothing is drawn."""
    made = {
        i: {name: torch.zeros(t.shape, dtype=_direction_dtype(t), device=t.device) for name, t in params.items()}
        for i in numbers
    }
    draws.fill({name: {i: made[i][name] for i in numbers} for name in draws.like})
    return made
