"""The records that docs/results keeps: whole, the same in both files, and what the code gives today."""

import io
import runpy
import tarfile
from pathlib import Path

import pytest
from unpack import unpack

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.results.record import Record
from vitadapt.benchmark.runner import run
from vitadapt.benchmark.sweep import read_bench
from vitadapt.training.features import Environment

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs/results/offline"
SCRIPT = runpy.run_path(str(ROOT / "benchmarks/results.py"))


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    """By digest. Reading a record checks its checksum."""
    with tarfile.open(KEPT.with_suffix(".tar.xz")) as archive:
        texts = {member.name: archive.extractfile(member).read().decode() for member in archive}
    return {Path(name).stem: Record.from_json(text) for name, text in texts.items()}


def test_the_table_is_that_of_the_records(records):
    assert SCRIPT["table_of"](list(records.values())) == KEPT.with_suffix(".csv").read_text("utf-8")


def test_every_record_is_a_cell_of_the_benchmark_file(records):
    assert set(records) == {record.digest for record in records.values()}
    assert set(records) <= {cell.digest() for cell in read_bench(Path("offline"))}


def test_packing_gives_the_records_back(records):
    packed = SCRIPT["archive_of"](list(records.values()), "offline")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == [f"offline/records/{digest}.json" for digest in records]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("cache"))  # both methods use the same features


@pytest.mark.parametrize("method", ["linear-probe", "discriminant"])
def test_a_cell_gives_its_score_again(records, method, environment, tmp_path):
    (kept,) = [
        record
        for record in records.values()
        if (record.config["dataset"], record.config["shots"], record.config["seed"], record.label)
        == ("digits", 5, 0, method)
    ]
    again = run(RunConfig.from_dict(kept.config), tmp_path, environment)
    assert again.digest == kept.digest and again.images == kept.images
    assert again.score == pytest.approx(kept.score, abs=1)  # another processor rounds in another way


def test_the_pages_show_what_is_printed_from_the_records(records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unpack(KEPT.with_suffix(".tar.xz"), tmp_path / "build" / "results")
    page = (ROOT / "README.md").read_text("utf-8")
    assert "<!-- printed by:" in page and SCRIPT["printed"](page) == page
