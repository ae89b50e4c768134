"""What reaches the page at all: requests under its own name, from itself, of bounded size."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
LARGEST_UPLOAD = 32 << 20  # bytes, the whole request
LARGEST_WORDS = 64 << 10  # bytes of any other request
UPLOADS = "/api/references"
POSTS = (UPLOADS, "/api/search", "/api/open", "/page/search")
HEADERS = {  # of every answer
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware. A page of another site in the same browser can send requests here, and by a
    name of its own that leads here (DNS rebinding) read the answers: so Host must be a loopback
    name or what `host` names, and Origin, where there is one, the same as Host.

    host: what the server listens on; where that is every interface, any address and this machine's
        name are its own.
    """

    def __init__(self, app: Any, host: str):
        self._app = app
        self._everywhere = host in ("", "0.0.0.0", "::")
        mine = (socket.gethostname(), socket.getfqdn()) if self._everywhere else (host.strip("[]"),)
        self._names = {name.lower() for name in (*LOOPBACK, *mine)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await _refuse(scope, guarded, *refusal)
        else:
            await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not self._own(hosts[0]):
            return 403, "this page does not answer to that Host"
        if any(origin.lower().split("://")[1:] != [hosts[0].lower()] for origin in origins):
            return 403, "this page does not answer to other pages"
        embedded = headers.get("sec-fetch-mode") != ["navigate"]  # a link to this page is fine
        if embedded and headers.get("sec-fetch-site", ["none"])[0] not in ("same-origin", "none"):
            return 403, "this page does not answer to other pages"
        if scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST" or scope["path"] not in POSTS:
            return 404, "not found"
        length = "".join(headers.get("content-length", []))
        if not (length.isascii() and length.isdigit()):
            return 411, "the length is missing"
        if int(length[:12]) > (LARGEST_UPLOAD if scope["path"] == UPLOADS else LARGEST_WORDS):
            return 413, "too large"
        return None

    def _own(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name = (parts.hostname or "").lower()
        except ValueError:
            return False
        if parts.netloc != host or "@" in host:
            return False
        if name in self._names:
            return True
        with suppress(ValueError):
            return self._everywhere and bool(ipaddress.ip_address(name))
        return False


async def _refuse(scope: Scope, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why.encode()})
