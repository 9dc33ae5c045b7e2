"""Access control of the explorer: every request and socket must have the token, an allowed Host and no foreign Origin.

The server listens on this machine only, but other users of the machine and every page in its browser can reach it. The
token in the path keeps out whoever does not have the address. The Host header keeps out foreign names that resolve to
this machine (DNS rebinding). The Origin header keeps out foreign pages that know the address (cross-site requests, and
sockets, which browsers do not restrict).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def new_token() -> str:
    """Return 24 random bytes as characters that are valid in a path."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI middleware: passes requests with the token, an allowed Host and no foreign Origin; removes the token.

    Parameters
    ----------
    app : ASGI application
    token : str
    hosts : iterable of str
        Allowed host names, without a port, in addition to those of the loopback address: the value of ``--host``.
    proxies : iterable of str
        Host names of proxies in front of the server, which may use TLS and another port.
    """

    def __init__(self, app: Any, token: str, hosts: Iterable[str] = (), proxies: Iterable[str] = ()) -> None:
        self.app, self.token = app, token
        self.proxies = {host.lower().strip("[]") for host in proxies} - {""}
        self.hosts = {*LOOPBACK, *self.proxies, *(host.lower().strip("[]") for host in hosts)} - {""}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            return
        status, said = self.refusal(scope)
        if status:
            await _refuse(scope, send, status, said)
            return
        head, _, rest = scope["path"].lstrip("/").partition("/")
        inner = dict(scope) | {"path": f"/{rest}", "root_path": f"{scope.get('root_path', '')}/{head}"}
        inner["raw_path"] = inner["path"].encode()
        await self.app(inner, receive, _with_headers(send, self.policy(scope)) if scope["type"] == "http" else send)

    def refusal(self, scope: Scope) -> tuple[int, str]:
        """Return the status and text of a refusal; 0 if the request is allowed."""
        host, origin = (_header(scope, name) for name in ("host", "origin"))
        if host is None or _name(host) not in self.hosts:
            return 421, "This host name is not allowed. Start the explorer with --allow-host NAME."
        if origin is not None and not self._is_own(origin, host, scope):
            return 403, "Requests from other pages are refused. Open the address that lossnav explore printed."
        given = scope["path"].lstrip("/").partition("/")[0]
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return 403, "The token in the address is missing or wrong. Open the address that lossnav explore printed."
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return 405, "Only GET is allowed."
        return 0, ""

    def _is_own(self, origin: str, host: str, scope: Scope) -> bool:
        """Return whether an origin is the requested address itself or an allowed proxy."""
        try:
            parts = urlsplit(origin)
            name, _ = (parts.hostname or "").lower(), parts.port
        except ValueError:
            return False
        if "@" in origin or parts.scheme not in ("http", "https") or parts.path or parts.query or parts.fragment:
            return False
        secure = scope["scheme"] in ("https", "wss")
        same = parts.netloc.lower() == host.lower() and (parts.scheme == "https") == secure
        return same or name in self.proxies

    def policy(self, scope: Scope) -> dict[str, str]:
        """Return the headers of every answer. Framing is allowed: a notebook embeds the page, and has the token."""
        host = _header(scope, "host") or ""
        rules = {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data: blob:",
            "font-src": "'self' data:",
            "connect-src": f"'self' ws://{host} wss://{host}",  # in some browsers 'self' does not include sockets
            "worker-src": "'self' blob:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        return {
            "content-security-policy": "; ".join(f"{name} {value}" for name, value in rules.items()),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",  # the address contains the token
            "cross-origin-resource-policy": "same-origin",
            "cache-control": "no-cache" if "/static/" in scope["path"] else "no-store",
        }


def _name(host: str) -> str:
    """Return a Host without its port; empty if it is invalid.

    >>> _name("LOCALHOST:8000"), _name("[::1]:8000"), _name("a@b")
    ('localhost', '::1', '')
    """
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    whole = parts.netloc == host and not (parts.username or parts.password or parts.path)
    return (parts.hostname or "").lower() if whole else ""


def _header(scope: Scope, name: str) -> str | None:
    """Return the value of a header; "?", which nothing matches, if it occurs more than once."""
    found = [value.decode("latin-1") for key, value in scope["headers"] if key.decode("latin-1").lower() == name]
    return None if not found else found[0] if len(found) == 1 else "?"


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            kept = [(name, value) for name, value in message.get("headers", ()) if name.decode().lower() not in headers]
            message = {**message, "headers": [*kept, *ours]}
        await send(message)

    return sending


async def _refuse(scope: Scope, send: Send, status: int, said: str) -> None:
    """Send the status; a socket is refused before it is accepted."""
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http.response"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": f"{said}\n".encode()})
