"""Tables, lists, settings, the leaderboard and records."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import elevater_cases
import leaderboard_cases
from law import target

from vitadapt.benchmark.analysis.groups import rows_of
from vitadapt.benchmark.leaderboard.check import check
from vitadapt.benchmark.leaderboard.import_results import import_results
from vitadapt.benchmark.leaderboard.score import score, total
from vitadapt.benchmark.leaderboard.submission import SubmissionEntry, read_folder, write_seed, write_zip
from vitadapt.benchmark.leaderboard.submission import read_entries as read_submission
from vitadapt.benchmark.leaderboard.suite import Truth, suite
from vitadapt.benchmark.results.index import read_summaries
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.sweep import read_bench
from vitadapt.data import open_dataset
from vitadapt.data.sampling.manifests import make_manifest, read_manifest, subset_rows
from vitadapt.methods.spec import parse_method
from vitadapt.nn.head_spec import parse_head
from vitadapt.report.table import columns_of
from vitadapt.text.knowledge import Knowledge
from vitadapt.text.prompts import read_class_names
from vitadapt.utils.fields import parse_fields
from vitadapt.utils.files import parse_json, parse_toml
from vitadapt.utils.pickle_guard import check_pickle
from vitadapt.weights.hint_query import parse_hints
from vitadapt.weights.load import check_name

TABLES, LEADERBOARD = "tables, lists and settings", "the leaderboard"


# Tables, lists and settings


def _pictures(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> list[str]:
    names = []
    for c, label in enumerate(classes):
        (folder / label).mkdir(parents=True)
        for i in range(each):
            names.append(f"{label}/{i}.png")
            (folder / names[-1]).write_bytes(elevater_cases.png(10 * c + i))
    return names


@target("csv table", TABLES, lambda folder: open_dataset(folder / "list.csv"))
def _table(folder: Path) -> list[Path]:
    lines = [f"{name},{name.partition('/')[0]},{'test' if '2' in name else 'train'}" for name in _pictures(folder)]
    lines[0] = '"cat/0.png "," cat ",train'
    (folder / "list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    return [folder / "list.csv"]


def _subset_read(folder: Path) -> None:
    dataset = open_dataset(folder / "images")
    assert len(subset_rows(dataset, read_manifest(folder / "subset.json"))) == 2


@target("subset", TABLES, _subset_read)
def _subset(folder: Path) -> list[Path]:
    _pictures(folder / "images")
    manifest = make_manifest(open_dataset(folder / "images"), 1, 0)
    (folder / "subset.json").write_text(json.dumps(manifest))
    return [folder / "subset.json"]


@target("class names", TABLES, lambda folder: read_class_names(folder / "names.txt"))
def _names(folder: Path) -> list[Path]:
    (folder / "names.txt").write_text("cat\ta small cat\ndog\ta dog\n")
    return [folder / "names.txt"]


@target("class names json", TABLES, lambda folder: read_class_names(folder / "names.json"))
def _names_json(folder: Path) -> list[Path]:
    (folder / "names.json").write_text('{"cat": "a small cat", "dog": "a dog"}')
    return [folder / "names.json"]


def _knowing(folder: Path) -> None:
    known = Knowledge(str(folder), "wiktionary", 2).pinned(("pets",)).items(("pets",), ["cat", "dog"])
    assert all(text is None or isinstance(text, str) for texts in known.values() for text in texts)


@target("knowledge", TABLES, _knowing)
def _knowledge(folder: Path) -> list[Path]:
    rows = [{"classname": "cat", "def_wiki": "small", "path_wn": ["a", "b"]}, {"classname": "dog", "def_wiki": None}]
    (folder / "pets_knowledge.tsv").write_text(json.dumps(rows))
    generated = [{"classname": name, "gpt3": ["one", "two", "three"]} for name in ("cat", "dog")]
    (folder / "GPT3_pets.tsv").write_text(json.dumps(generated))
    return sorted(folder.iterdir())


@target(
    "knowledge hierarchy",
    TABLES,
    lambda folder: Knowledge(str(folder), "wordnet-hierarchy").items(("pets",), ["cat"]),
)
def _hierarchy(folder: Path) -> list[Path]:
    return _knowledge(folder)[1:]


@target(
    "own knowledge",
    TABLES,
    lambda folder: Knowledge(str(folder / "own.json")).items((), ["cat", "dog"]),
)
def _own(folder: Path) -> list[Path]:
    (folder / "own.json").write_text('{"cat": ["one", "two"], "dog": "three"}')
    return [folder / "own.json"]


BENCH = """title = "A benchmark"
[bench]
backbone = "random:tiny"
dataset = ["digits", "mnist-5k"]
shots = [1, "all"]
seed = [0, 1]
image_size = 32

[[bench.part]]
method = ["lora:rank=2,targets=q+k", "linear-probe"]
head = ["zero", "text"]

[[bench.part]]
method = "bitfit"
head = "text"
protocol = "fixed"

[recipe]
epochs = 3
lr = 0.001
schedule = "cosine"

