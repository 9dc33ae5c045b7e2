"""A live place begun: a chart and the ranges that are shown first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from lossnav._utils import random_state
from lossnav._utils.paths import Location
from lossnav.charts import meet
from lossnav.engines import Local
from lossnav.errors import OptionError
from lossnav.explorer.live.places import LivePlaces, _base
from lossnav.explorer.stored.session import Session, findings_of

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.explorer.live.worker import LiveDesk
    from lossnav.objective.objective import Objective


_LEAST = 24  # points; of fewer a report says little but that they are few


def begin(
    objective: Objective,
    chart: Chart,
    ends: ArrayLike = (-1.0, 1.0),
    *,
    store: Location | None = None,
    overwrite: bool = False,
    engine: Local | None = None,
) -> LiveDesk:
    """Begin a live session, or go on with one; see `lossnav.explorer.explore`."""
    from lossnav.explorer.live.worker import LiveDesk

    objective, chart = meet(objective, chart)
    objective.require_same_structure(chart.center, "the chart's centre")
    objective = objective.apart()  # the worker's: whoever called goes on with the other
    center: dict[str, float] = {}
    draws = random_state.draws(
        lambda: center.update(objective.evaluate(chart(np.zeros(len(chart.dims))))), objective.device
    )
    if len(chart.dims) > 3:
        raise OptionError(f"A chart of {len(chart.dims)} coordinates cannot be shown. Use one of up to three.")
    known = {} if draws else center  # without its seed it is another number
    grounds = LivePlaces(objective, chart, _base(ends, chart), store, overwrite, engine or Local(), known)
    session = Session([ground.place for ground in grounds], grounds.title, grounds.store, live=True)
    if session.places[0].surface["loss"].size > _LEAST:
        session.report = findings_of(session.places[0].surface)
    for ground in grounds:
        ground.place.store = ground.store.place
    return LiveDesk(session, grounds, draws)
