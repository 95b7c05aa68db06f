"""Datasets of the hub, read by the library `datasets` itself from a local folder: nothing is fetched."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from vitadapt.classifier.holdout import train_test_split
from vitadapt.data.readers.hf_datasets import read_hub
from vitadapt.utils.errors import DataError, WeightsError


@pytest.fixture
def library(tmp_path, monkeypatch):
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found.disable_progress_bars()
    return found


def a_repository(root, split="train"):
    rng = np.random.default_rng(0)
    for c, name in enumerate(("ant", "bee")):
        (root / split / name).mkdir(parents=True)
        for i in range(5):
            block = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
            block[..., c] = 255
            Image.fromarray(block).resize((40, 40), Image.Resampling.NEAREST).save(root / split / name / f"{i}.png")
    return root


def test_a_repository_becomes_a_dataset_with_a_held_out_part(library, tmp_path):
    dataset = read_hub(f"hf:{a_repository(tmp_path / 'mine')}")
    assert dataset.classes == ("ant", "bee") and dataset.split == "held-out"
    assert {split: len(part) for split, part in dataset.splits.items()} == {"train": 8, "test": 2}
    for part in dataset.splits.values():
        for ref, label in zip(part.refs, part.labels, strict=True):
            assert (np.asarray(ref.read())[..., label] == 255).all()
    assert len({ref.digest() for part in dataset.splits.values() for ref in part.refs}) == 10


def test_it_is_divided_like_ones_own_images(library, tmp_path):
    pictures = train_test_split(f"hf:{a_repository(tmp_path / 'mine')}")
    assert len(pictures.train) == 8 and len(pictures.test) == 2 and not pictures.given


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library may leave the file open
def test_other_columns_are_refused(library, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="columns a, b"):
        read_hub(f"hf:{tmp_path / 'text'}")


def test_a_damaged_file_is_told_in_one_line(library, tmp_path, monkeypatch):
    def damaged(*arguments, **options):
        raise library.exceptions.DatasetGenerationError("An error occurred while generating the dataset")

    monkeypatch.setattr(library, "load_dataset", damaged)
    with pytest.raises(
        DataError, match=r"^hf:\S+ cannot be read \(An error occurred while .*\); make or fetch it again$"
    ):
        read_hub(f"hf:{tmp_path}")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WeightsError, match=r"vitadapt\[hf\]"):
        read_hub("hf:somebody/something")