[prompts]
templates = ["a photo of a {}."]
"""


# What a bench file says may be wrong in the words of the option alone, as it would be on the command line.
@target(
    "bench toml",
    TABLES,
    lambda folder: [cell.digest() for cell in read_bench(folder / "bench.toml")],
    names=False,
)
def _bench(folder: Path) -> list[Path]:
    (folder / "bench.toml").write_text(BENCH)
    return [folder / "bench.toml"]


# The leaderboard


@cache
def _rows() -> tuple[str, ...]:
    return ("mnist", "voc-2007-classification")


def _entry(name: str, seed: int) -> SubmissionEntry:
    row = suite()[name]
    fields = {"model_name": "m", "dataset_name": name, **leaderboard_cases.FIELDS, "n_shot": 5, "rnd_seeds": [seed]}
    return SubmissionEntry(fields, (leaderboard_cases.probabilities(row, seed, 8),))


def _truth(row: Any) -> Truth | None:
    return Truth(leaderboard_cases.labels_of(row, images=8), True, "here")


def _judged(entries: Callable[[], Any]) -> None:
    with leaderboard_cases.small_suite():
        list(map(str, check(entries())))
        total(list(score(entries(), _truth)))


@target("submission", LEADERBOARD, lambda folder: _judged(lambda: read_submission(folder / "all_predictions.json")))
def _submission(folder: Path) -> list[Path]:
    _submission_zip(folder)
    with zipfile.ZipFile(folder / "s.zip") as archive:
        (folder / "all_predictions.json").write_bytes(archive.read("all_predictions.json"))
    (folder / "s.zip").unlink()
    return [folder / "all_predictions.json"]


@target("submission zip", LEADERBOARD, lambda folder: _judged(lambda: read_submission(folder / "s.zip")))
def _submission_zip(folder: Path) -> list[Path]:
    with leaderboard_cases.small_suite():
        write_zip(folder / "s.zip", [_entry(name, 0) for name in _rows()])
    return [folder / "s.zip"]


@target("submission folder", LEADERBOARD, lambda folder: _judged(lambda: read_folder(folder)))
def _submission_folder(folder: Path) -> list[Path]:
    with leaderboard_cases.small_suite():
        return [write_seed(folder, _entry("mnist", seed)) for seed in range(3)]


def _imported(folder: Path) -> None:
    store = Store(folder / "store")
    with leaderboard_cases.small_suite():
        found = import_results(folder / "logs", store, truths=_truth)
    for line in (*found.problems, *found.skipped):
        assert "\n" not in line and "\r" not in line
    columns_of(rows_of(store.records()[0])) if found.records else None
    shutil.rmtree(folder / "store", ignore_errors=True)


@target("toolkit", LEADERBOARD, _imported)
def _toolkit(folder: Path) -> list[Path]:
    import toolkit_cases as cases

    base = folder / "logs" / "lora" / "1" / "vitb32" / "log"
    log = cases.write(base / "mnist" / f"finetuning_5_{cases.DATE}_rank0.txt", cases.log_text())
    line = "best acc is:  71.500, num_params is:  1000, n_trainable_params is:  0.014346, backbone_params is:  900."
    result = cases.write(base / "predictions" / "finetuning_5" / "seed1_mnist.txt", line)
    with leaderboard_cases.small_suite():
        seed_file = write_seed(result.parent, _entry("mnist", 1))
    return [log, result, seed_file]


# Records


def _tables(folder: Path) -> None:
    store = Store(folder)
    records, damaged = store.records()
    read_summaries(store)
    for line in damaged:
        assert "\n" not in line
    rows_of(records)
    for record in records:
        store.predictions(record)


@target("records", "records of runs", _tables)
def _records(folder: Path) -> list[Path]:
    leaderboard_cases.fill(Store(folder), ["mnist"], seeds=(0, 1))
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Texts of options, and formats by themselves


def _text_target(name: str, text: bytes, parse: Callable[[Any], object], **options: Any) -> None:
    """parse: of bytes where `allowed` says what it may raise, else of a text."""

    def read(folder: Path) -> None:
        data = (folder / "text").read_bytes()
        parse(data if options else data.decode("utf-8", "surrogateescape"))

    @target(name, "texts of options, and formats", read, names=False, **options)
    def _text(folder: Path) -> list[Path]:
        (folder / "text").write_bytes(text)
        return [folder / "text"]


_text_target("option method", b"lora:rank=2,targets=q+v", parse_method)
_text_target("option methods", b"kadaptation:n=4+bitfit", parse_method)
_text_target("option head", b"text:norm=none,scale=2", parse_head)
_text_target("option fields", b"rank=2,targets=q+v,blocks=0+1", parse_fields)
_text_target("option hints", b"heads=4&activation=gelu&pooling=average", parse_hints)
_text_target("option backbone", b"random:tiny@3", check_name)
_text_target("json", b'{"a": [1, 2.5, null, "\\u00e4"], "b": {"c": true}}', parse_json, allowed=(ValueError,))
_text_target("toml", BENCH.encode(), lambda data: parse_toml(data.decode()), allowed=(ValueError,))
_PLAIN = {"a": [1, 2.5, b"x", ("y", None)], "b": {3: True}}
_text_target("pickle", pickle.dumps(_PLAIN, 2), check_pickle, allowed=(ValueError,))
_text_target("pickle of protocol 4", pickle.dumps(_PLAIN, 4), check_pickle, allowed=(ValueError,))
