"""The explorer: walk through loss space in the browser. No torch until something is to be evaluated.

::

    wire      messages and frames         security  who may talk          app      routes and the socket
    session   places, what is known       lattice   where windows lie     desk     who answers
    live      the worker and its tasks    ground    a place one stands on travel   new centres, new axes
    probing   what a network does there   ball      an optimiser rolling  server   a thread that listens
    code      "copy as code"              export    one file              page/    the page
    outbox    what waits to be sent       connections  those that lead nowhere
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lossnav._utils.paths import Location
from lossnav._utils.validation import require
from lossnav.errors import OptionError

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.engines import Local
    from lossnav.explorer.server.server import Explorer
    from lossnav.objective.objective import Objective

__all__ = ["explore"]


def explore(
    what: Location | Objective,
    chart: Chart | None = None,
    *,
    ends: Sequence[float] | Sequence[Sequence[float]] = (-1.0, 1.0),
    store: Location | None = None,
    overwrite: bool = False,
    engine: Local | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    allow_hosts: Iterable[str] = (),
    browser: bool | None = None,
    block: bool | None = None,
) -> Explorer:
    """Open a stored surface in the browser, or an objective on a chart, to be evaluated where one looks.

    Parameters
    ----------
    what : path, fsspec URL or zarr store, or Objective
        A surface that is looked at as it is, or what is evaluated on the chart.
    chart : Chart, optional
        Of the objective: a line, a plane or a volume.
    ends : (low, high), or one pair a coordinate
        What is seen first of the chart, in units of the directions' lengths.
    store : path, optional
        Of a live session: every point that is evaluated is kept there (docs/schema.md), before it is shown. The same
        call goes on with it. By default a folder of its own in ``lossnav-explore``. What lies beside it
        (``run.explore`` for ``run.zarr``) are further places and bookmarks.
    overwrite : bool
        Whether a session that is there is begun anew.
    engine : Local, optional
        Default `Local()`, which goes the faster way once it is proved; its first picture comes by the plain path.
    host : str
        The address to listen on; by default that of this machine alone.
    port : int
        0: any that is free.
    allow_hosts : iterable of str
        Names of a proxy under which the page is reached.
    browser : bool, optional
        Whether the page is opened in this machine's browser. None: where this call waits.
    block : bool, optional
        Whether to wait for Ctrl-C. None: in a script, and not in a notebook or at a prompt. Ctrl-C ends it within three
        seconds: a point that takes longer is left unfinished (``finished`` of the Explorer says so).

    Returns
    -------
    Explorer
        The running server with its ``url``; ``close()`` ends it, and what was evaluated is kept. In a notebook it
        shows itself: the page, embedded.

    Raises
    ------
    NotASurfaceError
        If there is no surface.
    PlanMismatchError
        If the store holds something else.
    OptionError
        If the chart is missing or has more than three coordinates, or nothing can listen there.
    MissingExtraError
        If the packages of the extra ``explorer`` are not installed.

    Examples
    --------
    >>> import lossnav as ln
    >>> ln.explore("run.zarr")  # doctest: +SKIP
    """
    from lossnav.explorer.server.server import HASTE, Explorer
    from lossnav.explorer.stored.handlers import Desk
    from lossnav.explorer.stored.session import open_session

    desk: Desk
    objective: Any = what
    if hasattr(objective, "evaluate"):
        if chart is None:
            raise OptionError(
                "An objective is explored on a chart. Pass one: ln.explore(objective, ln.Plane(objective.params, "
                "*ln.directions.random(objective, n=2)))."
            )
        from lossnav.explorer.live.start import begin

        require(chart, "chart")
        desk = begin(objective, chart, ends, store=store, overwrite=overwrite, engine=engine)
    elif chart is not None:
        raise OptionError("A chart goes with an objective. Pass ln.explore(objective, chart), or a stored surface.")
    else:
        desk = Desk(open_session(what))
    waits = block if block is not None else not _is_interactive()
    try:
        explorer = Explorer(desk, host, port, allow_hosts)
    except BaseException:
        desk.close()
        raise
    try:
        if waits if browser is None else browser:
            explorer.open()
        if waits:
            explorer.wait()
    except KeyboardInterrupt:
        explorer.close(HASTE)
        raise
    return explorer


def _is_interactive() -> bool:
    """Whether a person is at a prompt or in a notebook, who goes on typing."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None or hasattr(sys, "ps1") or bool(sys.flags.interactive)
