"""Connections that lead nowhere are ended: a request that is never finished, an answer that is never taken.

A socket whose page does not answer to pings any more is closed by the server itself; but to close means to send first
what still waits, which nobody takes. So whatever is closing for long is cut off. All waiting is on the clock of the
event loop. Of uvicorn's parts the protocol is extended, which is what its option ``http`` is for. No uvicorn here.
"""

from __future__ import annotations

import asyncio
from typing import Any

PING, PONG = 15.0, 15.0  # seconds between pings to a page, and for it to answer
LOOK = 10.0  # seconds between two looks; what has not moved between two leads nowhere


class IdleTimeout:
    """To be mixed into a protocol: the connection is looked at now and then, also when a socket has grown out of it."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to look."""
        super().connection_made(transport)  # type: ignore[misc]
        self._clock = asyncio.get_running_loop()
        self._seen: tuple[Any, int] = (None, 0)
        self._is_closing = False
        self._clock.call_later(LOOK, self._look, transport)

    def _look(self, transport: asyncio.Transport) -> None:
        if transport.is_closing():
            if self._is_closing:
                transport.abort()  # does nothing where it is closed by now
                return
            self._is_closing = True
        elif id(transport.get_protocol()) == id(self) and self._stands_still(transport):  # else it is a socket by now
            transport.abort()
            return
        self._clock.call_later(LOOK, self._look, transport)

    def _stands_still(self, transport: asyncio.Transport) -> bool:
        """Whether the same request is still not whole, or the same answer is taken no further."""
        cycle, waiting = getattr(self, "cycle", None), transport.get_write_buffer_size()
        before, self._seen = self._seen, (cycle, waiting)
        if cycle is not before[0]:
            return False
        if cycle is None or cycle.response_complete:
            return True
        return 0 < before[1] <= waiting
