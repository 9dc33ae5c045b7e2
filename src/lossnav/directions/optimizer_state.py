"""Directions that an optimiser keeps: the moments of Adam and its like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from lossnav import params as algebra
from lossnav._utils.moving import select_moving
from lossnav._utils.validation import described
from lossnav.directions.base import Direction, _direction_dtype
from lossnav.directions.registry import DirectionKind, declare
from lossnav.errors import DirectionError, OptionError
from lossnav.objective.objective import Objective

if TYPE_CHECKING:
    pass


def moments(
    optimizer: torch.optim.Optimizer | Mapping[str, Any], model: nn.Module | Objective
) -> tuple[Direction, Direction]:
    """Return the running means that Adam keeps: of the gradient, and of its square.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer or its state dict
        Adam, AdamW or another that keeps ``exp_avg`` and ``exp_avg_sq``, after a step or more.
    model : nn.Module or Objective
        Whose parameters it trains: gives the names. Of an objective, or of a module what its user trains (as the
        default of `Objective`), what does not move is left out.

    Returns
    -------
    first, second : Direction
        ``exp_avg`` (it points uphill) and ``exp_avg_sq`` as they are, without correction of their bias; zero in what
        the optimiser does not train. ``recipe["step"]`` is the number of steps taken.

    Raises
    ------
    DirectionError
        If there are no such means, or they cannot be told to be whose.

    References
    ----------
    Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.999))
    >>> model(torch.tensor([[1.0, -2.0]])).sum().backward(); adam.step()
    >>> first, second = moments(adam, model)
    >>> first["weight"]
    tensor([[ 0.1000, -0.2000]])
    """
    if isinstance(optimizer, nn.Module) or not isinstance(model, nn.Module | Objective):
        raise OptionError(
            f"The order is ln.directions.moments(optimizer, model), and it was given {described(optimizer)} and "
            f"{described(model)}. Pass the optimiser first."
        )
    saved = optimizer.state_dict() if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    names = _trained_names(optimizer, saved, model)
    every = dict(model.named_parameters()) if isinstance(model, nn.Module) else model.params
    like = {name: every[name] for name in select_moving(every)} if isinstance(model, nn.Module) else every
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    state = {name: saved["state"].get(number, {}) for name, number in zip(names, numbers, strict=True)}
    made = []
    for moment in ("exp_avg", "exp_avg_sq"):
        tensors = {
            name: torch.zeros_like(t, dtype=_direction_dtype(t), requires_grad=False) for name, t in like.items()
        }
        for name, kept in state.items():
            if name in tensors and moment in kept:
                if kept[moment].shape != tensors[name].shape:
                    raise DirectionError(
                        f'The optimiser keeps a mean of shape {tuple(kept[moment].shape)} for "{name}", which has '
                        f"{tuple(tensors[name].shape)}. Pass the model that it trains."
                    )
                tensors[name] = kept[moment].detach().to(tensors[name].device, tensors[name].dtype, copy=True)
        steps = [float(kept["step"]) for kept in state.values() if "step" in kept]
        recipe = {"kind": "moment", "moment": moment, "step": max(steps, default=0.0)}
        made.append(Direction(tensors, recipe | {"fingerprint": algebra.fingerprint(tensors)}))
        if not made[-1].recipe["norm"]:
            raise DirectionError(
                f"The optimiser keeps no {moment}, or it is zero. Pass an Adam or AdamW that has taken a step, or its "
                "state dict."
            )
    return made[0], made[1]


def _trained_names(optimizer: Any, saved: Mapping[str, Any], model: nn.Module | Objective) -> list[str]:
    """Names of an optimiser's parameters in its order: by what it says, by what they are, or by their number."""
    groups = saved["param_groups"]
    if all("param_names" in group for group in groups):
        return [name for group in groups for name in group["param_names"]]
    named = model.params if isinstance(model, Objective) else dict(model.named_parameters())
    if isinstance(optimizer, torch.optim.Optimizer) and isinstance(model, nn.Module):
        known = {id(parameter): name for name, parameter in named.items()}
        names = [known.get(id(parameter)) for group in optimizer.param_groups for parameter in group["params"]]
        if None not in names:
            return cast(list[str], names)
    count = sum(len(group["params"]) for group in groups)
    if isinstance(model, nn.Module) and count == len(trained := [n for n, p in named.items() if p.requires_grad]):
        return trained  # an optimiser of what is trained, as is usual
    if count != len(named):
        raise DirectionError(
            f"The optimiser trains {count} parameters and {len(named)} are known, so whose means it keeps cannot be "
            "told. Pass the optimiser with its model, or make it of model.named_parameters()."
        )
    return list(named)


declare(DirectionKind("moment"))  # of an optimiser
