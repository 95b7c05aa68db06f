"""From a model folder on the disk to other programs and back, as a user types it; and what `push` would send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_cases import BACKBONE, CARD, model_folder, typed
from PIL import Image
from torch import Tensor

from vitadapt.classifier import fit
from vitadapt.classifier.candidates import candidate_configs
from vitadapt.classifier.export.deployed import load_trained
from vitadapt.classifier.export.export import export
from vitadapt.classifier.export.hub import prepare
from vitadapt.methods import KAdaptation, LoRA
from vitadapt.utils.errors import ConfigError, WeightsError


def random_images(size: int) -> Tensor:
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_folder_is_exported_with_its_certificate(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    model = model_folder(tmp_path / "mine", KAdaptation(n=4))
    output = typed("export", model, "--to", "timm")
    assert "difference" in output and "self-test" in output and "MB" in output
    assert (tmp_path / "mine-timm" / "certificate.json").is_file()
    known = json.loads(typed("export", model, "--to", "timm", "-o", tmp_path / "again", "--json"))
    assert known["target"] == "timm" and known["self_test"] < 1e-4


def test_a_peft_adapter_goes_out_and_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = model_folder(tmp_path / "mine", LoRA(rank=2, targets=("q", "k", "fc1")))
    typed("export", model, "--to", "peft", "-o", tmp_path / "peft")
    output = typed("import-peft", tmp_path / "peft", "-b", BACKBONE, "-o", tmp_path / "back")
    assert "rank 2" in output
    before, after = load_trained(model), load_trained(tmp_path / "back")
    images = random_images(before.image_size)
    torch.testing.assert_close(after.classifier(images), before.classifier(images), atol=1e-5, rtol=1e-5)
    assert after.info.classes == before.info.classes
    assert after.info.method == LoRA(rank=2, alpha=2.0, targets=("q", "k", "fc1"))


def test_a_dry_run_lists_what_would_be_sent(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    model = model_folder(tmp_path / "mine", LoRA())
    (model / ".secret").write_text("token", "utf-8")
    (model / "report.html").write_text("<p>", "utf-8")
    output = typed("push", model, "me/my-model", "--dry-run")
    assert "adapter.safetensors" in output and "report.html" in output and "apache-2.0" in output
    assert "secret" not in output and "nothing was sent" in output
    assert prepare(model, "me/my-model").files["README.md"] == len(CARD)


def test_an_export_for_transformers_is_sent_with_its_card_and_loaded_by_its_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    for name, level in {"cat": 60, "dog": 190}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.clip(rng.normal(level, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")

    def one(*arguments: Any) -> Any:  # a discriminant has a head that transformers lacks
        return {"linear-probe": candidate_configs(*arguments)["linear-probe"]}

    monkeypatch.setattr(fit, "candidate_configs", one)
    model, out = tmp_path / "mine", tmp_path / "hf"
    typed("fit", tmp_path / "photos", "-o", model, "-b", "random:tiny", "--no-cache", "--licence", "apache-2.0")
    typed("export", model, "--to", "hf", "-o", out)
    upload = prepare(out, "me/my-model")
    assert upload.card["library_name"] == "transformers" and upload.card["pipeline_tag"] == "image-classification"
    classify = transformers.pipeline("image-classification", model=str(out), device="cpu")
    picture = tmp_path / "photos" / "dog" / "0.png"
    (answer,) = json.loads(typed("predict", model, picture, "--top", "2", "--json"))
    assert {row["label"]: row["score"] for row in classify(str(picture))} == pytest.approx(answer["top"], abs=1e-3)
    (out / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="preprocessor_config"):
        prepare(out, "me/my-model")


def test_what_is_not_fit_to_be_sent_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    model = model_folder(tmp_path / "mine", LoRA())
    with pytest.raises(ConfigError, match="USER/NAME"):
        prepare(model, "not a name!")
    with pytest.raises(WeightsError, match="adapter"):
        prepare(tmp_path, "me/model")
    for text, message in (
        (CARD.replace("license: apache-2.0\n", ""), "licence"),
        (CARD.replace("vitadapt\n", "timm\n"), "library_name"),
        (CARD.replace("apache-2.0", "[unclosed"), "not valid"),
        ("# No metadata\n", "library_name"),
    ):
        (model / "README.md").write_text(text, "utf-8")
        with pytest.raises(WeightsError, match=message):
            prepare(model, "me/model")
    (model / "README.md").unlink()
    with pytest.raises(WeightsError, match="missing"):
        prepare(model, "me/model")


def test_a_model_in_an_adapter_file_is_enough(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "mine", LoRA())
    trained = load_trained(model / "adapter.safetensors")
    pytest.importorskip("timm")
    assert export(trained, "timm", tmp_path / "out").target == "timm"
