"""The explorer: look at loss landscapes in the browser. It imports torch only if something has to be evaluated.

::

    requests/   what a page can ask for: fields, bounds and answer of a request are one class
    stored/     what is stored: places, sessions, the lattice of windows, one-file export, "copy as code"
    live/       what evaluates: the worker thread, its places, new axes, inspection of a point, optimiser paths
    server/     the server: routes, socket, message format, access control, idle connections
    page/       the page in the browser
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
    """Show a stored surface in the browser, or an objective on a chart, which is evaluated where you look.

    Parameters
    ----------
    what : path, fsspec URL or zarr store, or Objective
        A stored surface, or an objective to evaluate on the chart.
    chart : Chart, optional
        For an objective: a chart of one, two or three coordinates.
    ends : (low, high), or one pair for each coordinate
        Region of the chart that is shown first, in units of the directions' lengths.
    store : path, optional
        For an objective: where every evaluated point is stored before it is shown (docs/schema.md). The same call
        resumes the session. By default a new folder in ``lossnav-explore``. Further places and bookmarks are stored
        beside it (``run.explore`` for ``run.zarr``).
    overwrite : bool
        Whether to replace an existing session instead of resuming it.
    engine : Local, optional
        Default `Local()`. The first picture is computed by the plain path; a faster path follows once it is verified.
    host : str
        Address to listen on; by default only this machine can connect.
    port : int
        0: any free port.
    allow_hosts : iterable of str
        Host names of proxies that serve the page.
    browser : bool, optional
        Whether to open the page in this machine's browser. None: if this call blocks.
    block : bool, optional
        Whether to wait for Ctrl-C. None: yes in a script, no in a notebook or at a prompt. Ctrl-C ends the explorer
        within three seconds; a point that takes longer is not finished (see ``finished`` of the Explorer).

    Returns
    -------
    Explorer
        The running server with its ``url``. ``close()`` ends it; evaluated points stay stored. A notebook displays it
        as the embedded page.

    Raises
    ------
    NotASurfaceError
        If the store is not a surface.
    PlanMismatchError
        If the store contains another run.
    OptionError
        If the chart is missing or has more than three coordinates, or the address cannot be listened on.
    MissingExtraError
        If the packages of the extra ``explorer`` are not installed.

    Examples
    --------
    >>> import lossnav as ln
    >>> ln.explore("run.zarr")  # doctest: +SKIP
    """
    from lossnav.explorer.server.server import HASTE, Explorer
    from lossnav.explorer.stored.handlers import Handler
    from lossnav.explorer.stored.session import open_session

    handler: Handler
    objective: Any = what
    if hasattr(objective, "evaluate"):
        if chart is None:
            raise OptionError(
                "An objective needs a chart to be explored on, and none was passed. Pass one: ln.explore(objective, "
                "ln.Plane(objective.params, *ln.directions.random(objective, n=2)))."
            )
        from lossnav.explorer.live.start import begin

        require(chart, "chart")
        handler = begin(objective, chart, ends, store=store, overwrite=overwrite, engine=engine)
    elif chart is not None:
        raise OptionError(
            "A stored surface has its own chart, and another was passed. Call ln.explore(surface), or "
            "ln.explore(objective, chart)."
        )
    else:
        handler = Handler(open_session(what))
    waits = block if block is not None else not _is_interactive()
    try:
        explorer = Explorer(handler, host, port, allow_hosts)
    except BaseException:
        handler.close()
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
    """Return whether Python runs in a notebook or at a prompt."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None or hasattr(sys, "ps1") or bool(sys.flags.interactive)
