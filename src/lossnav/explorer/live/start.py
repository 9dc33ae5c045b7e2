"""Start or resume a live session."""

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
    from lossnav.explorer.live.worker import LiveHandler
    from lossnav.objective.objective import Objective


_LEAST = 24  # points; a report on fewer says little


def begin(
    objective: Objective,
    chart: Chart,
    ends: ArrayLike = (-1.0, 1.0),
    *,
    store: Location | None = None,
    overwrite: bool = False,
    engine: Local | None = None,
) -> LiveHandler:
    """Start a live session, or resume one; see `lossnav.explorer.explore`."""
    from lossnav.explorer.live.worker import LiveHandler

    objective, chart = meet(objective, chart)
    objective.require_same_structure(chart.center, "the chart's centre")
    objective = objective.apart()  # for the worker; the caller keeps the other
    center: dict[str, float] = {}
    draws = random_state.draws(
        lambda: center.update(objective.evaluate(chart(np.zeros(len(chart.dims))))), objective.device
    )
    if len(chart.dims) > 3:
        raise OptionError(
            f"The explorer shows charts of up to three coordinates, got {len(chart.dims)}. Use a line, plane or volume."
        )
    known = {} if draws else center  # evaluated without the seed, these are other values
    live_places = LivePlaces(objective, chart, _base(ends, chart), store, overwrite, engine or Local(), known)
    session = Session([live_place.place for live_place in live_places], live_places.title, live_places.store, live=True)
    if session.places[0].surface["loss"].size > _LEAST:
        session.report = findings_of(session.places[0].surface)
    for live_place in live_places:
        live_place.place.store = live_place.store.place
    return LiveHandler(session, live_places, draws)
