"""Files from the network: resumed where they were interrupted, checked, and whole or absent under their final name.

By hand, because pooch resumes nothing, and huggingface_hub is optional and compares no checksum of what arrived.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...utils.errors import DataError
from ...utils.files import storage_error
from ..checksums import is_whole, remember

Progress = Callable[[str, int, int], None]  # folder/file, bytes there, bytes in all (0: unknown)

_CHUNK = 1 << 20
_SECONDS = 30.0  # without a byte, after which a connection counts as lost
_OFFLINE = ("HF_HUB_OFFLINE",)
_ENOUGH = 416  # what a server answers when asked for bytes behind the end


def require_network(what: str) -> None:
    """Raises DataError when the environment forbids the network."""
    for name in _OFFLINE:
        if os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off"):
            raise DataError(f"{what} cannot be fetched, because {name} is set; unset it, or copy the files by hand")


def download(url: str, path: Path, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """The file at `url` as `path`; nothing is done when it is there already, unless it is not what it was on arrival.

    An interrupted download lies beside it as `.part` and goes on at the next call. A stated SHA-256 (the argument, or
    the one that the Hugging Face hub sends) is checked. Raises DataError when it cannot be had or is damaged,
    StorageError when it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        if path.exists() and is_whole(path, look_again=True):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        stated = _transfer(url, part, progress)
        _verify(url, part, sha256 or stated, remember(path, part))
        part.replace(path)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url} cannot be fetched ({reason}); try again later, or copy the file to {path}") from error
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def _transfer(url: str, part: Path, progress: Progress | None) -> str | None:
    """Append what is missing to `part`; the SHA-256 that the server states, if any."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    redirects = _Redirects()
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _ENOUGH and done:
            return redirects.stated
        raise
    with response:
        resumed = getattr(response, "status", None) == 206
        done = done if resumed else 0
        total = done + int(response.headers.get("Content-Length") or 0)
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(f"{part.parent.name}/{part.stem}", done, total)
        if done < total:
            raise http.client.IncompleteRead(b"", total - done)
        return redirects.stated or _stated(response.headers.get("X-Linked-Etag"))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the checksum that the hub states on the way to its storage."""

    stated: str | None = None

    def redirect_request(
        self, request: urllib.request.Request, fp: Any, code: int, message: str, headers: Any, url: str
    ) -> urllib.request.Request | None:
        self.stated = self.stated or _stated(headers.get("X-Linked-Etag"))
        return super().redirect_request(request, fp, code, message, headers, url)


def _stated(etag: str | None) -> str | None:
    """The hub's tag of a large file is its SHA-256; that of a small one is something else."""
    digest = (etag or "").strip('"')
    return digest if len(digest) == 64 else None


def _verify(url: str, part: Path, sha256: str | None, found: str) -> None:
    if sha256 not in (None, found):
        part.unlink()
        raise DataError(f"{url}: what arrived is damaged (SHA-256 differs); fetch it again")
