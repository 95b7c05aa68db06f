"""What happens to a request before the application gets it: who may ask, how much may be sent, how long it may take.

A plain ASGI wrapper. A body is read here as a whole, within its limits and its time, and only where one is expected;
so a slow sender costs a little memory that is counted, and nothing else.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from .limits import Limits
from .metrics import Metrics
from .refusal import Refusal, busy, error_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_UNLIMITED = {"/healthz", "/readyz"}  # answered also when there are too many requests
_LINGER, _DISCARDED = 2.0, 64 << 20  # seconds and bytes for which the rest of a refused body is still read


@dataclass(frozen=True)
class AccessPolicy:
    """Who may ask: the bearer token, if one is needed, and the names by which the server may be called (empty: any)."""

    token: str = ""
    hosts: frozenset[str] = frozenset()

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raises Refusal: 421 for another host's name, 403 for a page of another site, 401 without the token."""
        host = headers.get("host", "")
        if self.hosts and _hostname(host) not in self.hosts:
            raise Refusal(421, "unknown_host", "this server is not called so; start it with --allow-host to allow it")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Refusal(403, "other_site", "pages of other sites may not ask this server")
        if self.token and (path.startswith("/v1/") or path in ("/v1", "/metrics")):
            kind, _, token = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(token.strip().encode(), self.token.encode())
            if kind.lower() != "bearer" or not same:
                challenge = {"WWW-Authenticate": 'Bearer realm="vitadapt"'}
                raise Refusal(401, "no_token", "this server wants a token: Authorization: Bearer TOKEN", challenge)


def _hostname(host: str) -> str:
    """Without the port, in small letters: "[::1]:80" -> "::1"."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


@dataclass(eq=False)
class _Exchange:
    """One request: the bytes that it has sent, and the status of its answer."""

    received: int = 0
    status: int = 0
    unread: bool = True  # may more of the body come?
    start: float = field(default_factory=time.perf_counter)


class Middleware:
    """The application behind its limits. `memory`: bytes of all requests in progress."""

    def __init__(self, app: App, limits: Limits, access: AccessPolicy, metrics: Metrics) -> None:
        self.app, self.limits, self.access, self.metrics = app, limits, access, metrics
        self.requests = self.memory = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self.requests += 1
        try:
            await self._process(scope, receive, send_with_headers, exchange)
        except Refusal as refusal:
            await self._refuse(scope, receive, send_with_headers, refusal, exchange)
        finally:
            self.requests -= 1
            self.memory -= exchange.received
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(exchange.status or 499)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - exchange.start)

    async def _process(self, scope: Scope, receive: Receive, send: Send, exchange: _Exchange) -> None:
        """Read the body and let the application answer. Raises Refusal."""
        headers = Headers(scope=scope)
        exchange.unread = "expect" not in headers  # such a client sends nothing before the first `receive`
        self.access.check(scope["path"], headers)
        if self.requests > self.limits.max_requests and scope["path"] not in _UNLIMITED:
            raise busy(f"{self.limits.max_requests} requests are being answered already")
        length = headers.get("content-length", "0")
        if scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            if length.strip("0") or "transfer-encoding" in headers:
                raise Refusal(413, "no_body", "this request has a body, and none is expected here")
        elif length.isdecimal() and int(length) > self.limits.max_bytes:
            raise self._too_large()
        try:
            body = await asyncio.wait_for(self._read(receive, exchange), self.limits.read_timeout)
        except asyncio.TimeoutError as error:
            exchange.unread = False
            message = f"the request did not arrive within {self.limits.read_timeout:g} seconds"
            raise Refusal(408, "too_slow", message, {"Connection": "close"}) from error
        if not await self._answer(scope, body, receive, send) and not exchange.status:
            raise busy(f"there was no answer within {self.limits.timeout:g} seconds")

    async def _read(self, receive: Receive, exchange: _Exchange) -> bytes:
        parts = []
        while True:
            message = await receive()
            exchange.unread = bool(message.get("more_body", False))
            if message["type"] == "http.disconnect":
                raise Refusal(400, "cut_off", "the request ended before its body did")
            part = message.get("body", b"")
            exchange.received += len(part)
            self.memory += len(part)
            if exchange.received > self.limits.max_bytes:
                raise self._too_large()
            if self.memory > self.limits.max_memory:
                raise busy("the requests in progress are as large as is allowed")
            parts.append(part)
            if not exchange.unread:
                return b"".join(parts)

    def _too_large(self) -> Refusal:
        most = self.limits.max_bytes
        return Refusal(413, "too_large", f"more than {most} bytes; send a smaller picture, or fewer of them")

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """False when it took too long. An answer that is late, or whose client has gone, is not computed further."""
        gone = asyncio.ensure_future(_wait_until_gone(receive))
        parts = [body]

        async def replay() -> Message:
            """The body at once; after it, nothing until the client has gone."""
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            return await asyncio.shield(gone)

        answer = asyncio.ensure_future(self.app(scope, replay, send))
        try:
            await asyncio.wait({answer, gone}, timeout=self.limits.timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
            return answer.done() or gone.done()
        finally:
            answer.cancel()
            gone.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal, exchange: _Exchange) -> None:
        """Answer, and close: the rest of the body would be taken for the next request."""
        self.metrics.refused.labels(refusal.code).inc()
        if exchange.unread:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_discard(receive), _LINGER)
        body, headers = error_body(refusal.code, refusal.message), {"Connection": "close", **refusal.headers}
        await JSONResponse(body, refusal.status, headers)(scope, receive, send)


async def _wait_until_gone(receive: Receive) -> Message:
    """The message that the client has closed the connection."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message


async def _discard(receive: Receive) -> None:
    """Let a client that is still sending come to its end, so that it reads the answer instead of a reset."""
    discarded = 0
    while discarded < _DISCARDED:
        message = await receive()
        discarded += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
