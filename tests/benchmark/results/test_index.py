"""Reading many records: names without torch, and an index that never says anything else than the records."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import pytest
from result_cases import record, saved

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.results import index
from vitadapt.benchmark.results.index import read_entries
from vitadapt.benchmark.results.record import Entry, declared, recorded_name
from vitadapt.benchmark.results.store import Store
from vitadapt.methods import METHODS
from vitadapt.methods.spec import method_text, parse_method
from vitadapt.nn.head_spec import TEXT, ZERO, head_text
from vitadapt.utils.errors import StorageError


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Four records of finished runs, in a store where an index is worth its while from the first on."""
    monkeypatch.setattr(index, "WORTH", 0)
    store = Store(tmp_path / "runs")
    for seed in range(4):
        saved(store, record(seed=seed, score=50.0 + seed))
    age(store)
    return store


def age(store, seconds=60):
    past = time.time() - seconds
    for file in store.files():
        os.utime(file.path, (past, past))


def plain(entries):
    """What tables look at: of the images trained on a record alone tells each digest."""
    read = [{f.name: getattr(entry, f.name) for f in dataclasses.fields(Entry)} for entry in entries]
    return [{**one, "images": {k: v for k, v in one["images"].items() if k != "train"}} for one in read]


def agree(store):
    """What is read with the index is what the records say."""
    entries, damaged = read_entries(store)
    records, lines = store.records()
    assert plain(entries) == plain(records)
    assert [entry.method for entry in entries] == [record.method for record in records]
    assert [entry.drawn for entry in entries] == [record.drawn for record in records]
    assert damaged == lines
    return len(entries)


@pytest.mark.parametrize("name", METHODS)
def test_the_source_of_a_method_tells_the_defaults_that_it_has(name):
    fields = dataclasses.fields(METHODS[name])
    assert declared()[name] == {field.name: field.default for field in fields}


@pytest.mark.parametrize(
    "text",
    [*METHODS, "lora:rank=8,alpha=16.0,targets=q+k", "kadaptation:scale=1.0,bias=False", "adapter:activation=gelu"],
)
@pytest.mark.parametrize("head", [None, TEXT, dataclasses.replace(ZERO, scale=3, learn_scale=True)])
def test_a_record_names_its_method_and_head_as_the_objects_do(text, head):
    method = parse_method(text)
    if not method.trains_head and head not in (None, TEXT):
        pytest.skip("trains no head")
    protocol = "elevater-released" if method.breaks else "fixed"
    config = RunConfig("random:tiny", method, "digits", protocol=protocol, head=head)
    again = RunConfig.from_dict(config.to_dict())
    expected = method_text(again.method) + (f" +{head_text(again.head)}" if again.head else "")
    assert recorded_name(config.to_dict()) == expected


def test_a_method_from_elsewhere_is_asked_in_person():
    @dataclasses.dataclass(frozen=True)
    class Mine:
        size: int = 3

        def adapt(self, vit):
            pass

    METHODS.register("mine")(Mine)
    try:
        assert recorded_name({"method": {"name": "mine", "size": 4}}) == "mine:size=4"
    finally:
        del METHODS._things["mine"]


def test_a_table_is_printed_without_torch(store):
    program = (
        "import sys; from vitadapt.cli.main import app; app(['results', sys.argv[1]], standalone_mode=False);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(store.root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lora" in done.stdout


def test_the_index_is_used_and_says_what_the_records_say(store, monkeypatch):
    assert agree(store) == 4
    monkeypatch.setattr(Store, "read", lambda *_: pytest.fail("a record was opened"))
    assert len(read_entries(store)[0]) == 4


@pytest.mark.parametrize("change", ["added", "removed", "replaced", "damaged", "newer"])
def test_what_happens_to_the_records_is_seen(store, change):
    agree(store)
    one = record(seed=1)
    path = store.path("records", one.digest)
    if change == "added":
        saved(store, record(seed=9))
    elif change == "removed":
        path.unlink()
    elif change == "replaced":
        saved(store, record(seed=1, score=12.0))
    elif change == "newer":
        path.write_text(dataclasses.replace(one, schema=99).to_json())
    else:
        path.write_bytes(path.read_bytes()[:-20])
    count = agree(store)
    assert count == {"added": 5, "removed": 3, "replaced": 4, "damaged": 3, "newer": 3}[change]
    age(store, 30)
    assert agree(store) == agree(store) == count


def test_a_young_file_is_not_trusted_to_stay(store):
    age(store, 0)
    agree(store)
    assert not (store.root / "index").exists()


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_index_counts_as_absent(store, damage):
    agree(store)
    path = store.root / "index"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"50.0", b"99.0", 1) if damage is None else damage)
    agree(store)
    assert path.read_bytes() == whole


def test_small_stores_have_no_index(tmp_path):
    store = Store(tmp_path)
    saved(store, record())
    age(store)
    agree(store)
    assert not (tmp_path / "index").exists()


def test_an_index_that_cannot_be_written_is_done_without(store, monkeypatch):
    def refuse(*_):
        raise StorageError("full")

    monkeypatch.setattr(index, "write_cached", refuse)
    assert agree(store) == 4
