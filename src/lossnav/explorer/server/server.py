"""The server: a thread that listens, a handle to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

from lossnav._utils.signals import StopRequests
from lossnav.errors import MissingExtraError, OptionError
from lossnav.explorer.server.app import make_app
from lossnav.explorer.server.connections import PING, PONG, IdleTimeout
from lossnav.explorer.server.security import new_token
from lossnav.explorer.server.wire import LIMITS
from lossnav.explorer.stored.handlers import Desk

_PATIENCE = 10.0  # seconds for the server to begin
_GOODBYE = 0.4  # seconds for pages to be told that it ends, before they are cut off
HASTE = 1.8  # seconds in which Ctrl-C ends it, whatever runs; three with a busy machine and the end of the process


class Explorer:
    """A running explorer; shown in a notebook it is the page itself.

    Parameters
    ----------
    desk : Desk
        Who answers.
    host : str
        The address to listen on.
    port : int
        0: any that is free.
    allow_hosts : iterable of str
        Names of proxies under which it is reached too.
    clock : callable, optional
        Seconds, by which connections are given up, in place of the event loop's own.

    Attributes
    ----------
    url : str
        With the token, which is all that is needed to use it.
    finished : bool
        Whether all work has ended. Not so where Ctrl-C came in the middle of a point that takes long: that one is not
        waited for, and all that was shown before is in the store's journal.

    Raises
    ------
    MissingExtraError
        If starlette, uvicorn or websockets is not installed.
    OptionError
        If nothing can listen there.
    """

    def __init__(
        self,
        desk: Desk,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_hosts: Iterable[str] = (),
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        try:
            import uvicorn
            import websockets  # noqa: F401 - what uvicorn speaks to sockets with
            from uvicorn.protocols.http.auto import AutoHTTPProtocol
        except ImportError as error:
            raise MissingExtraError(f'The explorer needs {error.name}. Try: pip install "lossnav[explorer]"') from error
        self.desk, self._token, self._clock = desk, new_token(), clock
        self.finished = self._ended = False
        self._loop: asyncio.AbstractEventLoop
        named = socket.gethostname() if host in ("0.0.0.0", "::") else host  # no browser goes to "everywhere"
        app: Any = make_app(desk, self._token, [named], allow_hosts)
        self._listening = _listen(host, port)
        port = self._listening.getsockname()[1]
        self.url = f"http://{f'[{named}]' if ':' in named else named}:{port}/{self._token}/"
        config = uvicorn.Config(
            _quiet(app),
            http=type("Connection", (IdleTimeout, AutoHTTPProtocol), {}),
            log_level="error",
            access_log=False,  # the address holds the token
            lifespan="off",
            ws_max_size=LIMITS["frame"],
            ws_ping_interval=PING,
            ws_ping_timeout=PONG,
            ws_per_message_deflate=False,  # float64 hardly shrinks, and this machine has better to do
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,  # longer than `_GOODBYE`, so that it has nothing to complain of
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="lossnav explorer", daemon=True)
        self._thread.start()
        until = time.monotonic() + _PATIENCE
        while not self._server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        if not self._server.started:
            self.close()
            raise OptionError(f"The explorer could not begin to listen at {host}:{port}. Try another --port.")

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._clock is not None:
            self._loop.time = self._clock  # type: ignore[method-assign]
        await self._server.serve(sockets=[self._listening])

    def open(self) -> None:
        """Show the page in the browser of this machine."""
        webbrowser.open(self.url)

    def wait(self) -> int:
        """Serve until Ctrl-C or SIGTERM; return the number of the signal.

        Ends within three seconds of it, whatever runs: see `finished`.
        """
        with StopRequests() as stop:
            while stop.signal is None and self._thread.is_alive():
                time.sleep(0.05)
            self.close(HASTE)
            return stop.signal or 0

    def close(self, patience: float | None = None) -> None:
        """End: sockets are closed, the point under way is finished and all is kept.

        Parameters
        ----------
        patience : float, optional
            Seconds, after which the point under way is not waited for; None: until it is done. See `finished`.
        """
        if self._ended:
            return
        self._ended = True
        until = time.monotonic() + (patience or 0)
        self.desk.end()
        self._server.should_exit = True
        self._thread.join(_GOODBYE)
        if self._thread.is_alive():
            with suppress(RuntimeError, AttributeError):  # it has just ended, or never began
                self._loop.call_soon_threadsafe(self._cut_off)
            self._thread.join(_GOODBYE if patience is not None else _PATIENCE)
        self._listening.close()
        self.finished = self.desk.close(None if patience is None else max(0.0, until - time.monotonic()))

    def _cut_off(self) -> None:
        """End connections that do not close by themselves, and answers that are being worked out."""
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        for task in list(self._server.server_state.tasks):
            task.cancel()

    def __enter__(self) -> Explorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Explorer({self.url})"

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{self.url}" width="100%" height="820" style="border:0" title="lossnav explorer" '
            f'allow="clipboard-write"></iframe><p><a href="{self.url}" target="_blank">in a tab of its own</a></p>'
        )


def _quiet(app: Any) -> Any:
    """An answer that is cut off because the server ends is nothing to report."""

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return answering


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"Nothing can listen at {host}:{port}: {reason}. Choose another --host or --port.") from error
