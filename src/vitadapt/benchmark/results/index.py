"""The summaries of a large store's records without opening each of them: one file holds them all.

RUNS/index holds, behind a checksum, the summary of every record with the size and times of its file. A record whose
file has others now, or was so young that it could change unseen, is read itself. Nothing depends on the index: it may
be deleted at any time, and a damaged one counts as absent.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...utils.errors import StorageError
from ...utils.files import read_cached, settled, write_cached
from .record import RecordSummary
from .store import Store

FORMAT = 3
WORTH = 500  # records that had to be read themselves, beyond which the index is written again

Stamp = list[int]
Known = dict[str, tuple[Stamp, dict[str, Any]]]  # file name -> size and times of the file, and its summary

_FIELDS = tuple(f.name for f in dataclasses.fields(RecordSummary))


def read_summaries(store: Store) -> tuple[list[RecordSummary], list[str]]:
    """As `Store.records`, but only what tables need, and in a large store with the help of its index.

    Raises StorageError when there is no such folder.
    """
    path = store.root / "index"
    known, fresh = _read(path), Known()
    found, damaged = dict[str, RecordSummary](), list[str]()
    for file in store.files():
        name, stamp = file.name, _stamp(file)
        indexed = known.get(name)
        if stamp is not None and indexed is not None and indexed[0] == stamp:
            found[name] = RecordSummary(**indexed[1])
            continue
        try:
            found[name] = record = store.read(store.root / "records" / name)
        except FileNotFoundError:  # discarded since the folder was listed
            continue
        except StorageError as error:
            damaged.append(str(error))
            continue
        summary = {field: getattr(record, field) for field in _FIELDS}
        summary |= {"method_label": record.label, "images": {**record.images, "train": record.drawn}}
        if stamp is not None:
            fresh[name] = stamp, summary
    if len(fresh) > WORTH:
        _write(path, {name: item for name, item in known.items() if name in found} | fresh)
    return [found[name] for name in sorted(found)], sorted(damaged)


def _stamp(file: os.DirEntry[str]) -> Stamp | None:
    """Size and times of a file; None for one that may still change within the clock's tick, or does not show them."""
    try:
        status = file.stat()
    except OSError:  # gone, or out of reach: reading it shows which
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns] if settled(status) else None


def _read(path: Path) -> Known:
    body = read_cached(path)
    plain: Mapping[str, Any] = json.loads(body) if body else {}
    return plain["files"] if plain.get("format") == FORMAT and plain["fields"] == list(_FIELDS) else {}


def _write(path: Path, known: Known) -> None:
    body = json.dumps({"format": FORMAT, "fields": _FIELDS, "files": known}, separators=(",", ":"))
    try:
        write_cached(path, body.encode())
    except StorageError:  # a folder that one may only read: the next reader takes as long as this one
        return
