"""The text tower that a method changed goes to the libraries with the image tower, and is certified by them."""

import pytest
import torch
from text_cases import hf_folder, openai_file, siglip_folder

from vitadapt.classifier.export import text
from vitadapt.classifier.export.certificate import read_certificate
from vitadapt.classifier.export.deployed import load_trained
from vitadapt.classifier.export.export import export
from vitadapt.methods import Adapter, LoRA
from vitadapt.nn.class_texts import ClassTexts
from vitadapt.nn.head import TextStart
from vitadapt.nn.setting import Setting
from vitadapt.text import load_text_tower, text_matrix
from vitadapt.training.adapter_file import ADAPTER, AdapterInfo, adapter_bytes
from vitadapt.training.config import TrainConfig
from vitadapt.training.features import cached_backbone
from vitadapt.training.loop import TensorInputs
from vitadapt.training.recipe import Recipe
from vitadapt.training.task import Task
from vitadapt.utils.errors import NotApplicable, NotMergeable, WeightsError


def saved(name, folder, method):
    """A model of two classes, trained for a moment, in `folder`."""
    backbone, base = cached_backbone(name, None, "cpu")
    tower = load_text_tower(name, backbone)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = backbone(images)
    texts = ClassTexts(tower.network, tower.tokenise(["a cat", "a dog"]), [1, 1])
    start = TextStart(text_matrix(tower, [["a cat"], ["a dog"]]), 100.0, texts)
    config = TrainConfig.of(name, method, recipe=Recipe(epochs=2, lr=1e-2))
    labels = torch.tensor([0, 1, 0, 1])
    task = Task(config, backbone, TensorInputs(images), labels, 2, features, Setting(), text=start)
    model = task.build(0)
    task.fit(model, task.recipe, 0)
    info = AdapterInfo(method, name, 32, ("cat", "dog"), base, config.head)
    (folder / ADAPTER).write_bytes(adapter_bytes(model, info))
    return tower


def siglip(folder):
    return siglip_folder(folder)[1]


@pytest.mark.parametrize(("to", "make"), [("open_clip", openai_file), ("hf", hf_folder), ("hf", siglip)])
def test_the_library_computes_what_the_adapted_text_tower_does(tmp_path, monkeypatch, to, make):
    source, out = tmp_path / "clip", tmp_path / "out"
    source.mkdir()
    plain = saved(make(source), tmp_path, LoRA(towers="both"))
    trained = load_trained(tmp_path)
    sentences = text.class_sentences(trained.info)
    assert sentences == ["a photo of a cat.", "a photo of a dog."]
    assert not torch.allclose(plain.encode(sentences), trained.text_tower.encode(sentences), atol=1e-4)
    with monkeypatch.context() as patched:
        patched.setattr(text, "merge", lambda _: plain.network)  # as if the change were lost
        with pytest.raises(WeightsError, match="text tower's features differ"):
            export(trained, to, out)
    assert not out.exists()
    found = export(trained, to, out)
    assert found.text is not None and found.text < 1e-5 and read_certificate(out) == found
    assert any(line.startswith("text tower") for line in found.lines())


def test_what_has_no_place_in_the_library_is_refused(tmp_path):
    source = tmp_path / "clip"
    source.mkdir()
    saved(hf_folder(source, causal=False), tmp_path, LoRA(towers="text"))
    with pytest.raises(NotApplicable, match="export --to open_clip"):
        export(load_trained(tmp_path), "hf", tmp_path / "out")
    assert export(load_trained(tmp_path), "open_clip", tmp_path / "out").text < 1e-5


def test_what_does_not_merge_is_refused_and_an_image_tower_alone_has_no_text(tmp_path):
    source, out = tmp_path / "clip", tmp_path / "out"
    source.mkdir()
    saved(openai_file(source), tmp_path, Adapter(bottleneck=4, towers="text"))
    with pytest.raises(NotMergeable, match="the text tower: "):
        export(load_trained(tmp_path), "open_clip", out)
    saved(openai_file(source), tmp_path, LoRA())
    assert export(load_trained(tmp_path), "open_clip", out).text is None
    assert not (out / text.FILE).exists()
