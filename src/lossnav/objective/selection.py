"""Which parameters of an objective move and which are held, and the same objective with another choice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.moving import ALL, TRAINABLE, is_left_open, select_moving
from lossnav.errors import OptionError
from lossnav.objective.layers import count_roles
from lossnav.objective.roles import Role
from lossnav.params import Params

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective


class ParameterSplit(NamedTuple):
    """The parameters of a model, separated into those that move and those that are held."""

    params: Params
    held: Params
    roles: dict[str, Role]
    transposed: dict[str, int]

    def fields(self) -> dict[str, Any]:
        """The fields of an objective that hold these parts."""
        return {"params": self.params, "_held": self.held, "roles": self.roles, "transposed": self.transposed}


def split(
    names: Collection[str], tensors: Params, roles: Mapping[str, Role], transposed: Mapping[str, int]
) -> ParameterSplit:
    """Separate the parameters that move from those that are held.

    Parameters
    ----------
    names : collection of str
        Parameters that move.
    tensors : dict of str to Tensor
        All parameters.
    roles, transposed : mapping
        Of all parameters.
    """
    params = {name: tensor for name, tensor in tensors.items() if name in names}
    return ParameterSplit(
        params,
        {name: tensor for name, tensor in tensors.items() if name not in names},
        {name: roles[name] for name in params},
        {name: groups for name, groups in transposed.items() if name in params},
    )


def moving(objective: Objective, params: str | Sequence[str]) -> Objective:
    """Return the same objective in which the parameters chosen by `params` move."""
    names = select_moving(objective.params | objective._held, params, objective._trained)
    return moving_these(
        objective, names, moves=params if isinstance(params, str) else list(params), _also=(), origin=None
    )


def moving_these(objective: Objective, names: Collection[str], **changes: Any) -> Objective:
    """Return the same objective in which exactly these parameters move, with other fields changed as given."""
    tensors = objective.params | objective._held
    in_order = {name: tensors[name] for name in objective._everything}
    parts = split(names, in_order, objective._roles, objective._transposed)
    layers = objective._layers
    if layers is not None:
        layers = layers | count_roles(parts.roles, parts.params)
    return objective._with(**parts.fields(), _layers=layers, _plans={}, _verdicts={}, **changes)


def moving_also(objective: Objective, names: Collection[str]) -> Objective:
    """Return the same objective in which these parameters move too, if `params` left the choice to the rule."""
    more = tuple(name for name in objective._everything if name in names and name not in objective.params)
    if not more:
        return objective
    if not is_left_open(objective.moves):
        raise OptionError(
            f'params={objective.moves!r} holds "{more[0]}" fixed, and it has to move here. Let all parameters move: '
            'params="all".'
        )
    return moving_these(objective, [*objective.params, *more], _also=(*objective._also, *more))


def moving_as(objective: Objective, description: Mapping[str, Any]) -> Objective:
    """Return the same objective in which the parameters of a stored description move.

    A description without ``moves`` was written before frozen parameters were held: all parameters moved.
    """
    moves = description.get("moves")
    if moves is not None:
        return moving_also(objective, moves.get("also", ())) if is_left_open(objective.moves) else objective
    if is_left_open(objective.moves) and not description.get("parameters_held", 1) and objective._held:
        floating = (name for name, tensor in objective._held.items() if tensor.is_floating_point())
        return moving_these(objective, [*objective.params, *floating])
    return objective


def names_of(objective: Objective, params: str | Sequence[str]) -> list[str]:
    """Names of the moving parameters that `params` chooses, in the order of the objective."""
    names: set[str] = set()
    for word in algebra.listed(params):
        pattern = "*" if word == ALL else word
        matching = objective._trained if word == TRAINABLE else algebra.select(objective._everything, pattern)
        chosen = [name for name in matching if name in objective.params]
        held = [name for name in matching if name in objective._held and objective._held[name].is_floating_point()]
        if held and (word == ALL or not chosen):
            raise OptionError(
                f'params={params!r} includes "{held[0]}", which the objective holds fixed. Use '
                f"objective.moving({params!r}), or build it with Objective(..., params={params!r})."
            )
        names |= set(chosen)
    return [name for name in objective.params if name in names]


def describe(objective: Objective) -> dict[str, Any]:
    """The rule by which parameters move, and which of them the user does not train."""
    frozen = {name: tensor for name, tensor in objective.params.items() if name not in objective._trained}
    described = {"params": objective.moves, "tensors": len(objective.params), "frozen": _summary(frozen)}
    return described | ({"also": list(objective._also)} if objective._also else {})


def _summary(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The number of tensors and of entries, and the first names."""
    return {"tensors": len(tensors), "numbers": sum(t.numel() for t in tensors.values()), "names": [*tensors][:3]}
