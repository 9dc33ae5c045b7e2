"""Directions between networks: from one to another, and those of the chart through several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from lossnav import params as algebra
from lossnav._utils.validation import described
from lossnav.directions.base import Direction, direction_dtype
from lossnav.directions.registry import DirectionKind, declare
from lossnav.errors import DirectionError, OptionError, StructureMismatchError
from lossnav.objective.networks import End, Network, coincidence, together
from lossnav.params import Params


def between(a: End | Network, b: End | Network) -> Direction:
    """Return b - a, the direction from one network to another.

    ``Line(a, between(a, b))`` is a at alpha = 0 and b at alpha = 1, each with its own buffers (running statistics,
    say), and with interpolated buffers between; see `Chart.buffers`.

    Parameters
    ----------
    a, b : Objective, nn.Module, path of a checkpoint, or mapping of str to Tensor
        A mapping is a full state dict. For a model without buffers, the parameters are enough. For a model with
        buffers, an objective refuses a chart to parameters without buffers.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError
        If names or shapes differ, or buffers are missing. For a file it is a CheckpointMismatchError.
    CheckpointError
        If a file cannot be read.

    Examples
    --------
    >>> import torch
    >>> between({"w": torch.tensor([1.0])}, {"w": torch.tensor([4.0])})["w"]
    tensor([3.])
    """
    start, end = together(a, b)
    if difference := algebra.first_difference(end.params, start.params):
        raise StructureMismatchError(
            f"The two points differ at {difference}. Pass two networks with the same names and shapes; if the names in "
            "a file have a prefix, pass an objective as one end, which finds its tensors in the file."
        )
    wide = {name: tensor.to(direction_dtype(tensor)) for name, tensor in end.params.items()}
    recipe = {"kind": "between", "start": start.fingerprint, "end": end.fingerprint} | _buffers_of(start, end)
    return Direction(algebra.subtract(wide, start.params), recipe, (start, end))


def through(a: End | Network, *others: End | Network, orthogonal: bool = True) -> tuple[Direction, ...]:
    """Return the directions of the flat chart through several networks: two for a line, three a plane, four a volume.

    ``Plane(a, *through(a, b, c))`` contains all three, with their buffers: a at (0, 0), b at (1, 0), and c at (0, 1),
    or at the coordinates in the recipe's ``places``. With `orthogonal`, the second direction is the part of c - a that
    is perpendicular to b - a, scaled to the length of b - a, so that distances in the picture are proportional to those
    in weight space (Garipov et al. 2018, appendix A.1).

    Parameters
    ----------
    a, *others : Objective, nn.Module, path of a checkpoint, or mapping of str to Tensor
        Networks of one architecture, as in `between`.
    orthogonal : bool
        Whether the directions are perpendicular and have the same length. Else they lead from a to each other network.

    Returns
    -------
    tuple of Direction
        One for each of the others. ``recipe["places"]`` holds the coordinates of all points, those of a first.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError, CheckpointError
        As `between` does.
    DirectionError
        If the points span too few dimensions: three points on a line, or four in a plane.

    References
    ----------
    Garipov, Izmailov, Podoprikhin, Vetrov, Wilson 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of
    DNNs". Departure: lengths are those of b - a instead of 1.

    Examples
    --------
    >>> import torch
    >>> a, b, c = ({"w": torch.tensor(w)} for w in ([0.0, 0.0], [2.0, 0.0], [1.0, 3.0]))
    >>> d1, d2 = through(a, b, c)
    >>> d2["w"], d2.recipe["places"]
    (tensor([0., 2.]), [[0.0, 0.0], [1.0, 0.0], [0.5, 1.5]])
    """
    if isinstance(a, list | tuple):
        raise OptionError(
            f"The first point is {described(a)}. Pass the points one by one: ln.directions.through(*points)."
        )
    if not others:
        raise OptionError(
            "One point does not define a chart. Pass two for a line, three for a plane, four for a volume."
        )
    networks = tuple(together(a, *others))
    for one, other in combinations(networks, 2):
        if words := coincidence(one, other):
            raise DirectionError(words)
    steps = [between(networks[0], other) for other in networks[1:]]
    made: list[Params] = [dict(step) for step in steps]
    places = np.eye(len(steps))  # of each of the others, in coordinates
    if orthogonal:
        flat = [{name: tensor.double() for name, tensor in step.items()} for step in steps]
        for i, step in enumerate(flat):
            for j in range(i):
                places[i, j] = algebra.dot(step, made[j]) / algebra.dot(made[j], made[j])
            rest = algebra.combine(step, [-x for x in places[i, :i]], made[:i])
            length = algebra.norm(made[0])
            places[i, i] = algebra.norm(rest) / length if length else 0.0
            if places[i, i] * length <= 1e-6 * algebra.norm(step):
                raise DirectionError(
                    f"Point {i + 2} of {len(steps) + 1} lies in the span of those before it, so the points span fewer "
                    f"than {len(steps)} dimensions. Leave this point out, or pass another."
                )
            made[i] = {name: tensor / float(places[i, i]) for name, tensor in rest.items()}
        made = [{n: t.to(step[n].dtype) for n, t in part.items()} for part, step in zip(made, steps, strict=True)]
    ends = [step.recipe["end"] for step in steps]
    recipe = {
        "kind": "through",
        "points": [steps[0].recipe["start"], *ends],
        "orthogonal": orthogonal,
        "places": [[0.0] * len(steps), *places.tolist()],
    }
    recipe |= _buffers_of(*networks)
    return tuple(Direction(part, recipe | {"index": i}, networks) for i, part in enumerate(made))


def remade(direction: Direction, points: Sequence[Network], fresh: Sequence[Network]) -> Direction:
    """Make a direction again from the same checkpoints with other names, dtypes or devices.

    Raises
    ------
    DirectionError
        If one of them has changed in the meantime, such as a dict of tensors that are still trained.
    """
    for point in points:
        if point.has_changed:
            raise DirectionError(
                f"{point.source} has changed since the direction was made. Make the direction from a copy: "
                "copy.deepcopy(model), or {name: tensor.clone() for name, tensor in model.state_dict().items()}."
            )
    return led(direction.recipe, fresh)


def led(recipe: Mapping[str, Any], networks: Sequence[Network]) -> Direction:
    """Make a direction between checkpoints from its recipe."""
    if recipe["kind"] == "between":
        made = between(*networks)
    else:
        made = through(*networks, orthogonal=recipe["orthogonal"])[int(recipe["index"])]
    return made * recipe["times"] if "times" in recipe else made


for _kind in ("between", "through"):
    declare(DirectionKind(_kind, lead=led))


def _buffers_of(*networks: Network) -> dict[str, list[str]]:
    """Return the part of a recipe about buffers: a fingerprint for each checkpoint, if any of them has buffers."""
    if not any(network.buffers for network in networks):
        return {}
    return {"buffers": [algebra.fingerprint(dict(sorted(network.buffers.items()))) for network in networks]}
