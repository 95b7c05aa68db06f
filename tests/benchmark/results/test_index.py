"""Reading many records: names without torch, and an index that never says anything else than the records."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest
from result_cases import record, saved

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.results import index
from vitadapt.benchmark.results.index import read_summaries
from vitadapt.benchmark.results.record import RecordSummary, label_of
from vitadapt.benchmark.results.store import Store
from vitadapt.methods import METHODS
from vitadapt.methods.spec import method_text, parse_method
from vitadapt.nn.head_spec import TEXT, ZERO, head_text
from vitadapt.training.config import check_head
from vitadapt.utils.errors import ConfigError, StorageError
from vitadapt.utils.files import checked_json


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
    read = [{f.name: getattr(entry, f.name) for f in dataclasses.fields(RecordSummary)} for entry in entries]
    return [{**one, "images": {k: v for k, v in one["images"].items() if k != "train"}} for one in read]


def agree(store):
    """What is read with the index is what the records say."""
    entries, damaged = read_summaries(store)
    records, lines = store.records()
    assert plain(entries) == plain(records)
    assert [entry.method for entry in entries] == [record.method for record in records]
    assert [entry.drawn for entry in entries] == [record.drawn for record in records]
    assert damaged == lines
    return len(entries)


@pytest.mark.parametrize(
    "text",
    [*METHODS, "lora:rank=8,alpha=16.0,targets=q+k", "kadaptation:scale=1.0,bias=False", "adapter:activation=gelu"],
)
@pytest.mark.parametrize("head", [None, TEXT, dataclasses.replace(ZERO, scale=3, learn_scale=True)])
def test_a_record_names_its_method_and_head_as_the_objects_do(text, head):
    method = parse_method(text)
    try:
        check_head(method, head)
    except ConfigError:
        pytest.skip("trains no head")
    protocol = "elevater-released" if method.breaks else "fixed"
    config = RunConfig("random:tiny", method, "digits", protocol=protocol, head=head)
    again = RunConfig.from_dict(config.to_dict())
    expected = method_text(again.method) + (f" +{head_text(again.head)}" if again.head else "")
    assert label_of(config.to_dict()) == expected


def test_a_method_that_is_not_installed_is_shown_as_it_was_recorded(store):
    """Of an old record, which has no label, all fields are shown, because nobody knows its defaults."""
    made = record(seed=9, score=70.0)
    for label, shown in (("mine:size=4", "mine:size=4"), ("", "mine:size=4,targets=q+v")):
        config = {**made.config, "method": {"name": "mine", "size": 4, "targets": ["q", "v"], "init": None}}
        saved(store, dataclasses.replace(made, config=config, method_label=label))
        assert agree(store) == 5
        assert shown in [found.method for found in read_summaries(store)[0]]


def test_an_old_record_without_a_label_is_shown_as_before(store):
    made = dataclasses.replace(record("lora:rank=8", seed=9), method_label="")
    plain = json.loads(made.to_json())
    del plain["method_label"], plain["checksum"]
    (store.root / "records" / f"{made.digest}.json").write_text(checked_json(plain))
    (found,) = [found for found in store.records()[0] if found.digest == made.digest]
    assert found.method_label == "" and found.method == "lora:rank=8"


def test_copies_and_renamed_records_are_named_once_and_left_out_everywhere(store):
    first, second = sorted((store.root / "records").glob("*.json"))[:2]
    copy = first.with_name(f"{first.stem} (1).json")
    copy.write_bytes(first.read_bytes())
    hidden = second.read_bytes()
    second.write_bytes(first.read_bytes())
    age(store)
    for _ in range(2):  # with and without an index
        found, lines = read_summaries(store)
        assert len(found) == 3 and sum(copy.name in line for line in lines) == 1
        assert sum(second.name in line and first.stem in line for line in lines) == 1 and len(lines) == 2
        assert agree(store) == 3
    assert store.get(second.stem) is None  # so that bench runs it again
    second.write_bytes(hidden)
    assert store.get(second.stem).digest == second.stem


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
    assert len(read_summaries(store)[0]) == 4


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
