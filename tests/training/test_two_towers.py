"""Methods on the text tower, alone and with the image tower: what they learn, save, merge and leave alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from documented import documented_count
from families import TEXTS, build

from vitadapt.benchmark.parameter_counts import count_methods
from vitadapt.methods import METHODS, CoOp, KAdaptation, KgCoOp, LoRA, MaPLe, Method, Together, VeRA
from vitadapt.methods.spec import parse_method
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.class_texts import ClassTexts, penalty_of
from vitadapt.nn.head import TextStart
from vitadapt.nn.head_spec import ZERO
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import adapt, insert, merge, towers_of, trainable
from vitadapt.nn.text_transformer import TextConfig, TextTransformer
from vitadapt.nn.vit import ViT, ViTConfig
from vitadapt.text import TextTower, text_matrix
from vitadapt.text.layouts import TEXT_LAYOUTS
from vitadapt.text.layouts import build as build_text
from vitadapt.text.prompts import Prompts
from vitadapt.training.adapter_file import AdapterInfo, adapted_text_tower, adapter_bytes, load_adapter
from vitadapt.training.config import TrainConfig
from vitadapt.training.loop import TensorInputs
from vitadapt.training.recipe import Recipe
from vitadapt.training.task import Task
from vitadapt.utils.errors import ConfigError, NotApplicable, NotMergeable

CLASSES, SHOTS = 3, 4
RECIPE = Recipe(lr=2e-2, epochs=12, batch_size=6, warmup=0.0)
BOTH = LoRA(targets=("q", "v"), towers="both")
SENTENCES = ["abc", "abd", "abe"]  # with the same words in front


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


def task(tower: TextTower, method: Method, inputs=None, order=(0, 1, 2), template="") -> Task:
    """Images of three colours: their features tell them apart, and at first the class vectors are all the same.

    order: which class has each number. template: letters in front of the class's.
    """
    labels = torch.arange(CLASSES).repeat(SHOTS)
    images = torch.randint(0, 90, (len(labels), 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images[torch.arange(len(labels)), labels] += 160
    images, backbone = images.to(torch.uint8), build("clip-like")
    with torch.no_grad():
        features = backbone(images)
    sentences = [template + SENTENCES[c] for c in order]
    labels = torch.tensor([order.index(c) for c in labels.tolist()])
    matrix = text_matrix(tower, [[text] for text in sentences])
    start = TextStart(matrix, 100.0, ClassTexts(tower.network, tower.tokenise(sentences), [1, 1, 1]))
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
    "coop": 2_048,
    "kgcoop:tokens=16": 8_192,
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


def norm(w: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, (64,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def plain_block(w: dict[str, torch.Tensor], i: int, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, D) behind block i of two heads; hidden (N, N): what may not be read."""
    own = {name.removeprefix(f"blocks.{i}."): tensor for name, tensor in w.items()}
    n = norm(own, "norm1", x)
    q, k, v = (n @ own["attention.qkv.weight"].T + own["attention.qkv.bias"]).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (q, k, v))
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf"))
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = x + mixed @ own["attention.out.weight"].T + own["attention.out.bias"]
    inner = norm(own, "norm2", x) @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]
    return x + (inner * torch.sigmoid(1.702 * inner)) @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]


def read_with_words(tower: TextTower, tokens: torch.Tensor, *words: torch.Tensor) -> torch.Tensor:
    """Features (B, E) of a text tower of two blocks, learnt words (P, D) in place of those behind the start token.

    Further words stand there in front of the second block.
    """
    w = dict(tower.network.named_parameters())
    hidden = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
    x = w["embedding.weight"][tokens]
    for i in range(2):
        if i < len(words):
            x = torch.cat([x[:, :1], words[i].expand(len(x), -1, -1), x[:, 1 + len(words[i]) :]], dim=1)
        x = plain_block(w, i, x if i else x + w["position"], hidden)
    end = x[torch.arange(len(x)), (tokens == 39).int().argmax(1)]
    return norm(w, "norm", end) @ w["projection.weight"].T


