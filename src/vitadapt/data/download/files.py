"""Files from the network: resumed where they were interrupted, checked, and whole or absent under their final name.

What each file was when it arrived stands in NAME.sum beside it (SHA-256), so that later damage is noticed; a file is
hashed again only when its size or times are no longer those of the last check.

By hand, because pooch resumes nothing, and huggingface_hub is optional and compares no checksum of what arrived.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...utils.errors import DataError, StorageError, damaged
from ...utils.files import read_cached, sha256_of, storage_error, write_cached
from ...utils.progress import Progress

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
        digest = sha256_of(part)
        if (sha256 or stated) not in (None, digest):
            part.unlink()
            raise DataError(f"{url}: what arrived is damaged (SHA-256 differs); fetch it again")
        _write(path, digest, None)
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


def is_whole(path: Path, look_again: bool = False) -> bool:
    """Is the file what it was when it arrived? True for one that nothing is known of. Raises OSError."""
    body = read_cached(_beside(path), named=False)
    if body is None:
        return True
    known, status = json.loads(body), os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    if known["stamp"] == stamp and not look_again:
        return True
    if sha256_of(path) != known["sha256"]:
        return False
    if known["stamp"] != stamp:
        with suppress(StorageError):  # in a folder that one may only read it is hashed every time
            _write(path, known["sha256"], stamp)
    return True


def require_whole(path: Path, remedy: str) -> None:
    """Raises DataError when the file is not what it was when it arrived."""
    with damaged(path, remedy):
        whole = is_whole(path)
    if not whole:
        raise DataError(f"{path} is not what was fetched (SHA-256 differs); {remedy}")


def _write(path: Path, digest: str, stamp: list[int] | None) -> None:
    write_cached(_beside(path), json.dumps({"sha256": digest, "stamp": stamp}).encode(), named=False)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sum")
