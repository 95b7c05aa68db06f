"""Heads made of text: before training they are the zero-shot classifier; every option is what it says."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from text_cases import open_clip_clip, openai_file

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.benchmark.sweep import expand, read_bench
from vitadapt.methods import METHODS, LoRA, ZeroShot
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Head, TextStart, without_projection
from vitadapt.nn.head_spec import TEXT, ZERO, HeadSpec, head_text, parse_head
from vitadapt.nn.setting import Setting
from vitadapt.text import Prompts, load_text_tower
from vitadapt.training.adapter_file import load_adapter
from vitadapt.training.cross_validation import train_final
from vitadapt.training.features import Environment
from vitadapt.training.loop import TensorInputs
from vitadapt.training.recipe import Recipe
from vitadapt.training.task import Task
from vitadapt.utils.errors import ConfigError, NotApplicable, NotMergeable, UnknownName
from vitadapt.weights import load_backbone

FAST = Recipe(epochs=2, batch_size=8, probe_epochs=2)
SPECS = {
    "text": TEXT,
    "plain": HeadSpec("text", norm="none"),
    "standard": HeadSpec("text", norm="standard"),
    "batch": HeadSpec("text", norm="batch"),
    "pretrained": HeadSpec("text", norm="none", scale="pretrained"),
    "classes": HeadSpec("text", norm="none", scale="classes", learn_scale=True),
    "merged": HeadSpec("text", norm="none", projection="merged"),
    "batch merged": HeadSpec("text", norm="batch", projection="merged"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of noise in different colours."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 6)):
        for channel, label in enumerate(("red", "green", "blue")):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(root / part / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def problem():
    """A backbone, images, their features, and text features of five classes."""
    generator = torch.Generator().manual_seed(0)
    backbone = load_backbone("random:tiny-clip")
    images = torch.rand(12, 3, 32, 32, generator=generator)
    text = F.normalize(torch.randn(5, 48, generator=generator), dim=1)
    with torch.no_grad():
        return backbone, images, 20 * backbone(images) + 3, text


def task(problem, spec, method=None, labels=None):
    backbone, images, features, text = problem
    if spec.projection == "merged":
        backbone, projection = without_projection(backbone)
        text = text @ projection
        with torch.no_grad():
            features = backbone(images)
    labels = torch.arange(12) % 5 if labels is None else labels
    config = RunConfig("random:tiny-clip", method or METHODS["linear-probe"](), "x", head=spec, recipe=FAST)
    return Task(
        config.training, backbone, TensorInputs(images), labels, 5, features, Setting(), None, TextStart(text, 7.0)
    )


@pytest.mark.parametrize("name", SPECS)
def test_before_training_a_text_head_is_zero_shot_up_to_the_scale(problem, name):
    spec = SPECS[name]
    backbone, images, features, text = problem
    made = task(problem, spec)
    with torch.no_grad():
        logits = made.build(0).head(made.features)
        seen = backbone(images) if spec.projection == "merged" else features
    cosines = F.normalize(seen, dim=1) @ text.T
    ratio = logits / cosines
    torch.testing.assert_close(ratio, ratio.mean(dim=1, keepdim=True).expand_as(ratio), rtol=1e-3, atol=1e-3)
    assert (ratio > 0).all() and torch.equal(logits.argmax(1), cosines.argmax(1))


def test_the_default_text_head_is_zero_shot_exactly(problem):
    _, _, features, text = problem
    made = task(problem, TEXT)
    expected = 100 * F.normalize(features, dim=1) @ text.T
    torch.testing.assert_close(made.build(0).head(features), expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(made.build(0).head.linear.weight, text) and not made.build(0).head.linear.bias.any()


@pytest.mark.parametrize("method", ["linear-probe", "discriminant", "kadaptation", "lora", "adapter", "bitfit", "vpt"])
def test_every_method_can_start_from_text_and_trains(problem, method):
    made = task(problem, TEXT, METHODS[method]())
    before = made.build(0)
    assert torch.equal(before.head.linear.weight, problem[3])
    trained = train_final(made, made.recipe)
    assert not torch.equal(trained.model.head.linear.weight, problem[3])
    assert (trained.log.steps or method == "discriminant") and all(map(math.isfinite, trained.log.losses))


def test_zero_shot_trains_nothing(problem):
    made = task(problem, TEXT, ZeroShot())
    trained = train_final(made, made.recipe)
    assert torch.equal(trained.model.head.linear.weight, problem[3])
    assert trained.log.steps == 0 and trained.chosen == {}


def test_without_text_there_is_no_text_head(problem):
    with pytest.raises(ConfigError, match="no text tower"):
        dataclasses.replace(task(problem, TEXT), text=None).build(0)


def test_several_labels_start_between_the_classes(problem):
    labels = torch.eye(5, dtype=torch.uint8)[torch.arange(12) % 5]
    made = task(problem, TEXT, labels=labels)
    with torch.no_grad():
        logits = made.build(0).head(made.features)
        single = task(problem, TEXT).build(0).head(made.features)
    assert abs(float(logits.mean())) < 1e-3
    torch.testing.assert_close(logits.softmax(1), single.softmax(1), atol=1e-5, rtol=1e-4)


def test_scales():
    features = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    plain = Head(6, 3, HeadSpec("text", norm="none"))
    plain.start_from(torch.eye(3, 6))
    for spec, factor in [("pretrained", 7.0), ("classes", math.log(3)), (14.5, 14.5)]:
        head = Head(6, 3, HeadSpec("text", norm="none", scale=spec), pretrained=7.0)
        head.start_from(torch.eye(3, 6))
        torch.testing.assert_close(head(features), factor * plain(features))
        assert not head.log_scale.requires_grad
    assert Head(6, 3, HeadSpec(learn_scale=True)).log_scale.requires_grad
    assert not hasattr(Head(6, 3), "log_scale")
    with pytest.raises(ConfigError, match="scale=pretrained"):
        Head(6, 3, HeadSpec(scale="pretrained"))


def test_the_channel_norm_is_batch_norm_without_parameters():
    features = 5 + 3 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    head, reference = Head(6, 3, HeadSpec(norm="batch")), torch.nn.BatchNorm1d(6, affine=False)
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        torch.testing.assert_close(head(features), head.linear(reference(features)))
    head(features[:1])  # a last batch of one image has no variance
    head.eval(), reference.eval()
    torch.testing.assert_close(head(features), head.linear(reference(features)))
    assert {name for name, _ in head.named_parameters()} == {"linear.weight", "linear.bias"}
    torch.testing.assert_close(head.to_linear()(features), head(features), atol=1e-5, rtol=1e-5)
    with pytest.raises(NotMergeable, match="unit length"):
        Head(6, 3, TEXT).to_linear()


def test_a_backbone_without_its_projection_shares_all_else(problem):
    backbone, images, _, _ = problem
    bare, projection = without_projection(backbone)
    with torch.no_grad():
        torch.testing.assert_close(bare(images) @ projection.T, backbone(images), atol=1e-5, rtol=1e-5)
    assert bare.features == 64 and backbone.features == 48
    assert bare.patches.weight.data_ptr() == backbone.patches.weight.data_ptr()
    with pytest.raises(ConfigError, match="projection"):
        without_projection(load_backbone("random:tiny"))


@pytest.mark.parametrize(
    "fields", [{"start": "text", "length": "unit"}, {"length": "unit", "projection": "merged"}, {"scale": 0.0}]
)
def test_what_excludes_each_other_is_refused(fields):
    with pytest.raises(ConfigError, match="head:"):
        HeadSpec(**fields)


@pytest.mark.parametrize("spec", [ZERO, *SPECS.values()])
def test_a_head_survives_its_text_and_its_plain_form(spec):
    assert parse_head(head_text(spec)) == spec
    config = RunConfig("b", LoRA(), "d", head=spec, prompts=Prompts(("a", "b"), ("x {}",))).resolved()
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_heads_are_told_apart_and_defaults_are_not():
    plain = RunConfig("b", LoRA(), "d")
    assert "head" not in plain.to_dict() and "prompts" not in plain.to_dict()
    assert plain.digest() == dataclasses.replace(plain, head=ZERO, prompts=Prompts(("a",))).digest()
    text = dataclasses.replace(plain, head=TEXT)
    others = [plain, text, dataclasses.replace(text, prompts=Prompts(templates=("x {}",)))]
    others += [dataclasses.replace(plain, head=HeadSpec("text", norm="batch"))]
    assert len({config.digest() for config in others}) == 4
    zero_shot = RunConfig("b", ZeroShot(), "d")
    assert zero_shot.head_spec == TEXT and zero_shot.digest() == dataclasses.replace(zero_shot, head=TEXT).digest()
    with pytest.raises(ConfigError, match="must start from text"):
        RunConfig("b", ZeroShot(), "d", head=ZERO)
    with pytest.raises(UnknownName, match="text"):
        parse_head("txt")


def test_a_benchmark_file_says_heads_and_prompts(tmp_path):
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "GPT3_d.tsv").write_text("[]")
    path = tmp_path / "b.toml"
    path.write_text(
        "[bench]\nbackbone='b'\ndataset='d'\nmethod='lora'\nhead=['zero', 'text:scale=50']\n"
        f"[prompts]\nclass_names='{tmp_path / 'names.txt'}'\ntemplates=['x {{}}']\n"
        f"knowledge={{path='{tmp_path / 'k'}', gpt3=2}}\n"
    )
    zero, text = read_bench(path)
    assert zero.head_spec == ZERO and zero.prompts is None
    assert text.head_spec == dataclasses.replace(TEXT, scale=50.0)
    assert text.prompts.class_names == ("one", "two") and text.prompts.knowledge.gpt3 == 2
    with pytest.raises(ConfigError, match="--head text"):
        expand({"backbone": "b", "dataset": "d", "method": "lora"}, {}, {"templates": ["x {}"]})


def clip_run(photos, folder, tmp_path, **fields):
    name = openai_file(folder)
    values = {"shots": 2, "recipe": FAST, **fields}
    config = RunConfig(name, values.pop("method", ZeroShot()), str(photos), **values)
    store = Store(tmp_path / "runs")
    return config, store, run(config, store, Environment(cache=tmp_path / "cache"))


def test_zero_shot_from_end_to_end_is_open_clips(photos, tmp_path):
    import open_clip

    from vitadapt.data import Geometry, open_dataset, open_pixels

    _, store, record = clip_run(photos, tmp_path, tmp_path)
    assert record.parameters["trained"] == 0 and record.chosen == {} and record.status == "ok"
    backbone, dataset = load_backbone(openai_file(tmp_path)), open_dataset(str(photos))
    pixels = open_pixels(dataset.splits["test"], Geometry(32, 1.0), None)
    model, tokenizer = open_clip_clip(), open_clip.SimpleTokenizer()
    weights = open_clip.build_zero_shot_classifier(model, tokenizer, list(dataset.classes), ["a photo of a {}."])
    with torch.no_grad():
        images = backbone.normalise(pixels.gather(torch.arange(18)))
        expected = (100 * model.encode_image(images, normalize=True) @ weights).softmax(dim=1)
    torch.testing.assert_close(torch.from_numpy(store.predictions(record)[0]), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("spec", ["text", "merged", "batch"])
def test_what_a_text_head_learnt_is_loaded_again(photos, tmp_path, spec):
    from vitadapt.data import Geometry, open_dataset, open_pixels
    from vitadapt.training.loop import forward_all

    config, store, record = clip_run(photos, tmp_path, tmp_path, method=LoRA(), head=SPECS[spec])
    backbone = load_backbone(config.backbone)
    path = store.path("adapters", record.digest)
    model = load_adapter(path, backbone, backbone_digest(backbone))
    pixels = open_pixels(open_dataset(str(photos)).splits["test"], Geometry(32, 1.0), None)
    probabilities = forward_all(model, pixels, Setting(), "test").softmax(dim=1).numpy()
    assert (probabilities == store.predictions(record)[0]).all()
    assert record.method.startswith("lora +text")


def test_long_prompts_are_in_the_record(photos, tmp_path):
    prompts = Prompts(templates=("a photo of a {}.", "a very " * 80 + "{}"))
    _, _, record = clip_run(photos, tmp_path, tmp_path, prompts=prompts)
    assert any("3 of 6 texts have more than 77 tokens" in note for note in record.notes)


@pytest.mark.parametrize("head", [None, dataclasses.replace(TEXT, norm="standard", length="kept")])
def test_zero_shot_opens_no_training_image(photos, tmp_path, head):
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"not an image")
    _, _, sound = clip_run(photos, tmp_path, tmp_path / "a", head=head)
    _, _, record = clip_run(folder, tmp_path, tmp_path / "b", head=head, shots=500)
    assert record.status == "ok" and record.score == sound.score
    assert record.images["train"] == [] and record.images["test_count"] == 18


def test_zero_shot_of_a_backbone_without_text_is_one_line(photos, tmp_path):
    with pytest.raises(NotApplicable, match="random:tiny has no text tower") as caught:
        run(RunConfig("random:tiny", ZeroShot(), str(photos), shots=2), tmp_path / "runs", Environment())
    assert "\n" not in str(caught.value)


def test_towers_load_for_the_named_random_backbone(photos, tmp_path):
    record = run(RunConfig("random:tiny-clip", ZeroShot(), str(photos), shots=2), tmp_path / "runs", Environment())
    backbone = load_backbone("random:tiny-clip")
    assert record.status == "ok" and load_text_tower("random:tiny-clip", backbone).features == backbone.features


def test_a_method_that_trains_nothing_has_a_place_in_the_plot(photos, tmp_path):
    from vitadapt.report.plot import plot

    pytest.importorskip("matplotlib")
    records = [clip_run(photos, tmp_path, tmp_path, method=m, head=TEXT)[2] for m in (ZeroShot(), LoRA())]
    assert plot(records, tmp_path / "a.svg", "accuracy", None).read_text().count("zero-shot") == 1
