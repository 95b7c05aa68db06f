"""Files that this package writes itself and reads again: records under a right checksum, caches, journals, features."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import elevater_cases
import leaderboard_cases
import numpy as np
import torch
from law import target
from torch import nn

from vitadapt.benchmark.analysis.groups import rows_of
from vitadapt.benchmark.protocols.trials import Trials
from vitadapt.benchmark.results.index import read_summaries
from vitadapt.benchmark.results.store import Store
from vitadapt.classifier.export.certificate import FILE as CERTIFICATE
from vitadapt.classifier.export.certificate import Certificate, read_certificate
from vitadapt.classifier.features_file import FeaturesInfo, features_writer, read_features
from vitadapt.classifier.fit_record import read_record
from vitadapt.classifier.prior import read_prior
from vitadapt.data import open_dataset
from vitadapt.data.images import Geometry
from vitadapt.data.pixels.pixels import open_pixels
from vitadapt.data.sampling.manifests import make_manifest, read_manifest, subset_rows
from vitadapt.report.run_report import _failures
from vitadapt.report.table import columns_of
from vitadapt.training.checkpoint import Checkpoint
from vitadapt.utils import array_file
from vitadapt.utils.files import checked_json

RECORDS, CACHES, FEATURES = "records of runs", "caches and journals", "features"
CLASSES = ("cat", "dog")


def seal(path: Path) -> None:
    """Give the JSON in `path` the checksum of what it says now: somebody who changes a file on purpose does that."""
    with suppress(ValueError, RecursionError):
        plain = json.loads(path.read_bytes())
        if isinstance(plain, dict):
            plain.pop("checksum", None)
            path.write_text(checked_json(plain))


# Records


def _tables(folder: Path) -> None:
    for path in (folder / "records").glob("*.json"):
        seal(path)
    store = Store(folder)
    records, damaged = store.records()
    read_summaries(store)
    for line in damaged:
        assert "\n" not in line
    columns_of(rows_of(records)) if records else None
    for record in records:
        store.predictions(record)


@target("records sealed", RECORDS, _tables)
def _records(folder: Path) -> list[Path]:
    leaderboard_cases.fill(Store(folder), ["mnist"], seeds=(0, 1))
    return sorted((folder / "records").glob("*.json"))


@target("failures", RECORDS, lambda folder: _failures(Store(folder)))
def _failed(folder: Path) -> list[Path]:
    (folder / "failures").mkdir()
    (folder / "failures" / "ab.txt").write_text("Traceback (most recent call last):\n  File x\nValueError: no\n")
    return [folder / "failures" / "ab.txt"]


def _fit_record(folder: Path) -> None:
    seal(folder / "fit.json")
    json.dumps(read_record(folder))


@target("fit record sealed", RECORDS, _fit_record)
def _fit(folder: Path) -> list[Path]:
    test = {"accuracy": 50.0, "interval": [40.0, 60.0], "count": 8}
    (folder / "fit.json").write_text(checked_json({"format": "vitadapt-fit/1", "test": test, "updates": [{"a": 1}]}))
    return [folder / "fit.json"]


def _subset_read(folder: Path) -> None:
    seal(folder / "subset.json")
    dataset = open_dataset(folder / "images")
    assert len(subset_rows(dataset, read_manifest(folder / "subset.json"))) == 2


@target("subset sealed", "tables, lists and settings", _subset_read)
def _subset(folder: Path) -> list[Path]:
    images = pictures(folder / "images")
    (folder / "subset.json").write_text(json.dumps(make_manifest(images, 1, 0)))
    return [folder / "subset.json"]


def pictures(folder: Path) -> Any:
    for c, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for i in range(3):
            (folder / label / f"{i}.png").write_bytes(elevater_cases.png(10 * c + i))
    return open_dataset(folder)


SHARES = np.array([0.5, 0.5])


@target("prior", "tables, lists and settings", lambda folder: read_prior(str(folder / "p.json"), CLASSES, SHARES))
def _prior(folder: Path) -> list[Path]:
    (folder / "p.json").write_text('{"cat": 0.25, "dog": 0.75}')
    return [folder / "p.json"]


@target("certificate", RECORDS, read_certificate)
def _certificate(folder: Path) -> list[Path]:
    facts: dict[str, Any] = {"target": "timm", "source": "ab", "library": "timm 1", "self_test": 1e-6, "random": 1e-6}
    facts |= {"largest_logit": 3.0, "bytes": 10, "milliseconds": (1.0, 2.0), "speed_ratio": 0.5, "files": ("a",)}
    known = Certificate(**facts, pictures={"square": {"logits": 0.1}})  # type: ignore[arg-type]
    (folder / CERTIFICATE).write_text(json.dumps(vars(known)))
    return [folder / CERTIFICATE]


# Features


INFO = FeaturesInfo("random:tiny", "ab", 32, 4)


def _features_target(suffix: str) -> None:
    def read(folder: Path) -> None:
        found = read_features(folder / f"f{suffix}")
        assert found.features.shape == (len(found.path), found.info.width) and found.features.dtype == np.float32

    @target(f"features {suffix}", FEATURES, read)
    def _features(folder: Path) -> list[Path]:
        path = folder / f"f{suffix}"
        with features_writer(path, INFO) as writer:
            columns = {"path": ["a/0.png", "b/ä.png"], "label": ["a", "b"], "split": ["train", "test"]}
            writer.add(columns, np.arange(8, dtype=np.float32).reshape(2, 4))
        return [path]


_features_target(".npz")
_features_target(".parquet")


def _pieces(folder: Path) -> None:
    whole = np.arange(40, dtype=np.float32).reshape(10, 4)
    array_file._verified.clear()  # it trusts the times of files, and damage comes within a tick of the clock
    file = array_file.ArrayFile(folder / "f", (10, 4), np.float32, 3)
    found = file.open_or_build(lambda starts: ((start, whole[start : start + 3]) for start in starts))
    assert np.array_equal(found, whole)  # whatever was damaged is made again


@target("features in pieces", FEATURES, _pieces)
def _in_pieces(folder: Path) -> list[Path]:
    _pieces(folder)
    return [folder / "f"]


# Caches and journals: a damaged one counts as absent


def _scores(folder: Path) -> None:
    trials = Trials(folder / "t", "i", 3, [torch.Generator()])
    assert set(trials.scores.values()) <= {(0.5, 1.0), (2.0, 1.0), None}
    trials.score(["a"], lambda name: (0.5, 1.0))


@target("trials", CACHES, _scores)
def _trials(folder: Path) -> list[Path]:
    trials = Trials(folder / "t", "i", 3, [torch.Generator()])
    trials.score(["a"], lambda name: (0.5, 1.0))
    trials.score([{"b": 1}], lambda name: (2.0, 1.0))
    return [folder / "t"]


def _same_pixels(folder: Path) -> None:
    array_file._verified.clear()
    examples = open_dataset(folder / "images").splits["train"]
    pixels = open_pixels(examples, Geometry(8), folder / "cache", workers=1)
    assert bytes(pixels.gather(np.arange(len(examples))).numpy()) == (folder / "right").read_bytes()


@target("decoded images", CACHES, _same_pixels)
def _pixels(folder: Path) -> list[Path]:
    examples = pictures(folder / "images").splits["train"]
    found = open_pixels(examples, Geometry(8), folder / "cache", workers=1)
    (folder / "right").write_bytes(bytes(found.gather(np.arange(len(examples))).numpy()))
    return sorted(path for path in (folder / "cache").rglob("*") if path.is_file())


@cache
def _learning() -> tuple[nn.Module, Callable[[Path], Checkpoint]]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, lambda folder: Checkpoint(folder / "c", model, optimizer, torch.Generator())


@target("training checkpoint", CACHES, lambda folder: _learning()[1](folder).resume())
def _checkpoint(folder: Path) -> list[Path]:
    _learning()[1](folder).save([0.5, 0.25], at_once=True)
    return [folder / "c"]
