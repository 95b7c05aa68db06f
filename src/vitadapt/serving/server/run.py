"""From a service to a listening process, and to its orderly end."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import uvicorn

from ...utils.errors import ConfigError, VitadaptError
from .app import make_app
from .connection import connection_with
from .middleware import AccessPolicy
from .service import Service

_BACKLOG = 1024
_KEEP_ALIVE = 30  # seconds that an idle connection stays open: longer than clients keep theirs


@dataclass(frozen=True)
class Address:
    """Where to listen, and who may ask. hosts: more names of this server."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def loopback(self) -> bool:
        """Does it reach only this machine?"""
        if self.host == "localhost":
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        return False

    def access(self) -> AccessPolicy:
        """On a loopback address other names are refused: a page of another site could make its name mean this one."""
        names = {"localhost", "127.0.0.1", "::1", self.host.strip("[]").lower()} if self.loopback else set()
        return AccessPolicy(self.token, frozenset(names | {host.lower() for host in self.hosts}))


def _listener(address: Address) -> socket.socket:
    """A listening socket. Raises ConfigError."""
    if not 0 <= address.port <= 65535:
        raise ConfigError(f"--port is a number from 0 to 65535, not {address.port}")
    host = address.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"--host {address.host} --port {address.port}: cannot listen there ({error.strerror}); "
            "choose another --port"
        ) from error


def make_server(service: Service, address: Address) -> tuple[uvicorn.Server, socket.socket]:
    """A server with its models loaded, and the socket to be given to its `run`.

    Raises ConfigError when the address cannot be listened at, and what `Service.load` raises.
    """
    limits = service.limits
    listener = _listener(address)
    try:
        service.load()
    except VitadaptError:
        listener.close()
        raise
    config = uvicorn.Config(
        make_app(service, address.access()),
        http=connection_with(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(limits.read_timeout + limits.timeout) + 1,
    )
    return uvicorn.Server(config), listener


def run(service: Service, address: Address, log: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT; then answer what was accepted and return. Raises as `make_server`."""
    before = {kind: signal.signal(kind, _ignore) for kind in (signal.SIGTERM, signal.SIGINT)}
    listener = None
    try:
        server, listener = make_server(service, address)
        count = len(service.repository.models)
        log(f"{count} model{'' if count == 1 else 's'} at {url_of(listener)} (Ctrl-C ends it)")
        server.run(sockets=[listener])  # it repeats the signal that ended it, which is then ignored
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        if listener is not None:
            listener.close()


def _ignore(*_: object) -> None:
    """For a signal that uvicorn has acted upon already."""


def url_of(listener: socket.socket) -> str:
    """How a browser on this machine calls it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
