"""Requests about the view on the screen: the Python code that makes it, and bookmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossnav.explorer.requests import fields
from lossnav.explorer.requests.request import Request, declare
from lossnav.explorer.stored.copy_as_code import code_of

if TYPE_CHECKING:
    from lossnav.explorer.stored.handlers import Client, Handler


@declare("code")
class CodeRequest(Request):
    """Ask for the Python code of a view."""

    view: Mapping[str, Any] = fields.view()

    def stored(self, handler: Handler, client: Client) -> None:
        """Send the code."""
        client.send({"type": "code", "id": self.id, "text": code_of(handler.session, client.place, self.view)})


@declare("bookmark")
class BookmarkRequest(Request):
    """Store a view under a name; a view of None removes the bookmark."""

    name: str = fields.text()
    view: Mapping[str, Any] | None = fields.view(optional=True)

    def stored(self, handler: Handler, client: Client) -> None:
        """Store it, and send the bookmarks to every page."""
        handler.session.bookmark(self.name, self.view)
        handler.tell({"type": "bookmarks", "bookmarks": handler.session.bookmarks})
