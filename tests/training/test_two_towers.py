"""Methods on the text tower, alone and with the image tower: what they learn, save, merge and leave alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from documented import documented_count
from families import build

from vitadapt.methods import METHODS, KAdaptation, LoRA, Method, VeRA
from vitadapt.methods.spec import parse_method
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.class_texts import ClassTexts
from vitadapt.nn.head import TextStart
from vitadapt.nn.head_spec import ZERO
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import adapt, merge, trainable
from vitadapt.nn.text_transformer import TextConfig
from vitadapt.nn.vit import ViTConfig
from vitadapt.text import TextTower, text_matrix
from vitadapt.text.layouts import TEXT_LAYOUTS
from vitadapt.text.layouts import build as build_text
from vitadapt.training.adapter_file import AdapterInfo, adapted_text_tower, adapter_bytes, load_adapter
from vitadapt.training.config import TrainConfig
from vitadapt.training.loop import TensorInputs
from vitadapt.training.recipe import Recipe
from vitadapt.training.task import Task
from vitadapt.utils.errors import ConfigError

CLASSES, SHOTS = 3, 4
RECIPE = Recipe(lr=2e-2, epochs=12, batch_size=6, warmup=0.0)
BOTH = LoRA(targets=("q", "v"), towers="both")
SENTENCES = ["abc", "def", "ghi"]


class Letters:
    """A tokeniser: a start, the letters of a text, the end."""

    def __call__(self, texts):
        rows = torch.zeros(len(texts), 9, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text) + 2] = torch.tensor([38, *(ord(letter) - 96 for letter in text), 39])
        return rows

    def lengths(self, texts):
        return [len(text) + 2 for text in texts]


class Unreadable:
    """Images that nobody may look at again."""

    def __len__(self):
        return CLASSES * SHOTS

    def gather(self, rows):
        raise AssertionError("the images were read, and their features are known")


@pytest.fixture
def tower():
    """A text tower that says the same of every class: no token reads what the others say."""
    network = build("clip-text-like")
    with torch.no_grad():
        for block in network.blocks:
            block.attention.qkv.weight[128:], block.attention.qkv.bias[128:] = 0, 0  # of the values
    return TextTower(network, Letters(), 100.0)


def task(tower: TextTower, method: Method, inputs=None) -> Task:
    """Images of three colours: their features tell them apart, and at first the class vectors are all the same."""
    labels = torch.arange(CLASSES).repeat(SHOTS)
    images = torch.randint(0, 90, (len(labels), 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images[torch.arange(len(labels)), labels] += 160
    images, backbone = images.to(torch.uint8), build("clip-like")
    with torch.no_grad():
        features = backbone(images)
    matrix = text_matrix(tower, [[text] for text in SENTENCES])
    start = TextStart(matrix, 100.0, ClassTexts(tower.network, tower.tokenise(SENTENCES), [1, 1, 1]))
    config = TrainConfig.of("clip-like", method, recipe=RECIPE)
    return Task(config, backbone, inputs or TensorInputs(images), labels, CLASSES, features, Setting(), text=start)


def trained(tower: TextTower, method: Method, inputs=None):
    made = task(tower, method, inputs)
    model = made.build(0)
    made.fit(model, made.recipe, 0)
    return made, model


def test_both_towers_learn_what_the_image_tower_alone_cannot(tower):
    made, model = trained(tower, BOTH)
    assert made.score(model) == 100.0
    alone = task(tower, BOTH).build(0)
    alone.head.texts = None  # the class vectors stay as they are
    made.fit(alone, made.recipe, 0)
    assert made.score(alone) <= 34.0


def test_what_the_text_tower_alone_learns_needs_no_image_again(tower):
    made, model = trained(tower, replace(BOTH, towers="text"), Unreadable())
    assert not trainable(model.backbone) and made.score(model) == 100.0


def test_a_frozen_text_tower_is_not_run_again(tower, monkeypatch):
    made = task(tower, LoRA())
    monkeypatch.setattr(type(tower.network), "forward", lambda *_: pytest.fail("it was run"))
    model = made.build(0)
    made.fit(model, replace(made.recipe, epochs=1), 0)
    assert model.head.texts is None


def test_the_weights_of_the_head_are_the_vectors_of_the_adapted_text_tower(tower):
    _, model = trained(tower, BOTH)
    with torch.no_grad():
        torch.testing.assert_close(model.head.linear.weight, model.head.texts())
    assert not model.head.linear.weight.requires_grad and not model.training


@pytest.mark.parametrize("method", [BOTH, KAdaptation(n=8, towers="both"), VeRA(rank=4, towers="text")], ids=str)
def test_what_was_learnt_is_saved_and_reads_new_classes(tower, method, tmp_path):
    made, model = trained(tower, method)
    base = backbone_digest(made.backbone)
    info = AdapterInfo(method, "clip-like", 32, ("a", "b", "c"), base, made.config.head)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(model, info))
    frozen = sum(parameter.numel() for parameter in tower.network.parameters())
    assert adapter_bytes(model, info) == path.read_bytes() and len(path.read_bytes()) < frozen
    images = made.images.gather(torch.arange(6))
    with torch.no_grad():
        assert torch.equal(load_adapter(path, made.backbone)(images), model(images))
    adapted = adapted_text_tower(path, made.backbone, tower)
    new = adapted.encode(["xyz"])
    with torch.no_grad():
        torch.testing.assert_close(new, model.head.texts.network(tower.tokenise(["xyz"])))
    assert not torch.allclose(new, tower.encode(["xyz"]))
    torch.testing.assert_close(text_matrix(adapted, [[text] for text in SENTENCES]), model.head.linear.weight)


@pytest.mark.parametrize("layout", ["openai-clip", "hf-clip"])
def test_the_adapted_text_tower_merges_and_goes_to_other_libraries(tower, layout):
    _, model = trained(tower, BOTH)
    network = merge(model.head.texts.network)
    with torch.no_grad():
        torch.testing.assert_close(F.normalize(network(tower.tokenise(["abc"]))), model.head.linear.weight[:1])
    known = TEXT_LAYOUTS[layout]
    told = {name: getattr(network.config, name) for name in ("heads", "activation", "end")}
    again = build_text(*known.read(known.write(network), **told))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())


PUBLISHED = {  # on CLIP ViT-B/16, both towers together
    "clip-lora": 184_320,
    "clip-svd": 92_160,
    "2sfs": 65_536,
}


@pytest.mark.parametrize("text", PUBLISHED)
def test_the_counts_are_those_of_the_papers(text):
    image = ViTConfig(768, 12, 12, 16, patch_bias=False, ln_pre=True, projection=512)
    both = (image, TextConfig(512, 12, 8, projection=512))
    assert sum(documented_count(config, parse_method(text)) for config in both) == PUBLISHED[text]


def test_clip_lora_divides_by_the_root_of_the_rank():
    adapted = adapt(build("clip-text-like"), METHODS["clip-lora"]())
    delta = adapted.blocks[0].attention.qkv.deltas["k"]
    with torch.no_grad():
        delta.b.normal_()
        torch.testing.assert_close(delta.matrix(), delta.b @ delta.a / 2**0.5)


def test_the_second_stage_trains_the_class_vectors_alone(tower):
    method = METHODS["2sfs"](head_share=0.5)
    made, model = trained(tower, method)
    first = made.build(0)
    made.fit(first, made.recipe, 0, until=made.recipe.epochs - 1)  # no second stage yet
    assert first.head.linear.weight.requires_grad is False
    vectors = model.head.texts()
    assert made.score(model) == 100.0 and not torch.allclose(model.head.linear.weight, vectors)
    weight = model.head.linear.weight.clone()
    model.train().eval()
    assert torch.equal(model.head.linear.weight, weight)  # what it learnt is not made of the text again
    info = AdapterInfo(method, "clip-like", 32, ("a", "b", "c"), backbone_digest(made.backbone), made.config.head)
    assert b"text.norm.weight" in adapter_bytes(model, info)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_one(share):
    with pytest.raises(ConfigError, match="head_share"):
        METHODS["2sfs"](head_share=share)


def test_without_a_text_tower_there_is_no_method_on_it(tower):
    made = task(tower, BOTH)
    with pytest.raises(ConfigError, match="no text tower for towers=both"):
        replace(made, text=replace(made.text, texts=None)).build(0)
    with pytest.raises(ConfigError, match="--head"):
        TrainConfig.of("clip-like", BOTH, head=ZERO)
