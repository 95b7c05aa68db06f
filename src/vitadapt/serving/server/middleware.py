"""What stands before every request: who may ask, how much may come in, how long it may take, how many at a time.

A plain ASGI wrapper. The whole body is read here, within its limits and its time, before anything else is done for a
request; so whoever sends slowly costs a little memory that is accounted for, and nothing else.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .limits import Limits
from .metrics import Metrics
from .refusal import Refusal, body_of, busy

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
ALWAYS = {"/healthz", "/readyz"}  # answered also when everything else is too much
_LINGER, _DISCARDED = 2.0, 64 << 20  # seconds and bytes that an unwanted body is still listened to


@dataclass(frozen=True)
class Door:
    """Who may ask: the bearer token, if one is needed; names by which the server may be called (empty: any)."""

    token: str = ""
    hosts: frozenset[str] = frozenset()

    def check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Raises Refusal: 421 for another host's name, 403 for a page of another site, 401 without the token."""
        host = headers.get("host", "")
        if self.hosts and _hostname(host) not in self.hosts:
            raise Refusal(421, "unknown_host", "this server is not called so; start it with --allow-host to allow it")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Refusal(403, "other_site", "pages of other sites may not ask this server")
        if self.token and _guarded(scope["path"]):
            self._check_token(headers.get("authorization", ""))

    def _check_token(self, said: str) -> None:
        kind, _, token = said.partition(" ")
        same = hmac.compare_digest(token.strip().encode(), self.token.encode())
        if kind.lower() != "bearer" or not same:
            challenge = {"WWW-Authenticate": 'Bearer realm="vitadapt"'}
            raise Refusal(401, "no_token", "this server wants a token: Authorization: Bearer TOKEN", challenge)


def _guarded(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/v1", "/metrics")


def _hostname(host: str) -> str:
    """Without the port, in small letters: "[::1]:80" -> "::1"."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


@dataclass(eq=False)
class _Exchange:
    """One request on its way: what it has taken, and what was sent back."""

    route: str = "other"
    taken: int = 0
    status: int = 0
    unread: bool = True  # is there more of the body that may be waited for?
    start: float = field(default_factory=time.perf_counter)


class Gate:
    """The application behind its limits. `closing()` tells that the server is about to end."""

    def __init__(self, app: App, limits: Limits, door: Door, metrics: Metrics) -> None:
        self.app, self.limits, self.door, self.metrics = app, limits, door, metrics
        self.requests = self.memory = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange()
        answer = self._sending(send, exchange)
        self.requests += 1
        try:
            await self._admit(scope, receive, answer, exchange)
        except Refusal as refusal:
            await self._refuse(scope, receive, answer, refusal, exchange)
        finally:
            self.requests -= 1
            self.memory -= exchange.taken
            self._count(scope, exchange)

    async def _admit(self, scope: Scope, receive: Receive, send: Send, exchange: _Exchange) -> None:
        """Read the body and let the application answer. Raises Refusal."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        exchange.unread = "expect" not in headers  # it waits for a word before it sends: the first `receive`
        self.door.check(scope, headers)
        if self.requests > self.limits.requests and scope["path"] not in ALWAYS:
            raise busy(f"{self.limits.requests} requests are being answered already")
        body = await self._body(headers, receive, exchange)
        if await self._answered(scope, body, receive, send) or exchange.status:  # or part of the answer is out
            return
        raise busy(f"there was no answer within {self.limits.answer:g} seconds")

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """False when it took too long. What nobody waits for any more, too late or gone, is not computed."""
        gone = asyncio.ensure_future(_gone(receive))
        answer = asyncio.ensure_future(self.app(scope, _replay(body, gone), send))
        try:
            await asyncio.wait({answer, gone}, timeout=self.limits.answer, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
            return answer.done() or gone.done()
        finally:
            answer.cancel()
            gone.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def _body(self, headers: Mapping[str, str], receive: Receive, exchange: _Exchange) -> bytes:
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self.limits.body:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._read(receive, exchange), self.limits.read)
        except asyncio.TimeoutError as error:
            exchange.unread = False
            what = f"the request did not arrive within {self.limits.read:g} seconds"
            raise Refusal(408, "too_slow", what, {"Connection": "close"}) from error

    async def _read(self, receive: Receive, exchange: _Exchange) -> bytes:
        parts = []
        while True:
            message = await receive()
            exchange.unread = bool(message.get("more_body", False))
            if message["type"] == "http.disconnect":
                raise Refusal(400, "cut_off", "the request ended before its body did")
            part = message.get("body", b"")
            exchange.taken += len(part)
            self.memory += len(part)
            if exchange.taken > self.limits.body:
                raise self._too_large()
            if self.memory > self.limits.memory:
                raise busy("the requests in progress are as large as is allowed")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> Refusal:
        most = self.limits.body
        return Refusal(413, "too_large", f"more than {most} bytes; send a smaller picture, or fewer of them")

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal, exchange: _Exchange) -> None:
        """Answer, and close: a body that nobody reads would be taken for the next request."""
        self.metrics.refused.labels(refusal.code).inc()
        if exchange.unread:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_discard(receive), _LINGER)
        payload = json.dumps(body_of(refusal.code, refusal.message)).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(payload)), "Connection": "close"}
        pairs = [(name.lower().encode(), value.encode()) for name, value in {**headers, **refusal.headers}.items()]
        await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else payload})

    def _sending(self, send: Send, exchange: _Exchange) -> Send:
        """`send` with the security headers."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                given = {name.lower() for name, _ in message.get("headers", [])}
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *(pair for pair in own if pair[0] not in given)]
            await send(message)

        return answer

    def _count(self, scope: Scope, exchange: _Exchange) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(exchange.status or 499)).inc()
        self.metrics.seconds.labels(route).observe(time.perf_counter() - exchange.start)


async def _gone(receive: Receive) -> Message:
    """The message that the client has left."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message


def _replay(body: bytes, gone: asyncio.Future[Message]) -> Receive:
    """The body at once; after it, nothing until the client has left."""
    left = [body]

    async def again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await asyncio.shield(gone)

    return again


async def _discard(receive: Receive) -> None:
    """Let a client that is still sending come to its end, so that it reads the answer instead of a reset."""
    dropped = 0
    while dropped < _DISCARDED:
        message = await receive()
        dropped += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
