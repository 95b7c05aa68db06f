"""uvicorn's HTTP/1.1 connection with limits of its own: on time, on the size of a header, and on tiny pieces."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .limits import Limits
from .refusal import RETRY, error_body

HEADER_BYTES = 64 << 10
PIECES, PIECE_BYTES = 1000, 64  # so many pieces of a body may be smaller than this on the average
_LAST_REQUESTS = 0.2  # seconds that an idle connection stays open when the server ends
_FLUSH = 5.0  # seconds that a client has to read what was written before its connection is cut


class Connection(HttpToolsProtocol):
    """One connection. A client that is too slow, or sends what is no request, gets an error answer and is cut off."""

    limits = Limits()
    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _header_bytes = _pieces = _body_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "busy", f"{self.limits.max_connections} connections are open; try again in a second")
        else:
            self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > HEADER_BYTES:
            self._refuse(400, "bad_request", f"a header has at most {HEADER_BYTES} bytes")
        elif self.cycle is not None and not self.cycle.response_complete:
            self._stop_header_timer()  # the header is there; body and answer have their own times
        elif self._header_timer is None:
            self._start_header_timer()

    def on_headers_complete(self) -> None:
        self._header_bytes = self._pieces = self._body_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        self._pieces += 1
        self._body_bytes += len(body)
        if self._pieces > PIECES and self._body_bytes < PIECE_BYTES * self._pieces:
            raise ValueError("pieces of a body that are too small")  # ends the parsing: `send_400_response`
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._stop_header_timer()
        if self.transport.is_closing():
            self._cut_later()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._cut_later()

    def shutdown(self) -> None:
        """A moment later for an idle connection: a request that is already on its way is accepted, and answered."""
        self.loop.call_later(_LAST_REQUESTS, super().shutdown)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.read_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", "this is no valid HTTP request, or comes in too many small pieces")

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_timeout, self._too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._refuse(408, "too_slow", f"the header did not arrive within {self.limits.header_timeout:g} seconds")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """An error answer to what is no request, unless another answer has begun; and the end of the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps(error_body(code, message)).encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            headers |= RETRY if status == 503 else {}
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.transport.write(STATUS_LINE[status] + lines.encode() + b"\r\n" + body)
        self.transport.close()
        self._cut_later()

    def _cut_later(self) -> None:
        self.loop.call_later(_FLUSH, self.transport.abort)


def connection_with(limits: Limits) -> type[Connection]:
    """The class of connections with these limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
