"""The text tower that a method changed goes to the libraries with the image tower."""

import pytest
import torch
from safetensors.torch import load_file
from text_cases import TEXTS, hf_clip, hf_folder, open_clip_clip, openai_file

from vitadapt.classifier.export.deployed import load_trained
from vitadapt.classifier.export.text import FILE, write_text
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
from vitadapt.utils.errors import NotMergeable


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


@pytest.mark.parametrize(("to", "make"), [("open_clip", openai_file), ("hf", hf_folder)])
def test_the_library_computes_what_the_adapted_text_tower_does(tmp_path, to, make):
    source = tmp_path / "clip"
    source.mkdir()
    plain = saved(make(source), tmp_path, LoRA(towers="both"))
    trained = load_trained(tmp_path)
    write_text(trained, tmp_path, to)
    library = open_clip_clip() if to == "open_clip" else hf_clip()
    known = {name: tensor.clone() for name, tensor in library.state_dict().items()}
    texts = TEXTS[:3] if to == "open_clip" else ["a cat.", "dogs"]
    tokens = plain.tokenise(texts)
    try:
        assert not library.load_state_dict(load_file(tmp_path / FILE), strict=False).unexpected_keys
        with torch.no_grad():
            found = library.encode_text(tokens) if to == "open_clip" else library.get_text_features(input_ids=tokens)
    finally:
        library.load_state_dict(known)
    found = getattr(found, "pooler_output", found)
    torch.testing.assert_close(found, trained.text_tower().encode(texts), atol=1e-5, rtol=0)
    assert not torch.allclose(found, plain.encode(texts), atol=1e-4)


def test_what_does_not_merge_is_refused_and_an_image_tower_alone_has_no_text(tmp_path):
    source = tmp_path / "clip"
    source.mkdir()
    saved(openai_file(source), tmp_path, Adapter(bottleneck=4, towers="text"))
    with pytest.raises(NotMergeable, match="the text tower: "):
        write_text(load_trained(tmp_path), tmp_path, "open_clip")
    saved(openai_file(source), tmp_path, LoRA())
    write_text(load_trained(tmp_path), tmp_path, "open_clip")
    assert not (tmp_path / FILE).exists()
