"""What is found out about a finished run afterwards: RUNS/analyses/DIGEST.KIND.json. The record never changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import StorageError
from .files import checksum, read_bounded, write_atomic
from .results import Record, Store


def _path(store: Store, record: Record, kind: str) -> Path:
    return store.root / "analyses" / f"{record.digest}.{kind}.json"


def keep(store: Store, record: Record, kind: str, values: dict[str, Any]) -> None:
    """Write what was found, bound to the files of the run that it was found from. Raises StorageError."""
    plain = {"found": values, "files": record.files}
    text = json.dumps({**plain, "checksum": checksum(plain)}, indent=1)
    write_atomic(_path(store, record, kind), text.encode())


def kept(store: Store, record: Record, kind: str) -> dict[str, Any] | None:
    """What `keep` wrote; None when there is nothing, or it is damaged or of a run with other files."""
    try:
        plain = json.loads(read_bounded(_path(store, record, kind)))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise StorageError(f"{_path(store, record, kind)}: cannot be read ({error.strerror})") from error
    whole = isinstance(plain, dict) and plain.pop("checksum", None) == checksum(plain)
    return dict(plain["found"]) if whole and plain["files"] == record.files else None
