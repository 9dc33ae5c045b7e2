"""Which parameters move: one rule, for objectives, recorded trajectories, and modules that a line leads to.

What the user trains moves (``requires_grad``), and all of a model of which nothing is trained. ``"all"`` moves what is
frozen too, and a glob pattern moves what it matches, frozen or not: ``"*"`` everything.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from lossnav import params as algebra
from lossnav.errors import LossnavWarning, OptionError

TRAINABLE, ALL = "trainable", "all"


def trainable(parameters: Mapping[str, Tensor]) -> frozenset[str]:
    """Names of the parameters that the user trains: those with ``requires_grad``, all where none of them can move.

    >>> import torch
    >>> sorted(trainable({"base": torch.ones(1), "lora": torch.ones(1, requires_grad=True)}))
    ['lora']
    """
    trained = frozenset(name for name, tensor in parameters.items() if tensor.requires_grad)
    movable = frozenset(name for name, tensor in parameters.items() if tensor.is_floating_point())
    return trained if trained & movable else trained | movable


def select_moving(
    parameters: Mapping[str, Tensor], params: str | Sequence[str] = TRAINABLE, trained: Collection[str] | None = None
) -> list[str]:
    """Return the names of the floating-point parameters that move, in their order.

    Parameters
    ----------
    parameters : mapping of str to Tensor
    params : "trainable", "all", glob pattern, or a sequence of these
    trained : collection of str, optional
        What ``"trainable"`` stands for, where the tensors no longer say it; by default `trainable` of them.

    Raises
    ------
    OptionError
        If there is none.

    Examples
    --------
    >>> import torch
    >>> frozen, head = torch.ones(1), torch.ones(1, requires_grad=True)
    >>> model = {"base.weight": frozen, "base.bias": frozen, "head.weight": head}
    >>> select_moving(model), select_moving(model, "all"), select_moving(model, ["trainable", "*.bias"])
    (['head.weight'], ['base.weight', 'base.bias', 'head.weight'], ['base.bias', 'head.weight'])
    """
    trained = trainable(parameters) if trained is None else trained
    wanted: set[str] = set()
    for word in algebra.listed(params):
        wanted |= set(trained if word == TRAINABLE else algebra.select(parameters, "*" if word == ALL else word))
    if complex_ones := [name for name in parameters if name in wanted and parameters[name].is_complex()]:
        warnings.warn(
            f'Complex parameters are held still: "{complex_ones[0]}" and {len(complex_ones) - 1} more. Store real and '
            "imaginary part as real tensors (torch.view_as_real) to let them move.",
            LossnavWarning,
            stacklevel=3,
        )
    chosen = [name for name in parameters if name in wanted and parameters[name].is_floating_point()]
    if not chosen:
        names = ", ".join(list(parameters)[:5]) or "none at all"
        if complex_ones:
            raise OptionError(
                f'All parameters that params={params!r} stands for are complex, such as "{complex_ones[0]}", and held '
                "still. Store real and imaginary part as real tensors (torch.view_as_real) to let them move."
            )
        raise OptionError(f"No parameter matches params={params!r}. The model's parameters are {names}, …")
    return chosen


def is_left_open(params: str | Sequence[str]) -> bool:
    """Whether what moves was left to the rule, so that what is frozen may move as well where a chart leads that way."""
    return algebra.listed(params) == [TRAINABLE]
