"""The request "stop": end one request of the page, or all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossnav.explorer.requests.request import Request, declare
from lossnav.explorer.server.wire import idle

if TYPE_CHECKING:
    from lossnav.explorer.live.worker import LiveHandler
    from lossnav.explorer.stored.handlers import Client, Handler


@declare("stop")
class StopRequest(Request):
    """End the request with the number `id`; None: every request of this page."""

    def stored(self, handler: Handler, client: Client) -> None:
        """Say that nothing is running."""
        client.send(idle("stop", self.id))

    def live(self, handler: LiveHandler, client: Client) -> None:
        """Cancel, and say so."""
        handler.cancel(lambda task: task.client is client and self.id in (None, task.request.id))
        self.stored(handler, client)
