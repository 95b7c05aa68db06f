"""The few-shot methods of CLIP on real images and a CLIP made for them, whose texts say something of the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fault_cases import TASTE
from made_clip import digits_clip
from typer.testing import CliRunner

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.protocols.few_shot_clip import in_epochs
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.cli.main import app
from vitadapt.methods import METHODS, TextPrior
from vitadapt.methods.spec import parse_method
from vitadapt.nn.head_spec import ZERO
from vitadapt.training.adapter_file import load_adapter
from vitadapt.training.features import Environment
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError, NotApplicable
from vitadapt.weights import load_backbone

NAMES = [name for name, kind in METHODS.items() if issubclass(kind, TextPrior)]
SEEDS, SHOTS = (0, 1, 2), (2,) if TASTE else (1, 2)
# Of ten classes ss-text weighs the images of a class C = 10 times as much as its text, so that it is hardly more than
# they are; and the directions of this CLIP that tell the digits apart are too small for prolip's penalty.
LITTLE = ("ss-text", "prolip")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A store with all runs, and the CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    name, environment = digits_clip(folder, noise=1.6), Environment(cache=folder / "cache")
    store = Store(folder / "runs")
    for method in ("zero-shot", "linear-probe", *NAMES):
        for shots in SHOTS:
            for seed in SEEDS if method != "zero-shot" else SEEDS[:1]:
                run(RunConfig(name, parse_method(method), "digits", shots=shots, seed=seed), store, environment)
    return store, name


def mean(store: Store, method: str, shots: int) -> float:
    records, _ = store.records()
    own = [r.score for r in records if r.config["method"]["name"] == method and r.config["shots"] == shots]
    return float(np.mean(own))


@pytest.mark.parametrize("name", NAMES)
def test_texts_and_images_together_beat_either(made: tuple[Store, str], name: str) -> None:
    store, _ = made
    for shots in SHOTS:
        found = mean(store, name, shots)
        assert found > mean(store, "linear-probe", shots) or name == "ss-text"
        assert found > mean(store, "zero-shot", shots) or name in LITTLE


def test_results_show_them_all(made: tuple[Store, str]) -> None:
    store, _ = made
    shown = CliRunner().invoke(app, ["results", str(store.root)])
    assert shown.exit_code == 0, shown.output
    assert all(name in shown.output for name in NAMES)


def test_what_was_run_is_loaded_to_the_bit(made: tuple[Store, str]) -> None:
    """The adapter file of each gives the probabilities of the record, and counts what the page says."""
    store, name = made
    backbone, records = load_backbone(name), store.records()[0]
    for record in records:
        method = record.config["method"]["name"]
        if method not in NAMES or (record.config["shots"], record.config["seed"]) != (2, 0):
            continue
        path = store.path("adapters", record.digest)
        again = load_adapter(path, backbone)
        other = load_adapter(path, backbone)
        images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(again(images), other(images)) and again(images).isfinite().all()
        kept = {"keys": 20 * (48 + 10), "nothing": 0, "linear": 10 * 49}[METHODS[method].default_head.learnt]
        assert record.parameters["head"] == kept
        assert record.parameters["backbone"] == {"prolip": 64 * 48, "clip-adapter": 2 * 48 * 12}.get(method, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_without_texts_and_another_head_are_refused_by_name(name: str, tmp_path: Path) -> None:
    message = f"{name}: .* has no text tower|prolip trains the output projection, and this backbone has none"
    with pytest.raises(NotApplicable, match=message):
        run(RunConfig("random:tiny", parse_method(name), "digits", shots=1), tmp_path)
    with pytest.raises(ConfigError, match=f"{name} is made of the texts of the classes; leave --head out"):
        RunConfig("random:tiny", parse_method(name), "digits", head=ZERO)


def test_a_class_without_images_lowers_no_shots() -> None:
    """Ten steps per shot, two shots, one step an epoch."""
    recipe = Recipe(epochs=10, batch_size=4)
    assert in_epochs(recipe, torch.tensor([0, 0, 2, 2])).epochs == 20
    assert in_epochs(recipe, torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]])).epochs == 20