def see_with_tokens(vit: ViT, images: torch.Tensor, first: torch.Tensor, *further: torch.Tensor) -> torch.Tensor:
    """Features (B, E) of an image tower of two blocks with tokens (P, D) behind the patches, that pass its first norm.

    Further tokens are in their place in front of the second block.
    """
    w = dict(vit.named_parameters())
    patches = F.conv2d(vit.normalise(images), w["patches.weight"], stride=8).flatten(2).mT
    x = torch.cat([w["class_token"].expand(len(images), 1, -1), patches], dim=1) + w["position"]
    x = norm(w, "ln_pre", torch.cat([x, first.expand(len(x), -1, -1)], dim=1))
    for i in range(2):
        if i and further:
            x = torch.cat([x[:, : -len(first)], further[0].expand(len(x), -1, -1)], dim=1)
        x = plain_block(w, i, x, torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool))
    return norm(w, "norm", x[:, 0]) @ w["projection.weight"].T


@pytest.fixture
def reader():
    """A text tower whose end token reads the others."""
    return TextTower(build("clip-text-like"), Letters(), 100.0)


def test_learnt_words_stand_in_the_place_of_those_of_the_sentence_and_merge(reader):
    adapted = adapt(reader.network, CoOp(tokens=2))
    (change,) = trainable(adapted).values()
    tokens = reader.tokenise([*SENTENCES, "abcd"])
    with torch.no_grad():
        change.copy_(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)))
        shared = reader.tokenise(["abz"])  # as if every sentence began with these two
        tokens[:, 1:3] = shared[:, 1:3]
        words = reader.network.embedding.weight[shared[0, 1:3]] + change
        expected = read_with_words(reader, tokens, words)
        torch.testing.assert_close(adapted(tokens), expected)
        torch.testing.assert_close(merge(adapted)(tokens), expected)
    assert adapted.state_dict().keys() == reader.network.state_dict().keys()
    with pytest.raises(NotApplicable, match="towers=text"):
        insert(build("clip-like"), "positions", torch.nn.Identity())
    with pytest.raises(ConfigError, match=r"tokens=9 must be in 1\.\.8"):
        adapt(reader.network, CoOp(tokens=9))


@pytest.mark.parametrize("method", [CoOp(tokens=1), KgCoOp(tokens=1)], ids=str)
def test_words_learn_on_known_features_are_saved_and_read_new_classes(reader, method, tmp_path):
    made, model = trained(reader, method, Unreadable())
    before = made.likelihood_of(made.probabilities(made.build(0)))
    assert made.likelihood_of(made.probabilities(model)) > before + 0.1
    path, base = tmp_path / "adapter.safetensors", backbone_digest(made.backbone)
    path.write_bytes(
        adapter_bytes(model, AdapterInfo(method, "clip-like", 32, ("a", "b", "c"), base, made.config.head))
    )
    with torch.no_grad():
        new = model.head.texts.network(reader.tokenise(["xyz"]))
    torch.testing.assert_close(adapted_text_tower(path, made.backbone, reader).encode(["xyz"]), new)


@pytest.mark.parametrize("depth", [1, 2])
def test_image_tokens_are_linear_maps_of_the_words_and_both_are_new_in_each_block(reader, depth):
    made = task(reader, MaPLe(depth=depth))
    model = made.build(0)
    generator = torch.Generator().manual_seed(0)
    image, text = model.backbone, model.head.texts.network
    learnt = trainable(model)
    with torch.no_grad():
        for tensor in learnt.values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    words = [reader.network.embedding.weight[model.head.texts.tokens[0, 1:3]] + text.inserted["positions"].change]
    maps = [image.tokens.map]
    if depth == 2:
        words, maps = [*words, *text.side.tokens], [*maps, *image.side.tokens.maps]
    tokens = [word @ one.weight.T + one.bias for word, one in zip(words, maps, strict=True)]
    images = made.images.gather(torch.arange(3))
    with torch.no_grad():
        torch.testing.assert_close(image(images), see_with_tokens(made.backbone, images, *tokens))
        torch.testing.assert_close(
            text(made.text.texts.tokens), read_with_words(reader, made.text.texts.tokens, *words)
        )
    image(images).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in learnt.values())  # of the words, too
    assert sum(tensor.numel() for tensor in learnt.values()) == depth * (2 * 64 + 64 * 64 + 64)


