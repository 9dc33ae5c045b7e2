"""Directions from the state of an optimiser: the moments of Adam and similar ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from lossnav import params as algebra
from lossnav._utils.moving import select_moving
from lossnav._utils.validation import described
from lossnav.directions.base import Direction, direction_dtype
from lossnav.directions.registry import DirectionKind, declare
from lossnav.errors import DirectionError, OptionError
from lossnav.objective.objective import Objective


def moments(
    optimizer: torch.optim.Optimizer | Mapping[str, Any], model: nn.Module | Objective
) -> tuple[Direction, Direction]:
    """Return the running means that Adam keeps: of the gradient, and of its square.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer or its state dict
        Adam, AdamW or another optimiser with ``exp_avg`` and ``exp_avg_sq``, after at least one step.
    model : nn.Module or Objective
        The model that it trains, which gives the names. Parameters that do not move in the objective are left out; for
        a module, those that are not trained (as by default in `Objective`).

    Returns
    -------
    first, second : Direction
        ``exp_avg`` (it points uphill) and ``exp_avg_sq`` as they are, without bias correction; zero for parameters that
        the optimiser does not train. ``recipe["step"]`` is the number of steps taken.

    Raises
    ------
    DirectionError
        If there are no such means, or the parameters that they belong to cannot be determined.

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
            f"moments needs an optimiser and a model, got {described(optimizer)} and {described(model)}. Pass the "
            "optimiser first: ln.directions.moments(optimizer, model)."
        )
    saved = optimizer.state_dict() if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    names = _trained_names(optimizer, saved, model)
    every = dict(model.named_parameters()) if isinstance(model, nn.Module) else model.params
    like = {name: every[name] for name in select_moving(every)} if isinstance(model, nn.Module) else every
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    state = {name: saved["state"].get(number, {}) for name, number in zip(names, numbers, strict=True)}
    made = []
    for moment in ("exp_avg", "exp_avg_sq"):
        tensors = {name: torch.zeros_like(t, dtype=direction_dtype(t), requires_grad=False) for name, t in like.items()}
        for name, kept in state.items():
            if name in tensors and moment in kept:
                if kept[moment].shape != tensors[name].shape:
                    raise DirectionError(
                        f'The optimiser has a mean of shape {tuple(kept[moment].shape)} for "{name}", whose shape is '
                        f"{tuple(tensors[name].shape)}. Pass the model that it trains."
                    )
                tensors[name] = kept[moment].detach().to(tensors[name].device, tensors[name].dtype, copy=True)
        steps = [float(kept["step"]) for kept in state.values() if "step" in kept]
        recipe = {"kind": "moment", "moment": moment, "step": max(steps, default=0.0)}
        made.append(Direction(tensors, recipe | {"fingerprint": algebra.fingerprint(tensors)}))
        if not made[-1].recipe["norm"]:
            raise DirectionError(
                f"The optimiser has no {moment}, or it is zero. Pass an Adam or AdamW that has taken a step, or its "
                "state dict."
            )
    return made[0], made[1]


def _trained_names(optimizer: Any, saved: Mapping[str, Any], model: nn.Module | Objective) -> list[str]:
    """Return the names of an optimiser's parameters in its order: from its state, by identity, or by their number."""
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
        return trained  # usually, an optimiser has exactly the parameters that are trained
    if count != len(named):
        raise DirectionError(
            f"The optimiser trains {count} parameters and the model has {len(named)}, so they cannot be matched. Pass "
            "the optimiser together with its model, or create it from model.named_parameters()."
        )
    return list(named)


declare(DirectionKind("moment"))  # of an optimiser
