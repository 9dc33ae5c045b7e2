"""The routes of the explorer and its socket. No numerics; starlette is imported on use."""

from __future__ import annotations

import asyncio
import mimetypes
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from lossnav.errors import LossnavError, MissingExtraError, OptionError, RequestError
from lossnav.explorer import requests
from lossnav.explorer.server import wire
from lossnav.explorer.server.outbox import Outbox
from lossnav.explorer.server.page_files import PAGE, files
from lossnav.explorer.server.security import Guard
from lossnav.explorer.stored.handlers import Client, Handler

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket


T = TypeVar("T")

_EXPORTS, _MORE = 2, 8  # exported pages that are written at the same time, and that may wait
_BAD_DATA, _BAD_TEXT, _TRY_LATER = 1003, 1007, 1013  # RFC 6455, section 7.4.1


def make_app(handler: Handler, token: str, hosts: Iterable[str] = (), proxies: Iterable[str] = ()) -> Guard:
    """Make the ASGI application.

    Parameters
    ----------
    handler : Handler
        Answers the requests.
    token : str
        The first part of every path.
    hosts, proxies : iterable of str
        As in `Guard`.

    Raises
    ------
    MissingExtraError
        If starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
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
            return PlainTextResponse("File not found.\n", 404)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type="text/javascript" if path.suffix == ".js" else kind)

    exports = asyncio.Semaphore(_EXPORTS)
    asking: set[object] = set()

    async def exported(request: Request) -> Response:
        from lossnav.explorer.stored.export_html import export_html

        if len(asking) >= _EXPORTS + _MORE:
            return PlainTextResponse("Several pages are being exported. Try again in a moment.\n", 503)
        asking.add(request)
        asked = request.query_params
        try:
            number = asked.get("place", "0")
            place = int(number) if number.isdecimal() and len(number) < 10 else -1
            async with exports:
                made = await beside(export_html, handler.session, place, asked.get("view"))
        except OptionError as error:
            return PlainTextResponse(f"{error}\n", 400)
        finally:
            asking.discard(request)
        return HTMLResponse(made, headers={"content-disposition": "attachment; filename=lossnav.html"})

    async def talk(socket: WebSocket) -> None:
        if len(handler.clients) >= wire.LIMITS["sockets"]:
            await socket.close(_TRY_LATER)
            return
        await socket.accept()
        outbox = Outbox(socket)
        client = Client(outbox.deliver)
        handler.join(client)
        try:
            while True:
                await outbox.room()
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                words = message.get("text")
                if words is None:
                    await outbox.end(_BAD_DATA, RequestError("A message must be text, got bytes. Send JSON as text."))
                    return
                try:
                    read = wire.read(words)
                except RequestError as error:
                    await outbox.end(_BAD_TEXT, error)
                    return
                if problem := await answered(client, read, outbox.full):
                    client.send(wire.problem(problem, wire.number_of(read)))
        except (WebSocketDisconnect, RuntimeError):  # the page closed while we were sending
            return
        except asyncio.CancelledError:
            if not outbox.gone:
                raise
        finally:
            handler.leave(client)
            outbox.cancel()

    async def answered(client: Client, read: dict[str, Any], full: bool) -> Exception | None:
        """Answer a request; return the error if it has one."""
        try:
            if full and read.get("type") != "stop":
                raise OptionError("This page has too many unread messages. Read them, then ask again.")
            request = requests.parse(read, len(handler.session.place(client.place).dims))
            await beside(handler.answer, client, request)
        except LossnavError as error:
            return error
        except Exception as error:  # a bug of ours: it is shown, and the page continues
            traceback.print_exc()
            return error
        return None

    routes = [
        Route("/", index),
        Route("/export.html", exported),
        Route("/static/{name:path}", static),
        WebSocketRoute("/ws", talk),
    ]
    return Guard(Starlette(routes=routes), token, hosts, proxies)


async def beside(work: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a thread of its own; the end of the server does not wait for it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(value: T | None, error: BaseException | None) -> None:
        if answer.done():  # cancelled
            return
        if error is None:
            answer.set_result(value)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def run() -> None:
        value, problem = None, None
        try:
            value = work(*arguments)
        except Exception as error:
            problem = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, value, problem)

    threading.Thread(target=run, name="lossnav explorer answer", daemon=True).start()
    return await answer
