"""From a model folder on the disk to other programs and back, as a user types it; and what `push` would send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from export_cases import BACKBONE, CARD, model_folder, typed
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitadapt.classifier.export.deployed import PlainHead, load_shipment
from vitadapt.classifier.export.export import export
from vitadapt.classifier.export.hub import pack
from vitadapt.classifier.export.hugging_face import built
from vitadapt.classifier.export.peft_import import import_peft
from vitadapt.methods import KAdaptation, LoRA
from vitadapt.nn.head import Head
from vitadapt.nn.surgery import seeded
from vitadapt.utils.errors import ConfigError, NotApplicable, WeightsError
from vitadapt.weights import load_backbone


def random_images(size: int) -> Tensor:
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_folder_is_exported_with_its_certificate(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    model = model_folder(tmp_path / "mine", KAdaptation(n=4))
    said = typed("export", model, "--to", "timm")
    assert "difference" in said and "self-test" in said and "MB" in said
    assert (tmp_path / "mine-timm" / "certificate.json").is_file()
    known = json.loads(typed("export", model, "--to", "timm", "-o", tmp_path / "again", "--json"))
    assert known["target"] == "timm" and known["self_test"] < 1e-4


def test_a_peft_adapter_goes_out_and_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = model_folder(tmp_path / "mine", LoRA(rank=2, targets=("q", "k", "fc1")))
    typed("export", model, "--to", "peft", "-o", tmp_path / "peft")
    said = typed("import-peft", tmp_path / "peft", "-b", BACKBONE, "-o", tmp_path / "back")
    assert "rank 2" in said
    before, after = load_shipment(model), load_shipment(tmp_path / "back")
    images = random_images(before.image_size)
    torch.testing.assert_close(after.classifier(images), before.classifier(images), atol=1e-5, rtol=1e-5)
    assert after.info.classes == before.info.classes
    assert after.info.method == LoRA(rank=2, alpha=2.0, targets=("q", "k", "fc1"))


@pytest.fixture
def in_transformers(tmp_path: Path) -> Any:
    """The tiny backbone as a live transformers classifier, and our own."""
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    base: Any = load_backbone(BACKBONE)
    head = Head(base.features, 3)
    with seeded(3):
        head.linear.weight.data.normal_()
    return built(base, PlainHead(head), ("a", "b", "c")).model


def trained(model: Any, config: Any, folder: Path) -> Any:
    """The model as PEFT leaves it after some training, saved."""
    import peft

    with seeded(4):
        adapted = peft.get_peft_model(model, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    adapted.peft_config["default"].base_model_name_or_path = "elsewhere"
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted.eval()


def names(model: Any) -> list[str]:
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return ["q_proj", "fc1"] if "q_proj" in known else ["query", "intermediate.dense"]


@pytest.mark.parametrize("kind", ["lora", "rslora with patterns", "lokr", "lokr of two factors"])
def test_adapters_made_by_peft_give_pefts_answers(kind: str, in_transformers: Any, tmp_path: Path) -> None:
    import peft

    usual: dict[str, Any] = {"target_modules": names(in_transformers), "modules_to_save": ["classifier"]}
    config = {
        "lora": lambda: peft.LoraConfig(r=3, lora_alpha=5, **usual),
        "rslora with patterns": lambda: peft.LoraConfig(
            r=2, lora_alpha=5, use_rslora=True, rank_pattern={names(in_transformers)[0]: 4}, **usual
        ),
        "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, **usual),
        "lokr of two factors": lambda: peft.LoKrConfig(r=1, alpha=3, decompose_both=True, decompose_factor=4, **usual),
    }[kind]()
    theirs = trained(in_transformers, config, tmp_path / "peft")
    path, _ = import_peft(tmp_path / "peft", BACKBONE, None, tmp_path / "ours")
    ours = load_shipment(path)
    images = random_images(ours.image_size)
    pixels = ours.base.normalise(images)  # type: ignore[operator]
    wanted = theirs(pixel_values=pixels).logits.detach()
    torch.testing.assert_close(ours.classifier(images).detach(), wanted, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_imported_is_told(in_transformers: Any, tmp_path: Path) -> None:
    import peft

    config = peft.LoraConfig(r=2, target_modules=names(in_transformers), modules_to_save=["classifier"])
    trained(in_transformers, config, tmp_path / "peft")
    about = json.loads((tmp_path / "peft" / "adapter_config.json").read_text("utf-8"))

    def told(error: type[Exception], said: str, **changes: Any) -> None:
        (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({**about, **changes}), "utf-8")
        with pytest.raises(error, match=said):
            import_peft(tmp_path / "peft", BACKBONE, None, tmp_path / "ours")

    told(WeightsError, "IA3", peft_type="IA3")
    told(NotApplicable, "use_dora", use_dora=True)
    file = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if "classifier" not in name}, file)
    told(NotApplicable, "no classifier")
    save_file({name.replace(".0.", ".7."): t for name, t in tensors.items()}, file)
    told(NotApplicable, "no linear layer")
    assert not (tmp_path / "ours").exists()


def test_a_dry_run_lists_what_would_be_sent(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    model = model_folder(tmp_path / "mine", LoRA())
    (model / ".secret").write_text("token", "utf-8")
    (model / "report.html").write_text("<p>", "utf-8")
    said = typed("push", model, "me/my-model", "--dry-run")
    assert "adapter.safetensors" in said and "report.html" in said and "apache-2.0" in said
    assert "secret" not in said and "nothing was sent" in said
    assert pack(model, "me/my-model").files["README.md"] == len(CARD)


def test_what_is_not_fit_to_be_sent_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    model = model_folder(tmp_path / "mine", LoRA())
    with pytest.raises(ConfigError, match="USER/NAME"):
        pack(model, "not a name!")
    with pytest.raises(WeightsError, match="adapter"):
        pack(tmp_path, "me/model")
    for text, said in (
        (CARD.replace("license: apache-2.0\n", ""), "licence"),
        (CARD.replace("vitadapt\n", "timm\n"), "library_name"),
        (CARD.replace("apache-2.0", "[unclosed"), "not valid"),
        ("# No metadata\n", "library_name"),
    ):
        (model / "README.md").write_text(text, "utf-8")
        with pytest.raises(WeightsError, match=said):
            pack(model, "me/model")
    (model / "README.md").unlink()
    with pytest.raises(WeightsError, match="missing"):
        pack(model, "me/model")


def test_a_model_in_an_adapter_file_is_enough(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "mine", LoRA())
    goods = load_shipment(model / "adapter.safetensors")
    pytest.importorskip("timm")
    assert export(goods, "timm", tmp_path / "out").target == "timm"
