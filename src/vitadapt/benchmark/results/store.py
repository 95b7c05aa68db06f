"""Records of runs, and the folder that holds them. A record that is there is whole; nothing is ever half-written.

RUNS/records/DIGEST.json        what was run, what came out, with a checksum of itself and of the two files below
RUNS/predictions/DIGEST.npz     probabilities (N, C) and labels of the test images
RUNS/adapters/DIGEST.safetensors  what was learnt
RUNS/failures/DIGEST.txt        the trace of a run that stopped with an error; gone when it succeeds
RUNS/trials/DIGEST.jsonl        the finished trials of a search; gone when its cell is recorded
RUNS/index                      what the records of a large store say in short (see `index`); may be deleted
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...utils.errors import StorageError, damaged
from ...utils.files import bytes_digest, checked_json, parse_checked_json, read_bounded, write_atomic
from ...utils.locks import locked
from .record import Record


class Store:
    """A folder of records. Safe for several processes: a cell is run by whoever holds its lock."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, kind: str, digest: str) -> Path:
        endings = {"records": "json", "predictions": "npz", "adapters": "safetensors"}
        endings |= {"failures": "txt", "trials": "jsonl"}
        return self.root / kind / f"{digest}.{endings.get(kind, kind)}"

    @contextmanager
    def lock(self, digest: str, wait: bool = True) -> Iterator[None]:
        """Held while the cell `digest` is being run; the operating system lets go of it when the holder dies.

        Raises StorageError when the folder cannot be used, and CellBusy, without `wait`, when another holds it.
        """
        path, busy = self.root / "locks" / f"{digest}.lock", f"{self.root}: another process is running {digest}"
        with locked(path, self.root, "for results", "--out", "" if wait else busy):
            yield

    def get(self, digest: str) -> Record | None:
        """The record, or None when there is no whole one (a damaged one counts as absent and is run again).

        Raises StorageError when there is one that may not be read: running the cell again would not help.
        """
        try:
            return self.read(self.path("records", digest))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except StorageError as error:
            if isinstance(error.__cause__, OSError):
                raise
            return None

    def read(self, path: Path) -> Record:
        """The record in a file. Raises FileNotFoundError without one, and StorageError when it cannot be read, is
        damaged, or is not called as its record: a copy would count as one more run.
        """
        try:
            data = read_bounded(path)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
        with damaged(path, "it is run again by the next bench", StorageError, "is a damaged record"):
            record = Record.from_json(data.decode())
        if record.digest != path.stem:
            raise StorageError(f"{path} holds the record {record.digest}, so it is left out; rename or delete the file")
        return record

    def files(self) -> list[os.DirEntry[str]]:
        """The files of all records, by name.

        Raises StorageError when there is no such folder, or when not all of it can be listed: some of the records would
        be taken for all.
        """
        try:
            with os.scandir(self.root / "records") as found:
                return sorted((file for file in found if file.name.endswith(".json")), key=lambda file: file.name)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(
                f"{self.root}: no results there; make some with 'vitadapt run' or 'vitadapt bench'"
            ) from error
        except OSError as error:
            raise StorageError(f"{self.root}: cannot be listed ({error.strerror}); check its permissions") from error

    def records(self) -> tuple[list[Record], list[str]]:
        """All whole records, by digest, and one line for each damaged file. Raises StorageError without a folder."""
        whole, damaged = [], []
        for file in self.files():
            try:
                whole.append(self.read(Path(file.path)))
            except FileNotFoundError:  # discarded since the folder was listed
                continue
            except StorageError as error:
                damaged.append(str(error))
        return whole, damaged

    def add(
        self, record: Record, probabilities: np.ndarray | None, labels: np.ndarray, adapter: bytes | None
    ) -> Record:
        """Write predictions and adapter first and the record last, so that a record stands for whole files."""
        files = {}
        if probabilities is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, probabilities=probabilities.astype(np.float32), labels=labels)
            files["predictions"] = self._write("predictions", record.digest, buffer.getvalue())
        if adapter is not None:
            files["adapters"] = self._write("adapters", record.digest, adapter)
        record = dataclasses.replace(record, files=files)
        write_atomic(self.path("records", record.digest), record.to_json().encode())
        return self._recorded(record)

    def export(self, digest: str) -> dict[str, bytes]:
        """The files of a recorded cell by kind, to be given to `accept` elsewhere. Raises StorageError when damaged."""
        record = self.read(self.path("records", digest))
        return {kind: read_bounded(self.path(kind, digest)) for kind in (*record.files, "records")}

    def accept(self, digest: str, files: Mapping[str, bytes]) -> Record:
        """Keep the files of a cell that ran elsewhere, the record last. Raises StorageError when they are damaged."""
        try:
            record = Record.from_json(files["records"].decode())
            broken = [kind for kind, seal in record.files.items() if bytes_digest(files[kind]) != seal]
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"{digest}: its record came back damaged ({error}); run it again") from error
        if broken:
            raise StorageError(f"{digest}: its {' and '.join(broken)} came back damaged; run it again")
        for kind in record.files:
            self._write(kind, digest, files[kind])
        self._write("records", digest, files["records"])
        return self._recorded(record)

    def _recorded(self, record: Record) -> Record:
        """The record, without what its cell had left on the way."""
        for kind in ("failures", "trials"):
            self.path(kind, record.digest).unlink(missing_ok=True)
        return record

    def discard(self, digest: str) -> None:
        """Forget everything about a cell."""
        for folder in self.root.glob("*/"):
            for path in folder.glob(f"{digest}.*"):
                path.unlink(missing_ok=True)
        self.sweep(digest)

    def sweep(self, digest: str) -> None:
        """Remove what a killed process left of files of this cell; only the holder of its lock may."""
        for path in self.root.glob(f"*/.{digest}.*.tmp"):
            path.unlink(missing_ok=True)

    def _write(self, kind: str, digest: str, data: bytes) -> str:
        write_atomic(self.path(kind, digest), data)
        return bytes_digest(data)

    def fail(self, digest: str, trace: str) -> Path:
        """Keep the trace of a run that stopped with an error."""
        path = self.path("failures", digest)
        write_atomic(path, trace.encode())
        return path

    def predictions(self, record: Record) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """(probabilities (N, C), labels). Raises StorageError when the file is missing or damaged."""
        path = self.path("predictions", record.digest)
        remedy = f"delete {self.path('records', record.digest)} and run again"
        with damaged(path, remedy, StorageError):
            data = read_bounded(path)
        if bytes_digest(data) != record.files.get("predictions"):
            raise StorageError(f"{path}: damaged predictions; {remedy}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return arrays["probabilities"], arrays["labels"]

    def save_analysis(self, record: Record, kind: str, values: dict[str, Any]) -> None:
        """Write what was found, bound to the files of the run that it was found from. Raises StorageError."""
        plain = {"found": values, "files": record.files}
        write_atomic(self._analysis(record, kind), checked_json(plain).encode())

    def load_analysis(self, record: Record, kind: str, made_again: bool = False) -> dict[str, Any] | None:
        """What `save_analysis` wrote; None when there is nothing, or it is of a run with other files.

        Raises StorageError when it is damaged, unless it is `made_again` then: None.
        """
        path = self._analysis(record, kind)
        if not path.exists():
            return None
        try:
            with damaged(path, "delete it, then make it again", StorageError):
                plain = parse_checked_json(read_bounded(path))
        except StorageError:
            if made_again:
                return None
            raise
        return dict(plain["found"]) if plain["files"] == record.files else None

    def _analysis(self, record: Record, kind: str) -> Path:
        return self.root / "analyses" / f"{record.digest}.{kind}.json"
