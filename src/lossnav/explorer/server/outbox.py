"""The queue of messages to one page: ordered, bounded, and dropped if the page stops reading.

A page that does not read (a lost network, a suspended browser) must not use up memory or one of the few sockets. Of
messages about a state (progress, bookmarks, places) only the latest waits.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from lossnav.explorer.server import wire
from lossnav.explorer.stored.handlers import Message

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

FULL = 500  # waiting messages; from here on requests are refused
STUFFED = 2 * FULL  # from here on no requests are read
STALLED = 20.0  # seconds for sending one message; after that the page is considered gone


class Outbox:
    """Queue of messages to one socket; `deliver` may be called from any thread.

    Construct it in the task that serves the socket. That task is cancelled if the page stops reading.

    Parameters
    ----------
    socket : WebSocket

    Attributes
    ----------
    gone : bool
        Whether the page has stopped reading.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket, self._loop, self._serving = socket, asyncio.get_running_loop(), asyncio.current_task()
        self._waiting: OrderedDict[Hashable, Any] = OrderedDict()
        self._numbers = count()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.gone = False
        self._sending = asyncio.create_task(self._send_all())

    def deliver(self, message: Message) -> None:
        """Add a message to the queue."""
        data: Any = message if isinstance(message, bytes) else wire.text(message)
        key = None if isinstance(message, bytes) else _key(message)
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._put, key, data)

    def _put(self, key: Hashable, data: Any) -> None:
        self._waiting.pop(key, None)
        self._waiting[next(self._numbers) if key is None else key] = data
        self._changed.set()
        if len(self._waiting) >= STUFFED:
            self._room.clear()

    @property
    def full(self) -> bool:
        """Whether so many messages wait that requests are refused."""
        return len(self._waiting) >= FULL

    async def room(self) -> None:
        """Wait while the queue is too full even for refusals."""
        await self._room.wait()

    async def _send_all(self) -> None:
        try:
            while True:
                await self._changed.wait()
                while self._waiting:
                    _, data = self._waiting.popitem(last=False)
                    async with asyncio.timeout(STALLED):
                        send = self._socket.send_bytes if isinstance(data, bytes) else self._socket.send_text
                        await send(data)
                    if not self.full:
                        self._room.set()
                self._changed.clear()
        except Exception:  # the page is gone, or does not read
            self.gone = True
            self._waiting.clear()
            if self._serving is not None:
                self._serving.cancel()

    async def end(self, code: int, error: Exception) -> None:
        """Send the error, and close the socket."""
        self.cancel()
        with suppress(Exception):
            async with asyncio.timeout(STALLED):
                await self._socket.send_text(wire.text(wire.problem(error)))
                await self._socket.close(code)

    def cancel(self) -> None:
        """Stop sending."""
        self._sending.cancel()


def _key(message: Any) -> Hashable:
    """Return the state that a message is about, of which only the latest is sent; None if every message is sent."""
    kind = str(message["type"])
    if kind in ("bookmarks", "places"):
        return kind
    return (kind, message["id"]) if kind == "progress" and message["busy"] else None
