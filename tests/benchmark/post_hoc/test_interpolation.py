"""The way from the frozen to the adapted backbone: laws at its ends and between, and the curve of a recorded run."""

import dataclasses

import pytest
import torch
from families import build, random_images

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.post_hoc.interpolation import SCALES, curve, scale_change
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.runner import run
from vitadapt.methods import METHODS
from vitadapt.methods.spec import parse_method
from vitadapt.nn.surgery import adapt, merge, trainable
from vitadapt.training.features import Environment
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError, NotApplicable

FIRST = ["kadaptation", "lora", "adapter", "compacter", "phm-adapter", "bitfit", "layernorm", "attention", "fine-tune"]
PLACES = ["ssf", "adaptformer", "adapter-plus", "repadapter", "convpass", "dora", "diff-fit", "partial-k"]
FAST = Recipe(epochs=2, batch_size=8, lr=3e-2, probe_epochs=2)


def moved(family, method):
    """A backbone, and the same adapted with everything that trains pushed away from its start."""
    backbone = build(family)
    adapted, generator = adapt(backbone, METHODS[method]()), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(adapted).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return backbone, adapted.eval()


@pytest.mark.parametrize("method", [*FIRST, *PLACES])
@torch.no_grad()
def test_the_ends_are_the_frozen_and_the_adapted_backbone(method):
    images = random_images()
    backbone, adapted = moved("clip-like", method)
    before, after = backbone(images), adapted(images)
    scale_change(adapted, backbone, 1.0)
    assert torch.allclose(adapted(images), after, atol=1e-5)
    scale_change(adapted, backbone, 0.5)
    half = adapted(images)
    assert not torch.allclose(half, after, atol=1e-4)
    scale_change(adapted, backbone, 0.0)
    assert torch.allclose(adapted(images), before, atol=1e-5)


@pytest.mark.parametrize("method", ["vpt", "side", "dtl"])
def test_what_is_no_change_of_a_weight_has_no_way(method):
    backbone, adapted = moved("clip-like", method)
    with pytest.raises(NotApplicable, match="is no change of a weight"):
        scale_change(adapted, backbone, 0.5)


@pytest.mark.parametrize("method", ["lora", "kadaptation", "bitfit", "layernorm", "attention", "fine-tune"])
@torch.no_grad()
def test_between_the_ends_the_weights_are(method):
    backbone, adapted = moved("deit-like", method)
    _, whole = moved("deit-like", method)
    scale_change(adapted, backbone, 0.25)
    first, last = backbone.state_dict(), merge(whole).state_dict()
    for name, found in merge(adapted).state_dict().items():
        assert torch.allclose(found, torch.lerp(first[name], last[name], 0.25), atol=1e-6), name


@torch.no_grad()
def test_other_networks_have_the_way_too():
    backbone, adapted = moved("convnet", "bitfit")
    before = backbone(random_images())
    scale_change(adapted, backbone, 0.0)
    assert torch.allclose(adapted(random_images()), before, atol=1e-6)


def test_a_backbone_that_nothing_changed_has_no_way():
    with pytest.raises(NotApplicable, match="changes nothing in the backbone"):
        scale_change(adapt(build("clip-like"), METHODS["linear-probe"]()), build("clip-like"), 0.5)


@pytest.mark.parametrize("method", ["lora", "compacter"])
def test_the_curve_ends_in_the_recorded_score_and_is_computed_once(photos, tmp_path, method):
    store, environment = Store(tmp_path / "runs"), Environment(tmp_path / "cache")
    record = run(RunConfig("random:tiny", parse_method(method), str(photos), 3, recipe=FAST), store, environment)
    points = curve(record, store, environment)
    assert [point.scale for point in points] == list(SCALES)
    assert points[-1].score == pytest.approx(record.score)
    assert {point.zero_shot for point in points} == {None}
    path = store.path("adapters", record.digest)
    path.rename(path.with_suffix(".gone"))
    assert curve(record, store, environment) == points  # nothing was computed again
    assert store.records() == ([record], [])


def test_with_a_head_of_text_the_curve_starts_at_zero_shot(photos, tmp_path):
    """Without a trained head the frozen end gives the zero-shot answers exactly."""
    pytest.importorskip("open_clip")
    store, environment = Store(tmp_path / "runs"), Environment(tmp_path / "cache")
    head = RunConfig("random:tiny-clip", METHODS["zero-shot"](), "x").head_spec
    recipe = dataclasses.replace(FAST, head_lr=0.0, head_start="zero", lr=0.1, weight_decay=0.0)
    config = RunConfig("random:tiny-clip", METHODS["bitfit"](), str(photos), 3, recipe=recipe, head=head)
    points = curve(run(config, store, environment), store, environment)
    assert points[0].zero_shot == 1.0
    assert all(0 <= point.zero_shot <= 1 for point in points)


def test_other_test_images_are_refused(photos, tmp_path):
    store, environment = Store(tmp_path / "runs"), Environment()
    record = run(RunConfig("random:tiny", METHODS["bitfit"](), str(photos), 2, recipe=FAST), store, environment)
    moved = dataclasses.replace(record, images={**record.images, "test": "0" * 16})
    with pytest.raises(ConfigError, match="test images are not those"):
        curve(moved, store, environment)
    with pytest.raises(ConfigError, match="no adapter"):
        curve(dataclasses.replace(record, files={}), store, environment)
