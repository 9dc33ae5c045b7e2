"""The routes of the explorer, and its socket. No numerics; starlette is imported on use."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossnav.errors import LossnavError, MissingExtraError, OptionError, RequestError
from lossnav.explorer import wire
from lossnav.explorer.desk import Client, Desk, Message
from lossnav.explorer.security import Guard

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

PAGE = Path(__file__).parent / "page"

_WAITING = 400  # messages that a browser may lag behind; news of progress is left out before that
_BAD_DATA, _BAD_TEXT, _TRY_LATER = 1003, 1007, 1013  # RFC 6455, section 7.4.1


def make_app(desk: Desk, token: str, hosts: Iterable[str] = (), proxies: Iterable[str] = ()) -> Guard:
    """The ASGI application.

    Parameters
    ----------
    desk : Desk
        Who answers.
    token : str
        The first part of every path.
    hosts, proxies : iterable of str
        As of a `Guard`.

    Raises
    ------
    MissingExtraError
        If starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse
        from starlette.routing import Route, WebSocketRoute
        from starlette.websockets import WebSocketDisconnect
    except ImportError as error:
        raise MissingExtraError(f'The explorer needs {error.name}. Try: pip install "lossnav[explorer]"') from error

    async def index(request: Request) -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html")

    async def static(request: Request) -> Response:
        path = files().get(request.path_params["name"])
        if path is None:
            return PlainTextResponse("There is no such file.\n", 404)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type="text/javascript" if path.suffix == ".js" else kind)

    async def exported(request: Request) -> Response:
        from lossnav.explorer.export import export_html

        asked = request.query_params
        try:
            number = asked.get("place", "0")
            place = int(number) if number.isdecimal() and len(number) < 10 else -1
            made = await run_in_threadpool(export_html, desk.session, place, asked.get("view"))
        except OptionError as error:
            return PlainTextResponse(f"{error}\n", 400)
        return HTMLResponse(made, headers={"content-disposition": "attachment; filename=lossnav.html"})

    async def talk(socket: WebSocket) -> None:
        if len(desk.clients) >= wire.LIMITS["sockets"]:
            await socket.close(_TRY_LATER)
            return
        await socket.accept()
        outbox = _Outbox(socket)
        client = Client(outbox.deliver)
        desk.join(client)
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                words, given = message.get("text"), None
                if words is None:
                    await outbox.end(_BAD_DATA, RequestError("A message is bytes. Send JSON as text."))
                    return
                try:
                    read = wire.read(words)
                    given = read.get("id") if isinstance(read.get("id"), int) else None
                    request = wire.parse(read, len(desk.session.place(client.place).dims))
                    await run_in_threadpool(desk.answer, client, request)
                except RequestError as error:
                    await outbox.end(_BAD_TEXT, error)
                    return
                except LossnavError as error:
                    client.send(wire.problem(error, given))
        except (WebSocketDisconnect, RuntimeError):  # it went away while we were sending
            return
        finally:
            desk.leave(client)
            outbox.cancel()

    routes = [
        Route("/", index),
        Route("/export.html", exported),
        Route("/static/{name}", static),
        WebSocketRoute("/ws", talk),
    ]
    return Guard(Starlette(routes=routes), token, hosts, proxies)


def files() -> dict[str, Path]:
    """What is handed out, by name: the page's own files. Nothing else has a name."""
    return {path.name: path for path in PAGE.iterdir() if path.is_file() and not path.name.startswith(".")}


class _Outbox:
    """Messages on their way to one socket, in order; `deliver` may be called from any thread."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket, self._loop = socket, asyncio.get_running_loop()
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._sending = asyncio.create_task(self._send_all())

    def deliver(self, message: Message) -> None:
        data: Any = message if isinstance(message, bytes) else wire.text(message)
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._put, data)

    def _put(self, data: Any) -> None:
        if self._queue.qsize() > _WAITING and isinstance(data, str) and data.startswith('{"type":"progress"'):
            return
        self._queue.put_nowait(data)

    async def _send_all(self) -> None:
        with suppress(Exception):  # it is gone, which the receiving side finds out too
            while True:
                data: Any = await self._queue.get()
                await (self._socket.send_bytes(data) if isinstance(data, bytes) else self._socket.send_text(data))

    async def end(self, code: int, error: Exception) -> None:
        """Say why, and close."""
        self.cancel()
        with suppress(Exception):
            await self._socket.send_text(wire.text(wire.problem(error)))
            await self._socket.close(code)

    def cancel(self) -> None:
        self._sending.cancel()
