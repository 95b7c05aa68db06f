"""Faults from outside of the process, or below Python: streams that take nothing, folders that show only a part."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from result_cases import record, saved

from vitadapt.benchmark.leaderboard.submission import read_folder
from vitadapt.benchmark.leaderboard.toolkit import find_pieces
from vitadapt.benchmark.results.index import read_summaries
from vitadapt.benchmark.results.store import Store
from vitadapt.classifier.predict import find_images, model_facts
from vitadapt.cli.exit_status import is_short_of_memory
from vitadapt.methods import LinearProbe
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes
from vitadapt.utils.errors import DataError, StorageError
from vitadapt.utils.files import storage_error
from vitadapt.utils.limits import MIB
from vitadapt.weights import load_backbone

FULL = Path("/dev/full")


def command(*arguments: object, **streams: Any) -> subprocess.CompletedProcess[str]:
    """A real process of the command line, which may take a minute."""
    line = [sys.executable, "-m", "vitadapt", *map(str, arguments)]
    return subprocess.run(line, timeout=60, text=True, **streams)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two records, one of them damaged."""
    store = Store(tmp_path / "runs")
    for seed in range(2):
        saved(store, record(seed=seed))
    store.path("records", record(seed=1).digest).write_text("{")
    return store


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
def test_the_work_goes_on_where_nothing_can_be_told_of_it(store: Store) -> None:
    """A long benchmark must not end because the disk of its log is full."""
    with FULL.open("w") as full:
        found = command("results", store.root, stdout=subprocess.PIPE, stderr=full)
    assert found.returncode == 0 and "80.0" in found.stdout


def test_the_work_goes_on_when_nobody_listens_to_what_is_told_of_it(store: Store) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    found = command("results", store.root, stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert found.returncode == 0 and "80.0" in found.stdout


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """The listing of a folder breaks off after its first name, as on a disk that fails."""
    plain = os.scandir

    class Half:
        def __init__(self, path: Path) -> None:
            self.rest = self.names(path)

        def names(self, path: Path) -> Iterator[os.DirEntry[str]]:
            with plain(path) as whole:
                first = next(whole)
            yield first
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            return self.rest

        def __next__(self) -> os.DirEntry[str]:
            return next(self.rest)

        def __enter__(self) -> Half:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        close = __exit__

    def fail(folder: Path) -> None:
        def listed(path: Any = ".") -> Any:
            return Half(folder) if os.fspath(path) == str(folder) else plain(path)

        def names(path: Any = ".") -> list[str]:
            return [entry.name for entry in listed(path)]

        monkeypatch.setattr(os, "scandir", listed)
        monkeypatch.setattr(os, "listdir", names)

    return fail


def test_some_of_the_records_are_not_taken_for_all(store: Store, failing: Callable[[Path], None]) -> None:
    failing(store.root / "records")
    for read in (store.records, lambda: read_summaries(store)):
        with pytest.raises(StorageError, match="cannot be listed"):
            read()


def test_a_folder_of_images_that_cannot_be_listed_is_named(tmp_path: Path, failing: Callable[[Path], None]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            (tmp_path / folder / f"{number}.png").write_bytes(b"")
    failing(tmp_path / "b")
    with pytest.raises(DataError, match="cannot be listed"):
        find_images([tmp_path])


def test_predictions_in_a_folder_that_cannot_be_listed_are_not_passed_over(
    tmp_path: Path, failing: Callable[[Path], None]
) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "below" / name).write_text("{}")
    failing(tmp_path / "below")
    with pytest.raises(DataError, match="cannot be listed"):
        list(read_folder(tmp_path / "below"))
    assert any("cannot be listed" in problem for problem in find_pieces(tmp_path, whole=False).problems)


def test_a_store_whose_records_are_all_damaged_does_not_count_as_empty(
    store: Store, vitadapt: Callable[..., Any]
) -> None:
    store.path("records", record().digest).write_text("{")
    found = vitadapt("results", store.root)
    assert found.returncode == 1 and found.stdout == ""
    assert len(found.stderr.splitlines()) == 1 and "damaged" in found.stderr


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(store: Store, vitadapt: Callable[..., Any]) -> None:
    """Whoever opens a pipe waits until somebody writes into it, perhaps for ever."""
    good, bad = (record(seed=seed).digest for seed in range(2))
    fifos = [
        store.path("records", bad),
        store.path("failures", "f"),
        store.root / "index",
    ]
    for path in fifos:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    found = vitadapt("report", store.root)
    page = (store.root / "report.html").read_text()
    assert found.returncode == 0 and page.count("not a regular file") >= 2
    predictions = store.path("predictions", good)
    predictions.unlink()
    os.mkfifo(predictions)
    found = vitadapt("report", store.root)
    assert found.returncode == 1 and f"{predictions} cannot be read (not a regular file)" in found.stderr
    shown = vitadapt("results", store.root)
    assert shown.returncode == 0 and "80.0" in shown.stdout and "not a regular file" in shown.stderr


@pytest.mark.parametrize(("number", "remedy"), [(errno.EISDIR, "remove the folder"), (errno.EFBIG, "ulimit -f")])
def test_a_file_that_cannot_be_written_comes_with_its_own_remedy(number: int, remedy: str) -> None:
    assert remedy in str(storage_error(Path("a.json"), OSError(number, os.strerror(number))))


def test_a_model_whose_record_is_damaged_says_so(tmp_path: Path) -> None:
    backbone = load_backbone("random:tiny")
    info = AdapterInfo(LinearProbe(), "random:tiny", 32, ("a", "b"), backbone_digest(backbone))
    (tmp_path / "adapter.safetensors").write_bytes(adapter_bytes(Classifier(backbone, Head(64, 2)), info))
    assert "accuracy" not in model_facts(tmp_path)
    (tmp_path / "fit.json").write_text("{")
    assert "delete it and fit again" in model_facts(tmp_path)["accuracy"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit is not kept")
def test_too_little_memory_for_a_library_is_told_in_one_line() -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (300 * MIB, 300 * MIB))

    alone = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # whose threads would complain, too
    found = command("count", "--backbone", "random:tiny", capture_output=True, preexec_fn=limited, env=alone)
    assert found.returncode == 1 and len(found.stderr.splitlines()) == 1 and "memory" in found.stderr


def test_the_ways_in_which_memory_runs_short_are_known() -> None:
    with pytest.raises(RuntimeError, match="allocate memory") as refused:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_short_of_memory(refused.value)
    assert is_short_of_memory(MemoryError()) and is_short_of_memory(RuntimeError("can't start new thread"))
    assert not is_short_of_memory(RuntimeError("shapes do not fit"))
