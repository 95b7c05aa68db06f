"""Optional packages and downloads: whatever goes wrong becomes one line with the remedy."""

from __future__ import annotations

import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from .errors import WeightsError

REMEDY = "use the offline backbone dinov2-s14-offline, or a local checkpoint with file:PATH"


class MissingPackage(WeightsError):
    """An optional package is not installed; another source may do without."""


def package(name: str, extra: str) -> Any:
    """The imported package or module of one. Raises MissingPackage naming the extra that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        raise MissingPackage(f'this needs the package {root}; pip install "vitadapt[{extra}]"') from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block transformers shows no progress bars, and says nothing of what will change in its own code."""
    logging = package("transformers", "hf").utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def fetching(what: str, address: str = "") -> Iterator[bool]:
    """Turns whatever a download can fail with into one WeightsError (`address`: where from; empty: the hub).

    Gives whether only the cache can be asked (`local_files_only`): without a connection the hub's client would repeat
    every request for a minute, and then use the cache all the same.
    """
    reason = _why_offline(address)
    if address and _CACHE_ALONE.get():
        raise WeightsError(f"{what} is not downloaded here; --download fetches it")
    try:
        yield bool(reason)
    except failures() as error:
        message = (str(error) or type(error).__name__).strip().partition("\n")[0][:200]
        message = f"{reason}, and it is not in the cache" if reason else message
        remedy = "--download fetches it" if _CACHE_ALONE.get() else REMEDY
        if type(error).__name__ == "GatedRepoError":
            message = "its owners give access on request"
            remedy = f"ask at https://huggingface.co/{what.rpartition('hf:')[2]}, then log in with hf auth login"
        raise WeightsError(f"could not fetch {what}: {message}; {remedy}") from error


_CACHE_ALONE = ContextVar("cache_alone", default=False)


@contextmanager
def cache_alone() -> Iterator[None]:
    """Within the block nothing is fetched: what is not in the cache cannot be had."""
    token = _CACHE_ALONE.set(True)
    try:
        yield
    finally:
        _CACHE_ALONE.reset(token)


def _why_offline(address: str) -> str:
    """Why nothing can be fetched; empty when it may be possible."""
    if _CACHE_ALONE.get():
        return "nothing is downloaded here"
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants and constants.HF_HUB_OFFLINE and not address:
        return "HF_HUB_OFFLINE is set"
    if getproxies():  # a proxy may know hosts that this machine does not
        return ""
    host = urlsplit(address or (constants.ENDPOINT if constants else "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return f"no connection to {host}"
    return ""


def failures() -> tuple[type[Exception], ...]:
    """What the libraries raise when there is no connection, no such file or no such repository."""
    general = (OSError, ValueError, RuntimeError)  # most errors of huggingface_hub and urllib derive from OSError
    clients = (sys.modules.get(name) for name in ("httpx", "httpx2"))  # huggingface_hub talks through one
    return (*general, *(client.HTTPError for client in clients if client))
