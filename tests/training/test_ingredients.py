"""Ingredients of a training: off they change nothing; on they do what their papers say, and the same again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES, build, random_images
from torch import nn

from vitadapt.methods import Adapter, AdapterPlus, AdaptFormer, LoRA, Method, RepAdapter
from vitadapt.methods.testing import Case
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.surgery import adapt, trainable
from vitadapt.nn.vit import ViT
from vitadapt.training.config import TrainConfig
from vitadapt.training.ingredients import at_work, augmented, rate_factors
from vitadapt.training.loop import fit, parameter_groups
from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError

SHORT = Recipe(epochs=2, batch_size=4, lr=1e-2)
ALL = {"dropout": 0.2, "noise": 1.0, "drop_path": 0.2, "pace": 1.0, "layer_decay": 0.8, "ema": 0.9, "mixup": 0.4}
ALL |= {"cutmix": 1.0, "colour": 0.3, "crop": 0.5}


def classifier(method: Method | None = None) -> Classifier:
    backbone = adapt(build("deit-like"), method or LoRA(targets=("q", "fc2")))
    return Classifier(backbone, Head(backbone.features, 3))


def trained(recipe: Recipe, **options: object) -> dict[str, torch.Tensor]:
    model = classifier()
    fit(model, random_images(8), torch.arange(8) % 3, recipe, seed=3, **options)
    return {name: p.detach().clone() for name, p in trainable(model).items()}


def test_without_them_a_configuration_is_what_it_was() -> None:
    plain = TrainConfig.of("random:tiny", LoRA(), recipe=SHORT).to_dict()["recipe"]
    assert not ALL.keys() & plain.keys()
    asked = TrainConfig.of("random:tiny", LoRA(), recipe=replace(SHORT, ema=0.5)).to_dict()["recipe"]
    assert asked == {**plain, "ema": 0.5}


@pytest.mark.parametrize(
    "name", ["dropout", "noise", "drop_path", "layer_decay", "ema", "mixup", "cutmix", "colour", "crop"]
)
def test_each_changes_a_training_and_the_same_seed_gives_the_same_bytes(name: str) -> None:
    plain, one, two = trained(SHORT), *(trained(replace(SHORT, **{name: ALL[name]})) for _ in range(2))
    assert any(not torch.equal(plain[key], one[key]) for key in plain)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_pace_adds_the_squared_difference_of_two_noisy_passes() -> None:
    def loss(pace: float) -> float:
        recipe = replace(SHORT, epochs=1, batch_size=8, noise=1.0, pace=pace)
        model = Case(LoRA(targets=("q", "fc2")), build("deit-like")).perturbed()
        head = Head(model.features, 3)
        torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(0))
        return fit(Classifier(model, head), random_images(8), torch.arange(8) % 3, recipe, seed=3).losses[0]

    plain, one, three = loss(0.0), loss(1.0), loss(3.0)
    assert one > plain + 1e-6 and three - plain == pytest.approx(3 * (one - plain), rel=1e-3)


def test_a_training_with_all_of_them_that_was_cut_off_ends_in_the_same_bytes(tmp_path: Path) -> None:
    recipe, file = replace(SHORT, **ALL), tmp_path / "checkpoint"
    whole = trained(recipe)
    trained(recipe, checkpoint=file, until=1)
    assert file.exists()
    rest = trained(recipe, checkpoint=file)
    assert all(torch.equal(whole[key], rest[key]) for key in whole)


@pytest.mark.parametrize("method", [LoRA(), Adapter(), AdaptFormer(), AdapterPlus(), RepAdapter()], ids=str)
def test_dropout_of_everything_that_a_method_adds_is_the_frozen_network(method: Method) -> None:
    model, images = Case(method, build("dinov2-like")).perturbed(), random_images()
    frozen, adapted = build("dinov2-like")(images), model(images)
    with at_work(model, Recipe(dropout=1 - 1e-12), 0, 0), torch.no_grad():
        torch.testing.assert_close(model.train()(images), frozen, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.eval()(images), adapted)
    with at_work(model, Recipe(dropout=1e-12), 0, 0):
        torch.testing.assert_close(model.train()(images), adapted)  # nothing is dropped
    torch.testing.assert_close(model.train()(images), adapted)


def test_stochastic_depth_leaves_out_whole_sub_layers_of_an_image_and_keeps_the_mean() -> None:
    model = adapt(ViT(replace(FAMILIES["deit-like"], depth=1)), LoRA())
    block, x = model.blocks[0].train(), torch.randn(2000, 3, 64)
    with at_work(model, Recipe(drop_path=0.25), 0, 0), torch.no_grad():
        gone = block(x) - x
        kept = ~(gone.abs().amax(dim=(1, 2)) < 1e-7)
    assert float(kept.float().mean()) == pytest.approx(1 - 0.25**2, abs=0.02)  # of two sub-layers
    with torch.no_grad(), at_work(model, Recipe(drop_path=0.25), 0, 1):
        first = model.blocks[0].perturbation.branch(torch.ones(4000, 1, 1))
    assert float(first.mean()) == pytest.approx(1.0, abs=0.03)


def test_blocks_before_the_first_adapted_one_have_no_noise() -> None:
    model = adapt(ViT(replace(FAMILIES["deit-like"], depth=4)), LoRA(blocks="last:2"))
    with at_work(model, Recipe(drop_path=0.2, noise=1.0), 0, 0):
        found = [block.perturbation for block in model.blocks]
    assert found[:2] == [None, None]
    assert [p.drop_path for p in found[2:]] == [0.1, 0.2] and [p.noise for p in found[2:]] == [0.5, 0.25]
    assert not any(block.perturbation for block in model.blocks)


def test_rates_fall_towards_the_input_and_the_heads_does_not() -> None:
    model = classifier()
    recipe = Recipe(lr=1.0, head_lr=7.0, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in parameter_groups(model, recipe) for p in group["params"]}
    found = {name: rates[id(p)] for name, p in trainable(model).items()}
    assert {found[name] for name in found if "blocks.0" in name} == {0.5}
    assert {found[name] for name in found if "blocks.1" in name} == {1.0}
    assert {found[name] for name in found if name.startswith("head")} == {7.0}
    assert rate_factors(model, Recipe()) == {}


def test_the_average_is_that_of_the_weights_after_every_step() -> None:
    weights: list[torch.Tensor] = []

    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights.append(self.weight.detach().clone())
            return super().forward(x)

    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    runs = []
    for decay in (0.0, 0.75):
        torch.manual_seed(0)
        model = Watched(4, 3)
        fit(model, x, y, Recipe(epochs=3, batch_size=6, head_lr=0.1, ema=decay))
        runs.append(model.weight.detach().clone())
    after = [*weights[1:3], runs[0]]  # of the run without it: each forward pass sees the weights of the step before
    expected = after[0]
    for step in after[1:]:
        expected = 0.75 * expected + 0.25 * step
    torch.testing.assert_close(runs[1], expected)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_images_are_mixed_with_partners_by_their_share(name: str) -> None:
    images = random_images(6)
    mixed, blend = augmented(images, Recipe(**{name: 1.0}), torch.Generator().manual_seed(1))
    assert blend is not None and 0 <= blend.share <= 1 and sorted(blend.partner.tolist()) == list(range(6))
    own, other = images / 255, images[blend.partner] / 255
    if name == "mixup":
        torch.testing.assert_close(mixed, blend.share * own + (1 - blend.share) * other)
    else:
        from_own = (mixed == own).all(dim=1)[blend.partner != torch.arange(6)]
        assert float(from_own.float().mean()) == pytest.approx(blend.share, abs=0.02)
        assert bool(((mixed == own) | (mixed == other)).all())


def test_crops_and_colours_differ_from_image_to_image() -> None:
    images = random_images(1).expand(4, -1, -1, -1)
    for recipe in (Recipe(crop=0.3), Recipe(colour=0.5)):
        changed, blend = augmented(images, recipe, torch.Generator())
        assert changed.shape == images.shape and blend is None
        assert not torch.equal(changed[0].float(), changed[1].float())
    features = torch.randn(3, 5)
    assert augmented(features, Recipe(mixup=1.0), torch.Generator()) == (features, None)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"drop_path": 1.0}, "drop_path must be in 0 to 1"),
        ({"noise": -1.0}, "noise must not be negative"),
        ({"pace": 1.0}, "set noise=1"),
        ({"views": 4, "mixup": 0.2}, "set views=0"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, float], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Recipe(**fields)
