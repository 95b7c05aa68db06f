"""uvicorn's HTTP/1.1 connection, less patient: a header must be there in time, and a closed connection goes away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from .limits import Limits
from .refusal import BUSY, body_of

_LAST_CALL = 0.2  # seconds
_FLUSH = 5.0  # seconds that a client has to take what was written before its connection is cut


class Connection(H11Protocol):
    """One connection. Whoever has sent no whole header in time is told so and cut off, and so is whoever comes when
    there are as many connections as are allowed, and whoever does not read the answer.
    """

    limits = Limits()
    _waiting: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._say(503, "busy", f"{self.limits.connections} connections are open already; try again in a second")
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()  # the header is there; body and answer have times of their own
        elif self._waiting is None:
            self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._stop_waiting()
        if self.transport.is_closing():
            self._cut_later()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._cut_later()

    def shutdown(self) -> None:
        """A moment later for an idle connection: a request that is already on its way is accepted, and answered."""
        self.loop.call_later(_LAST_CALL, super().shutdown)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.limits.read, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()

    def send_400_response(self, msg: str) -> None:
        self._say(400, "bad_request", "this is no valid HTTP request")

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.limits.header, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        self._say(408, "too_slow", f"the header did not arrive within {self.limits.header:g} seconds")

    def _say(self, status: int, code: str, message: str) -> None:
        """An answer to what is no request, past all other machinery; silence when another answer has begun."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps(body_of(code, message)).encode()
            lines = [f"HTTP/1.1 {status} ".encode() + STATUS_PHRASES[status], b"Content-Type: application/json"]
            lines += [f"{name}: {value}".encode() for name, value in (BUSY if status == 503 else {}).items()]
            lines += [f"Content-Length: {len(body)}".encode(), b"Connection: close"]
            self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()
        self._cut_later()

    def _cut_later(self) -> None:
        self.loop.call_later(_FLUSH, self.transport.abort)


def connection(limits: Limits) -> type[Connection]:
    """The class of connections with these limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
