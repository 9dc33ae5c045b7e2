"""What waits to be sent to one page: in order, bounded, and not for ever where nobody takes it.

A page that takes nothing (a network that is gone, a browser that was stopped) must cost the others neither memory nor
one of the few sockets. Of what only its last state matters (progress, bookmarks, places) the last waits alone.
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

FULL = 500  # messages that wait, from which on requests are refused
STUFFED = 2 * FULL  # from which on no more are read
STALLED = 20.0  # seconds for one message to be taken, after which nobody is thought to be there


class Outbox:
    """Messages on their way to one socket; `deliver` may be called from any thread.

    Made in the task that serves the socket, which is cancelled where the page does not take what it is sent.

    Parameters
    ----------
    socket : WebSocket

    Attributes
    ----------
    gone : bool
        Whether the page takes nothing any more.
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
        """Send by and by."""
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
        """Whether so much waits that nothing more should be asked for."""
        return len(self._waiting) >= FULL

    async def room(self) -> None:
        """Wait while too much waits even for refusals."""
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
        except Exception:  # it is gone, or does not read
            self.gone = True
            self._waiting.clear()
            if self._serving is not None:
                self._serving.cancel()

    async def end(self, code: int, error: Exception) -> None:
        """Say why, and close."""
        self.cancel()
        with suppress(Exception):
            async with asyncio.timeout(STALLED):
                await self._socket.send_text(wire.text(wire.problem(error)))
                await self._socket.close(code)

    def cancel(self) -> None:
        """Send nothing more."""
        self._sending.cancel()


def _key(message: Any) -> Hashable:
    """What a message is the last state of; None where each one counts."""
    kind = str(message["type"])
    if kind in ("bookmarks", "places"):
        return kind
    return (kind, message["id"]) if kind == "progress" and message["busy"] else None
