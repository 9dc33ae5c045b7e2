"""Idle connections are closed: requests that are never completed, and answers that are never read.

The server itself closes a socket whose page does not answer pings. But closing first sends the waiting messages, which
such a page does not read. A connection that stays in this state is therefore aborted. All times are measured by the
clock of the event loop. `IdleTimeout` extends the protocol class of uvicorn (its option ``http``) without importing it.
"""

from __future__ import annotations

import asyncio
from typing import Any

PING, PONG = 15.0, 15.0  # seconds between pings to a page, and until it must answer
LOOK = 10.0  # seconds between two checks; a connection without progress between two is idle


class IdleTimeout:
    """Mixin for a protocol class: checks the connection regularly, also after it became a socket."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the checks."""
        super().connection_made(transport)  # type: ignore[misc]
        self._clock = asyncio.get_running_loop()
        self._seen: tuple[Any, int] = (None, 0)
        self._is_closing = False
        self._clock.call_later(LOOK, self._look, transport)

    def _look(self, transport: asyncio.Transport) -> None:
        if transport.is_closing():
            if self._is_closing:
                transport.abort()  # does nothing if it is closed
                return
            self._is_closing = True
        elif id(transport.get_protocol()) == id(self) and self._stands_still(transport):  # otherwise it became a socket
            transport.abort()
            return
        self._clock.call_later(LOOK, self._look, transport)

    def _stands_still(self, transport: asyncio.Transport) -> bool:
        """Return whether the same request is still incomplete, or the same answer has not been read further."""
        cycle, waiting = getattr(self, "cycle", None), transport.get_write_buffer_size()
        before, self._seen = self._seen, (cycle, waiting)
        if cycle is not before[0]:
            return False
        if cycle is None or cycle.response_complete:
            return True
        return 0 < before[1] <= waiting
