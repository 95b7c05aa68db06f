"""Runs in tracking programs: every program that is known takes what a fit and a benchmark have to tell."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitadapt.nn.setting import Setting
from vitadapt.utils.errors import ConfigError, UnknownName
from vitadapt.utils.optional import MissingPackage
from vitadapt.utils.tracking import TRACKERS, Tracker, tracked, tracker_of


class Notes(Tracker):
    """A tracking program that keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def parameters(self, values):
        self.told += [("parameter", name, value) for name, value in values.items()]

    def number(self, name, value, step=0):
        self.told.append((name, step, value))

    def picture(self, path):
        with Image.open(path) as image:
            self.told.append(("picture", path.name, image.format))

    def file(self, path):
        self.told.append(("file", path.name, path.stat().st_size))

    def close(self, failed):
        self.told.append(("close", failed))


@pytest.fixture
def notes(monkeypatch):
    """`--track notes` is told to this."""
    kept = Notes()
    monkeypatch.setitem(TRACKERS._things, "notes", lambda: lambda name, where: kept)
    return kept


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):  # which nothing tells apart: every candidate is tried
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (33, 35, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


SHORT = ("-b", "random:tiny", "--no-cache", "--recipe", "epochs=2,probe_epochs=3")


def told(notes, kind):
    return {name: value for one, name, value in (row for row in notes.told if len(row) == 3) if one == kind}


def test_a_fit_tells_every_epoch_its_scores_pictures_and_files(vitadapt, photos, notes):
    done = vitadapt("fit", photos, "-o", "model", *SHORT, "--effort", "quick", "--track", "notes")
    assert done.returncode == 0, done.stderr
    losses = [row for row in notes.told if row[0].startswith("loss/")]
    assert {row[1] for row in losses} >= {1, 2} and all(row[2] > 0 for row in losses)
    assert told(notes, "parameter")["config.seed"] == "0"
    scores = {row[0] for row in notes.told if row[0].startswith("cross-validated/")}
    assert scores and any(row[0] == "score" for row in notes.told)
    assert set(told(notes, "picture").values()) == {"PNG"}
    assert set(told(notes, "file")) == {"adapter.safetensors", "README.md", "report.html", "fit.json"}
    assert notes.told[-1] == ("close", False) and sum(row[0] == "close" for row in notes.told) == 1


def test_a_benchmark_tells_every_new_record(vitadapt, photos, notes):
    line = ("run", "-d", photos, "-m", "bitfit", "--shots", "2", "-o", "runs", *SHORT, "--track", "notes")
    assert vitadapt(*line).returncode == 0
    assert [row[1] for row in notes.told if row[0] == "loss/train"] == [1, 2]
    assert told(notes, "parameter")["method.name"] == "bitfit"
    assert any(row[0] == "score" for row in notes.told) and "learning.png" in told(notes, "picture")
    assert any(name.endswith(".safetensors") for name in told(notes, "file"))
    before = len(notes.told)
    assert vitadapt(*line).returncode == 0
    assert len(notes.told) == before  # it is recorded already


def test_what_fails_is_told_as_failed(notes):
    with pytest.raises(RuntimeError), tracked("notes", "run"):
        raise RuntimeError
    assert notes.told == [("close", True)]


def test_a_failure_in_mid_run_is_one_warning_and_the_model_is_made(vitadapt, photos, notes, monkeypatch, caplog):
    def failing(name, value, step=0):
        raise OSError("disk quota")

    monkeypatch.setattr(notes, "number", failing)
    done = vitadapt("fit", photos, "-o", "model", *SHORT, "--method", "linear-probe", "--track", "notes")
    assert done.returncode == 0, done.stderr
    assert caplog.text.count("disk quota") == 1 and (photos.parent / "model/adapter.safetensors").exists()
    assert notes.told == [("close", True)]


def test_a_benchmark_goes_on_when_no_run_can_begin(vitadapt, photos, monkeypatch):
    begun = []

    def broken(name, where):
        begun.append(name)
        raise ValueError("no key")

    monkeypatch.setitem(TRACKERS._things, "notes", lambda: broken)
    line = ("run", "-d", photos, "-m", "linear-probe", "--shots", "2", "--seed", "0", "--seed", "1", "-o", "runs")
    done = vitadapt(*line, *SHORT, "--track", "notes")
    assert done.returncode == 0 and done.stderr.count("no key") == 1 and len(begun) == 1, done.stderr


def test_trainings_of_one_name_are_numbered():
    notes = Notes()
    for epoch in (1, 2, 1):
        notes.epoch("fold 1: a\nb", epoch, 0.5)
    assert [row[:2] for row in notes.told] == [
        ("loss/fold 1_ a_b", 1),
        ("loss/fold 1_ a_b", 2),
        ("loss/fold 1_ a_b 2", 1),
    ]


def test_every_training_calls_back_after_each_epoch():
    import torch

    from vitadapt.training.loop import fit
    from vitadapt.training.recipe import Recipe

    seen = []
    setting = Setting(on_epoch=lambda *told: seen.append(told))
    x, y = torch.randn(6, 3), torch.tensor([0, 1] * 3)
    log = fit(torch.nn.Linear(3, 2), x, y, Recipe(epochs=3), setting=setting, label="mine")
    assert seen == [("mine", epoch, loss) for epoch, loss in enumerate(log.losses, start=1)]


def test_unknown_programs_and_those_that_cannot_begin_are_told(monkeypatch):
    with pytest.raises(UnknownName, match="tensorboard"):
        tracker_of("tensorbord")

    def broken(name, where):
        raise ValueError("no key")

    monkeypatch.setitem(TRACKERS._things, "notes", lambda: broken)
    with pytest.raises(ConfigError, match="no key"), tracked("notes", "run"):
        pass


@pytest.mark.parametrize("kind", list(TRACKERS))
def test_each_program_keeps_what_it_is_told_without_a_network(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    offline = {"MLFLOW_ALLOW_FILE_STORE": "true", "WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "kept")}
    offline |= {"WANDB_DATA_DIR": str(tmp_path / "kept"), "HF_HUB_OFFLINE": "1"}
    for name, value in offline.items():
        monkeypatch.setenv(name, value)
    try:
        tracker_of(kind)
    except MissingPackage:
        pytest.skip(f"{kind} is not installed")
    Image.new("RGB", (8, 8), "red").save("picture.png")
    Path("adapter.bin").write_bytes(b"weights")
    where = {"mlflow": "mlflow:file:./kept", "tensorboard": "tensorboard:kept", "wandb": "wandb:kept"}.get(kind, kind)
    with tracked(where, "run") as tracker:
        tracker.parameters({"method": "lora", "recipe.lr": "0.001"})
        tracker.epoch("train", 1, 0.75)
        tracker.number("score", 91.5)
        tracker.picture(Path("picture.png"))
        tracker.file(Path("adapter.bin"))
    if kind == "wandb":
        importlib.import_module("wandb").teardown()  # its own process writes the last bytes at its end
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    content = b"".join(str(path).encode() + path.read_bytes() for path in files)
    assert b"loss/train" in content and b"score" in content and b"lora" in content
    assert content.count(b"weights") >= 2  # the file, and what the program keeps of it


def test_event_files_hold_losses_texts_and_pictures(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    Image.new("RGB", (8, 8), "red").save(tmp_path / "picture.png")
    for _ in range(2):
        with tracked(f"tensorboard:{tmp_path}", "run") as tracker:
            tracker.epoch("fold 1", 1, 0.5)
            tracker.epoch("fold 1", 2, 0.25)
            tracker.picture(tmp_path / "picture.png")
    (file,) = (tmp_path / "run-2").glob("events*")  # the second run does not write into the first one's folder
    data, found = file.read_bytes(), {}
    while data:  # length, checksum of it, event, checksum of it
        (size,) = struct.unpack_from("<Q", data)
        event = Event.FromString(data[12 : 12 + size])
        found |= {(value.tag, event.step): value for value in event.summary.value}
        data = data[16 + size :]
    assert [found["loss/fold_1", step].simple_value for step in (1, 2)] == [0.5, 0.25]
    assert found["picture", 0].image.width == 8
