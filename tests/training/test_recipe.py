"""A recipe is possible, or it is refused by the name of the number that is not."""

from __future__ import annotations

import dataclasses

import pytest

from vitadapt.training.recipe import Recipe
from vitadapt.utils.errors import ConfigError

NUMBERS = [field.name for field in dataclasses.fields(Recipe) if type(field.default) in (int, float)]
COUNTS = ("epochs", "batch_size", "accumulate", "probe_epochs")
SHARES = ("momentum", "drop_path", "dropout", "layer_decay", "ema", "crop")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_below_its_least_is_refused_by_its_name_and_the_least_is_allowed(name: str) -> None:
    least = 1 if name in COUNTS else 0
    with pytest.raises(ConfigError, match=f"^recipe: {name} must "):
        Recipe(**{name: least - 1})
    assert getattr(Recipe(**{name: least}), name) == least


@pytest.mark.parametrize("name", SHARES)
def test_a_share_is_less_than_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe: {name} must be in 0 to 1, without 1, got 1.0"):
        Recipe(**{name: 1.0})
    assert getattr(Recipe(**{name: 0.999}), name) == 0.999


def test_two_passes_need_something_in_which_they_differ() -> None:
    with pytest.raises(ConfigError, match="set noise=1"):
        Recipe(pace=1.0)
    for other in ("noise", "dropout", "drop_path"):
        Recipe(pace=1.0, **{other: 0.5})


@pytest.mark.parametrize("name", ["mixup", "cutmix", "colour", "crop"])
def test_images_that_change_anew_are_not_drawn_from_versions(name: str) -> None:
    with pytest.raises(ConfigError, match="set views=0"):
        Recipe(views=2, **{name: 0.5})
    Recipe(views=0, **{name: 0.5})