def test_words_and_their_image_tokens_learn_and_are_saved_without_the_maps(reader, tmp_path):
    method = MaPLe(depth=2)
    made = task(reader, method)
    model = made.build(0)
    before = made.likelihood_of(made.probabilities(model))
    made.fit(model, made.recipe, 0)
    assert made.likelihood_of(made.probabilities(model)) > before + 0.1
    path, base = tmp_path / "adapter.safetensors", backbone_digest(made.backbone)
    path.write_bytes(
        adapter_bytes(model, AdapterInfo(method, "clip-like", 32, ("a", "b", "c"), base, made.config.head))
    )
    loaded, images = load_adapter(path, made.backbone), made.images.gather(torch.arange(6))
    assert {name: tuple(t.shape) for name, t in trainable(loaded.backbone).items()} == {
        "tokens": (2, 64),
        "side.tokens": (1, 2, 64),
    }
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
        new = model.head.texts.network(reader.tokenise(["abz"]))
    torch.testing.assert_close(adapted_text_tower(path, made.backbone, reader).encode(["abz"]), new)
    with pytest.raises(NotMergeable, match="keep the adapter"):
        merge(loaded.backbone)


def test_words_for_blocks_that_one_tower_lacks_are_refused_with_the_remedy(reader):
    long = TextTower(TextTransformer(replace(TEXTS["clip-text-like"], depth=4)), Letters(), 100.0)
    with pytest.raises(ConfigError, match="have 2 and 4 blocks; use depth=2"):
        task(long, MaPLe(depth=3)).build(0)
    assert sum(tensor.numel() for tensor in trainable(task(long, MaPLe(depth=2)).build(0)).values()) == 8576
    with pytest.raises(ConfigError, match="depth=0 must be at least 1"):
        MaPLe(depth=0)
    (row,) = count_methods("random:clip-vit-b16", ["maple"])
    assert row.trained == 3_555_072  # as published


def test_the_penalty_is_the_mean_distance_of_the_class_vectors_from_the_plain_ones(reader):
    method = KgCoOp(tokens=1, text_penalty=5.0)
    made, model = trained(reader, method, Unreadable())
    vectors, plain = model.head.texts(), made.text.features
    with torch.no_grad():
        model.train()(torch.zeros(1, 3, 32, 32))
        found = penalty_of(model)
    own = [5 * (1 - F.cosine_similarity(a, b, dim=0)) for a, b in zip(vectors, plain, strict=True)]
    torch.testing.assert_close(found, torch.stack(own).mean())
    assert found > 1e-4 and penalty_of(model.eval()) == 0.0
    _, free = trained(reader, replace(method, text_penalty=0.0), Unreadable())
    near, far = ((one.head.linear.weight * plain).sum(1).mean() for one in (model, free))
    assert near > far + 1e-4  # it holds them
    assert task(reader, Together(method, LoRA())).build(0).head.texts.strength == 5.0
    with pytest.raises(ConfigError, match="text_penalty"):
        KgCoOp(text_penalty=-1)


def test_a_method_that_learns_words_brings_its_sentence():
    assert TrainConfig.of("clip-like", CoOp()).prompts.templates == ("a photo of a {}.",)
    assert KgCoOp(tokens=6).templates() == ("X X a photo of a {}.",)
    named = Prompts(class_names=("cat", "dog"), templates=("a photo of a {}.",))
    assert TrainConfig.of("clip-like", CoOp(), prompts=named).prompts == named
    assert parse_method("coop+lora").templates() == CoOp().templates()
    with pytest.raises(ConfigError, match="coop learns the words in front of the class name; leave --template out"):
        TrainConfig.of("clip-like", CoOp(), prompts=Prompts(templates=("{} texture.",)))


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


ON_TEXT = [name for name, kind in METHODS.items() if towers_of(kind()) != "image"]


@pytest.mark.parametrize("name", ON_TEXT)
def test_how_the_classes_are_numbered_does_not_matter(reader, name):
    other, found = (2, 0, 1), []
    for order in ((0, 1, 2), other):
        made = task(reader, METHODS[name](), order=order, template="wxyz")
        model = made.build(0)
        before = made.probabilities(model).log()
        made.fit(model, replace(made.recipe, epochs=4), 0)
        found.append(made.probabilities(model).log())
    plain, renumbered = found
    torch.testing.assert_close(renumbered, plain[:, other], atol=1e-3, rtol=0)
    assert (renumbered - before).abs().max() > 0.1
