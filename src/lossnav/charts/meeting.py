"""A chart and an objective for each other: which parameters move, and whether the checkpoints fit the model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossnav import params as algebra
from lossnav._utils.moving import is_left_open
from lossnav.charts.anchors import arrange, points_of, with_points
from lossnav.checkpoints.weights import Anatomy
from lossnav.errors import CheckpointMismatchError, StructureMismatchError
from lossnav.objective.networks import Network, differing
from lossnav.objective.objective import Objective

if TYPE_CHECKING:
    from lossnav.charts.base import Chart


def meet(objective: Objective, chart: Chart) -> tuple[Objective, Chart]:
    """Return the objective and the chart adapted to each other.

    By default, an objective holds frozen parameters fixed. If the chart moves such a parameter (a line to a network
    whose frozen part is different, say), the objective lets it move too. A parameter that a chart around the
    objective's own centre does not contain (it was frozen in a recorded run, say) is held fixed. The chart is then
    fitted to the objective, see `Chart.fitted`.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError
        As `Chart.fitted` does.
    """
    if more := held_but_moved(chart, objective):
        objective = objective.moving_also(more)
    elif not chart.center.keys() >= objective.params.keys() and is_left_open(objective.moves):
        mine = {name: tensor for name, tensor in objective.params.items() if name in chart.center}
        if mine.keys() == chart.center.keys() and all(algebra.same(chart.center[name], mine[name]) for name in mine):
            objective = objective.moving_only(mine)
    return objective, chart.fitted(objective)


def held_but_moved(chart: Chart, objective: Objective) -> list[str]:
    """Return the parameters that an objective holds fixed only by default, and that differ along a chart.

    These are the held parameters in the chart's centre, and those in which one of its checkpoints differs from the
    objective.
    """
    anatomy = objective.anatomy
    if not anatomy.free or not anatomy.held:
        return []
    more = {name for name in chart.center if name in anatomy.held}
    networks = dict.fromkeys((*chart._networks.values(), *_ends(chart)))
    return sorted(more | differing(anatomy, [_sorted(network, anatomy) for network in networks]))


def fit(chart: Chart, objective: Objective) -> Chart:
    """Return the chart for an objective; `Chart.fitted` documents it."""
    fitted, anatomy = chart, objective.anatomy
    ends = _ends(fitted)
    if not ends and (len(chart._networks) == 1 or chart._is_fitted) and chart.anchors is None:
        return chart
    if not all(network.is_sorted_by(anatomy) for network in (*chart._networks.values(), *ends)):
        fitted = copy.copy(chart)
        fitted._hold(*arrange(chart._networks, chart.directions, objective))
        ends = _ends(fitted)
    for network in (*fitted._networks.values(), *ends):
        network.require_held(anatomy)
        network.code.require_same_function(objective)
    for end in (*ends, *_with_required_buffers(fitted, anatomy)):
        end.require_buffers(anatomy)
    networks = (*fitted._networks.values(), *ends)
    files = {network.fingerprint: network.path for network in networks if network.path}
    fitted = copy.copy(fitted)
    fitted.files = files or chart.files
    fitted.knows_buffers = chart.knows_buffers or bool(ends) or fitted.anchors is not None
    fitted.anchors = None if fitted.anchors is None else fitted.anchors.fitted(objective)
    fitted.directions = tuple(with_points(direction, ()) for direction in fitted.directions)
    fitted.points = fitted.points | dict(zip(fitted._names, fitted.directions, strict=True))
    fitted._networks = {  # a fitted chart needs the parameters only
        name: Network(network.params, {}, {}, network.source) for name, network in fitted._networks.items()
    }
    fitted._is_fitted = True
    return fitted


def ends_on(chart: Chart, objective: Objective) -> list[tuple[NDArray[np.float64], algebra.Checkpoint]]:
    """Return the checkpoints that lie on a chart, with their coordinates, as networks of an objective.

    They are the control points in `Chart.places`; on a line, plane or volume the networks that its directions connect.
    A chart that was fitted to an objective has forgotten them.

    Parameters
    ----------
    chart : Chart
    objective : Objective
        Its model tells parameters from buffers. Buffers that a checkpoint lacks are those of the objective.

    Returns
    -------
    list of (ndarray of shape (k,), Checkpoint)

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError
        If a checkpoint does not fit the model; the second for a file.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> import lossnav as ln
    >>> a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> objective = ln.Objective(a, "mse", (torch.ones(2, 1), torch.ones(2, 1)))
    >>> [at.tolist() for at, _ in ends_on(ln.Line(objective, ln.directions.between(objective, b)), objective)]
    [[0.0], [1.0]]
    """
    own = copy.copy(chart)
    own._hold(*arrange(chart._networks, chart.directions, objective))
    return [
        (place, algebra.Checkpoint(network.params, objective.buffers_at({}, network.buffers)))
        for place, network in own._located()
    ]


def _with_required_buffers(chart: Chart, anatomy: Anatomy) -> list[Network]:
    """Return the control points whose buffers must be known: those that lie on the chart, where several do."""
    if len(chart._networks) == 1 or chart._is_fitted or not anatomy.missing(()):
        return []
    if chart.anchors is not None and not any(network.buffers for network in chart._networks.values()):
        return []  # made again from a file, which has those that vary
    places = chart.places()
    return [chart._networks[name] for name in places] if len(places) > 1 else []


def _ends(chart: Chart) -> list[Network]:
    """Return the checkpoints at the ends of the chart's directions."""
    return [end for direction in chart.directions for end in points_of(direction)]


def _sorted(network: Network, anatomy: Anatomy) -> Network:
    """Return the network with its tensors sorted as in a model; unchanged if it is not a whole network."""
    try:
        return network if network.is_sorted_by(anatomy) else network.sorted_by(anatomy)
    except (CheckpointMismatchError, StructureMismatchError):  # a centre of some tensors; fitting it raises
        return network
