"""Versions of images behind frozen blocks: the same answers, a training that begins later, and one that repeats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vitadapt.data import Examples
from vitadapt.data.readers.arrays import to_refs
from vitadapt.methods import KAdaptation, LinearProbe, LoRA
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.nn.surgery import require_vit
from vitadapt.training.config import TrainConfig
from vitadapt.training.cross_validation import train_final
from vitadapt.training.features import Environment, cached_backbone, pixels_of
from vitadapt.training.loop import forward_all
from vitadapt.training.recipe import Recipe
from vitadapt.training.task import Task, make_task
from vitadapt.training.views import make_views, version_features

RECIPE = Recipe(lr=1e-2, epochs=3, batch_size=4, probe_epochs=2, jitter=0.3, flip=True, views=3, head_start="probe")
LAST = LoRA(rank=2, targets=("q", "v", "fc1"), blocks="last:1")


def task_of(method=LAST, head=None, recipe=RECIPE):
    config = TrainConfig.of("random:tiny", method, recipe=recipe, head=head)
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    refs = to_refs(images, "images")
    backbone, _ = cached_backbone("random:tiny", None, "cpu")
    pixels = pixels_of(Examples(tuple(refs), np.zeros(10, dtype=np.int64)), backbone, Environment())
    return make_task(config, pixels, np.arange(10) % 2, 2, Environment())


def trained(task: Task) -> list[torch.Tensor]:
    return [p.detach().clone() for p in train_final(task, task.recipe).model.parameters() if p.requires_grad]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_answers_from_views_are_those_of_the_images(cache, mirror, tmp_path):
    task = task_of(head=HeadSpec(mirror=mirror)).with_views(tmp_path if cache else None)
    assert task.views is not None and task.views.first == 1
    model = train_final(task, task.recipe).model
    rows = torch.tensor([7, 2, 2])
    expected = forward_all(model, task.images, task.setting, "x").softmax(dim=1)
    torch.testing.assert_close(task.probabilities(model), expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(task.take(rows).probabilities(model), expected[rows], atol=2e-3, rtol=0)
    assert not list(tmp_path.rglob("*images*"))


def test_a_training_on_views_moves_what_the_method_trains_and_repeats_to_the_bit():
    task = task_of().with_views(None)
    first, again = trained(task), trained(task_of().with_views(None))
    fresh = [p for p in task.build(0).parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, fresh, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, trained(task_of()), strict=True))  # jittered in each epoch


def test_with_one_version_the_training_is_that_on_the_images():
    task = task_of(recipe=Recipe(optimizer="sgd", lr=0.1, epochs=1, batch_size=4))
    views = make_views(require_vit(task.backbone), task.images, 1, 1, 0, task.setting, None)
    assert views is not None and len(views.tokens) == 1
    plain, viewed = trained(task), trained(replace(task, views=views.drawing(flip=False)))
    for one, other in zip(plain, viewed, strict=True):
        torch.testing.assert_close(one, other, atol=3e-3, rtol=0)


def test_mirror_images_are_trained_on_only_if_the_recipe_flips():
    from dataclasses import replace

    for flip in (False, True):
        task = task_of(head=HeadSpec(mirror=True), recipe=replace(RECIPE, flip=flip)).with_views(None)
        assert task.views is not None and (1 in task.views.drawn) is flip


def test_versions_that_are_there_are_shared_and_further_ones_added():
    task = task_of()
    some = make_views(require_vit(task.backbone), task.images, 0, 2, 5, task.setting, None)
    assert some is not None
    more = task.with_views(None, some).views
    assert more is not None and more.first == 0 and more.tokens[:2] == some.tokens and len(more.tokens) == 5
    features = version_features(require_vit(task.backbone), more, task.setting, 1)[0]
    torch.testing.assert_close(features, task.features, atol=3e-3, rtol=0)


@pytest.mark.parametrize("method", [LinearProbe(), LoRA(), KAdaptation(n=8)])
def test_a_method_that_changes_the_first_block_or_none_has_no_views(method):
    assert task_of(method).with_views(None).views is None
