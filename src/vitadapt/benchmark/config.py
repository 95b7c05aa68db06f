"""One cell of a benchmark as a value, and its text forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..methods import METHODS, Together
from ..methods.spec import method_of
from ..nn.head_spec import TEXT, HeadSpec
from ..nn.surgery import Method
from ..text.prompts import Prompts, build_prompts
from ..training.config import (
    Precision,
    TrainConfig,
    check_head,
    check_method,
    config_digest,
    default_head,
    plain_config,
    prompts_for,
)
from ..training.recipe import Recipe
from ..utils.errors import ConfigError, damaged
from ..utils.fields import build
from ..utils.files import parse_toml, read_text
from ..utils.limits import TOML_FILE


@dataclass(frozen=True)
class RunConfig:
    """One cell of a benchmark: everything that the score depends on, and nothing else.

    shots: labelled images per class, or None for all of them. image_size: pixels, None for the backbone's own.
    head: None for a head at zero, or of class names when the method trains none. prompts: None for the built-in ones.
    subset: digest of the manifest whose images are used; None draws them by `shots` and `seed`.
    test: None for the test images of the dataset; base-to-new, or other datasets joined by +, as `transfer.py` says.
    """

    backbone: str
    method: Method
    dataset: str
    shots: int | None = 5
    seed: int = 0
    image_size: int | None = None
    protocol: str = "fixed"
    precision: Precision = "fp32"
    recipe: Recipe | None = None
    head: HeadSpec | None = None
    prompts: Prompts | None = None
    subset: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        check_head(self.method, self.head)
        if self.shots is not None and self.shots < 1:
            raise ConfigError(f"shots must be at least 1 (or 'all'), got {self.shots}: nothing to train on")
        check_method(self.protocol, self.method)

    @property
    def training(self) -> TrainConfig:
        """What a training under this configuration depends on besides its images, with every default filled in."""
        return TrainConfig.of(
            self.backbone,
            self.method,
            self.protocol,
            recipe=self.recipe,
            head=self.head,
            prompts=prompts_for(TEXT if self.test else self.head_spec, self.prompts),
            seed=self.seed,
            image_size=self.image_size,
            precision=self.precision,
            dataset=self.dataset,
        )

    def resolved(self) -> RunConfig:
        """The same configuration with the recipe that its protocol prescribes filled in, in the one form it has.

        What says nothing new (a head that is the default, prompts for a head without text) is left out.
        """
        head = None if self.head == default_head(self.protocol, self.method) else self.head
        return replace(self, recipe=self.training.recipe, head=head, prompts=self.training.prompts)

    @property
    def head_spec(self) -> HeadSpec:
        """The head of this cell."""
        return self.head or default_head(self.protocol, self.method)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the method as its name and fields."""
        plain = plain_config(self)
        return {name: value for name, value in plain.items() if value is not None or name not in ("subset", "test")}

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> RunConfig:
        """The inverse of `to_dict`. Raises ConfigError or UnknownName."""
        fields = dict(plain)
        method = method_of(fields.pop("method"))
        recipe, head, prompts = (fields.pop(name, None) for name in ("recipe", "head", "prompts"))
        return build(
            RunConfig,
            fields,
            "run",
            method=method,
            recipe=build(Recipe, recipe, "recipe") if recipe else None,
            head=build(HeadSpec, head, "head") if head else None,
            prompts=build_prompts(prompts) if prompts else None,
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A worker gets the method by its name, so that it loads the plugin that holds it."""
        if type(self.method) in METHODS.values() or isinstance(self.method, Together):
            return RunConfig.from_dict, (self.to_dict(),)
        return super().__reduce_ex__(protocol)

    def digest(self) -> str:
        """16 hex digits that name the record of this configuration."""
        return config_digest(self.resolved().to_dict())


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ConfigError naming the file when it is missing or not TOML."""
    with damaged(path, "check the path", ConfigError):
        text = read_text(path, TOML_FILE)
    with damaged(path, "correct that line", ConfigError, "is not a TOML file"):
        return parse_toml(text)
