"""The server, which runs in a thread, and the object that controls it."""

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
from lossnav.explorer.stored.handlers import Handler

_PATIENCE = 10.0  # seconds for the server to start
_GOODBYE = 0.4  # seconds for pages to be told of the end, before their connections are aborted
HASTE = 1.8  # seconds to end after Ctrl-C, whatever runs; three in all on a busy machine, with the end of the process


class Explorer:
    """A running explorer; a notebook displays it as the embedded page.

    Parameters
    ----------
    handler : Handler
        Answers the requests.
    host : str
        Address to listen on.
    port : int
        0: any free port.
    allow_hosts : iterable of str
        Host names of proxies that serve the page.
    clock : callable, optional
        Returns seconds, for the timeouts of connections, instead of the clock of the event loop.

    Attributes
    ----------
    url : str
        The address. It contains the token: whoever has it can use the explorer.
    finished : bool
        Whether all work has ended. False if Ctrl-C came during a long evaluation of a point: that point is abandoned,
        and all points that were shown are in the journal of the store.

    Raises
    ------
    MissingExtraError
        If starlette, uvicorn or websockets is not installed.
    OptionError
        If the address cannot be listened on.
    """

    def __init__(
        self,
        handler: Handler,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_hosts: Iterable[str] = (),
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        try:
            import uvicorn
            import websockets  # noqa: F401 - uvicorn needs it for sockets
            from uvicorn.protocols.http.auto import AutoHTTPProtocol
        except ImportError as error:
            raise MissingExtraError(f'The explorer needs {error.name}. Try: pip install "lossnav[explorer]"') from error
        self.handler, self._token, self._clock = handler, new_token(), clock
        self.finished = self._ended = False
        self._loop: asyncio.AbstractEventLoop
        named = socket.gethostname() if host in ("0.0.0.0", "::") else host  # a browser cannot open these addresses
        app: Any = make_app(handler, self._token, [named], allow_hosts)
        self._listening = _listen(host, port)
        port = self._listening.getsockname()[1]
        self.url = f"http://{f'[{named}]' if ':' in named else named}:{port}/{self._token}/"
        config = uvicorn.Config(
            _quiet(app),
            http=type("Connection", (IdleTimeout, AutoHTTPProtocol), {}),
            log_level="error",
            access_log=False,  # the address contains the token
            lifespan="off",
            ws_max_size=LIMITS["frame"],
            ws_ping_interval=PING,
            ws_ping_timeout=PONG,
            ws_per_message_deflate=False,  # float64 values hardly compress
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,  # longer than `_GOODBYE`, so that uvicorn logs no error
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="lossnav explorer", daemon=True)
        self._thread.start()
        until = time.monotonic() + _PATIENCE
        while not self._server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        if not self._server.started:
            self.close()
            raise OptionError(
                f"The explorer did not start at {host}:{port} within {_PATIENCE:g} s. Try another --port."
            )

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._clock is not None:
            self._loop.time = self._clock  # type: ignore[method-assign]
        await self._server.serve(sockets=[self._listening])

    def open(self) -> None:
        """Open the page in the browser of this machine."""
        webbrowser.open(self.url)

    def wait(self) -> int:
        """Serve until Ctrl-C or SIGTERM; return the number of the signal.

        It ends within three seconds, whatever runs: see `finished`.
        """
        with StopRequests() as stop:
            while stop.signal is None and self._thread.is_alive():
                time.sleep(0.05)
            self.close(HASTE)
            return stop.signal or 0

    def close(self, patience: float | None = None) -> None:
        """Close the sockets, finish the current point, and store all points.

        Parameters
        ----------
        patience : float, optional
            Seconds to wait for the current point; None: until it is evaluated. See `finished`.
        """
        if self._ended:
            return
        self._ended = True
        until = time.monotonic() + (patience or 0)
        self.handler.end()
        self._server.should_exit = True
        self._thread.join(_GOODBYE)
        if self._thread.is_alive():
            with suppress(RuntimeError, AttributeError):  # it has just ended, or never started
                self._loop.call_soon_threadsafe(self._cut_off)
            self._thread.join(_GOODBYE if patience is not None else _PATIENCE)
        self._listening.close()
        self.finished = self.handler.close(None if patience is None else max(0.0, until - time.monotonic()))

    def _cut_off(self) -> None:
        """Abort the connections that did not close, and the answers that are still being computed."""
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
            f'allow="clipboard-write"></iframe><p><a href="{self.url}" target="_blank">open in a new tab</a></p>'
        )


def _quiet(app: Any) -> Any:
    """Ignore the cancellation of answers when the server ends."""

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
        raise OptionError(
            f"The explorer cannot listen at {host}:{port}: {reason}. Choose another --host or --port."
        ) from error
