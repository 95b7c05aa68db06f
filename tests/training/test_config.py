"""One value of what a training depends on, the same inside a benchmark and inside `fit`."""

from __future__ import annotations

import dataclasses

import pytest

from vitadapt.benchmark.config import RunConfig
from vitadapt.classifier.fit import FitConfig
from vitadapt.classifier.fit_record import image_fields
from vitadapt.methods import METHODS, KAdaptation, LinearProbe, ZeroShot
from vitadapt.nn.head_spec import TEXT, ZERO, parse_head
from vitadapt.text import Prompts
from vitadapt.training.config import TrainConfig
from vitadapt.training.recipe import Recipe, recipe_for
from vitadapt.utils.errors import ConfigError

PROMPTS = Prompts(templates=("a photo of {}.",))
TEXTUAL = {"seed": 3, "head": parse_head("text"), "prompts": PROMPTS, "precision": "bf16"}


@pytest.mark.parametrize(
    ("fit", "size", "digest"),
    [
        (FitConfig("photos", method=KAdaptation()), 112, "08fb6e8d45e2d03f"),
        (FitConfig("photos", "random:tiny-clip", KAdaptation(), **TEXTUAL), 32, "e4de2bba76085bcf"),
        (FitConfig("photos", "random:tiny-clip", LinearProbe(), prompts=PROMPTS), 32, "dd5698cb204bbd11"),
    ],
)
def test_a_fitted_model_is_known_by_the_digest_that_it_always_had(fit: FitConfig, size: int, digest: str) -> None:
    """Finished model folders hold it, so that it must never change; a run of the same training has it as well."""
    names = ("backbone", "method", "seed", "recipe", "head", "prompts", "precision")
    same = {name: getattr(fit, name) for name in names}
    run = RunConfig(dataset="photos", shots=None, image_size=size, **same)
    config = dataclasses.replace(fit, image_size=size).train_config(fit.method)
    assert config.digest(**image_fields(fit.data)) == digest == run.digest()
    assert {**config.to_dict(), **image_fields(fit.data)} == run.resolved().to_dict()
    assert config == dataclasses.replace(run.training, prompts=fit.prompts)


def test_the_defaults_are_those_of_protocol_and_method() -> None:
    config = TrainConfig.of("x", KAdaptation())
    assert (config.recipe, config.head) == (recipe_for("fixed", KAdaptation()), ZERO)
    assert TrainConfig.of("x", ZeroShot()).head == TEXT
    released = TrainConfig.of("x", METHODS["lora-released"](), "elevater-released")
    assert released.head == parse_head("text:norm=batch,length=kept,scale=1")


def test_another_method_has_its_own_recipe_and_head() -> None:
    config = TrainConfig.of("x", KAdaptation(), recipe=Recipe(epochs=3), prompts=PROMPTS, seed=5)
    assert config.with_method(ZeroShot()) == TrainConfig.of("x", ZeroShot(), prompts=PROMPTS, seed=5)
    assert config.with_method(LinearProbe(), TEXT).head == TEXT


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="trains no head"):
        TrainConfig.of("x", ZeroShot(), head=ZERO)
    with pytest.raises(ConfigError, match="runs only under protocol elevater-released"):
        TrainConfig.of("x", METHODS["lora-released"]())
