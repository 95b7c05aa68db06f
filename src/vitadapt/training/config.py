"""What a training depends on besides its images: one value, in which every default is filled in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from ..data.datasets import names_of
from ..methods import METHODS
from ..methods.spec import plain_method
from ..nn.head_spec import TEXT, ZERO, HeadSpec, parse_head, plain_head
from ..nn.surgery import Method, solves_head, towers_of
from ..text.prompts import Prompts
from ..utils.errors import ConfigError
from .recipe import Recipe, protocol_table, recipe_for

Precision = Literal["fp32", "bf16"]
FIRST_RECIPE = frozenset(
    [
        "optimizer",
        "lr",
        "head_lr",
        "weight_decay",
        "momentum",
        "epochs",
        "batch_size",
        "accumulate",
        "schedule",
        "warmup",
        "clip_norm",
        "label_smoothing",
        "head_start",
        "probe_epochs",
    ]
)
"""The fields that the recipe of every record has."""


@dataclass(frozen=True)
class TrainConfig:
    """What a `Task` needs to know: which network is adapted, how, and how it is trained.

    image_size: pixels, None for the backbone's own. prompts: the sentences of a head of class names, None for the
    built-in ones.
    """

    backbone: str
    method: Method
    recipe: Recipe
    head: HeadSpec
    prompts: Prompts | None = None
    seed: int = 0
    image_size: int | None = None
    precision: Precision = "fp32"

    @staticmethod
    def of(
        backbone: str,
        method: Method,
        protocol: str = "fixed",
        *,
        recipe: Recipe | None = None,
        head: HeadSpec | None = None,
        prompts: Prompts | None = None,
        seed: int = 0,
        image_size: int | None = None,
        precision: Precision = "fp32",
        dataset: str = "",
    ) -> TrainConfig:
        """The configuration with the recipe and the head that `protocol` prescribes where none is given.

        dataset: the name under which the files of `prompts.knowledge` are found.
        Raises ConfigError for what does not go together, or knowledge that cannot be read.
        """
        check_method(protocol, method)
        check_head(method, head)
        if own := method.templates():
            if prompts and prompts.templates not in ((), own):
                raise ConfigError(
                    f"{METHODS.name_of(method)} learns the words in front of the class name; leave --template out"
                )
            prompts = replace(prompts or Prompts(), templates=own)
        if prompts and prompts.knowledge:
            prompts = replace(prompts, knowledge=prompts.knowledge.pinned(names_of(dataset)))
        recipe, head = recipe or recipe_for(protocol, method), head or default_head(protocol, method)
        return TrainConfig(backbone, method, recipe, head, prompts, seed, image_size, precision)

    def with_method(self, method: Method, head: HeadSpec | None = None) -> TrainConfig:
        """The same with another method, its own recipe, and `head` or the default one."""
        recipe, head = recipe_for("fixed", method), head or default_head("fixed", method)
        return replace(self, method=method, recipe=recipe, head=head)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what says nothing new (the default head, prompts for a head without text) is left out."""
        head = None if self.head == default_head("fixed", self.method) else self.head
        return plain_config(replace(cast(Any, self), head=head, prompts=prompts_for(self.head, self.prompts)))

    def digest(self, **more: Any) -> str:
        """16 hex digits that name this configuration together with `more` plain values."""
        return config_digest(self.to_dict() | more)


def default_head(protocol: str, method: Method) -> HeadSpec:
    """The head of a configuration that names none."""
    if method.default_head is not None:
        return method.default_head
    prescribed = protocol_table().get(protocol, {}).get("head")
    if prescribed:
        return parse_head(prescribed)
    return ZERO if method.trains_head else TEXT


def prompts_for(head: HeadSpec, prompts: Prompts | None) -> Prompts | None:
    """The prompts that change `head`: None without any, for the built-in ones, and for a head without text."""
    return prompts if head.start == "text" and prompts != Prompts() else None


def check_head(method: Method, head: HeadSpec | None) -> None:
    """Raises ConfigError for a head that nothing would train, and for one that the method cannot make."""
    if not method.trains_head and head is not None and head.start != "text":
        raise ConfigError("this method trains no head, so that it must start from text; leave --head out")
    towers = towers_of(method)
    if towers != "image" and head is not None and (head.start != "text" or head.projection == "merged"):
        raise ConfigError(f"towers={towers}: the head is made of the text tower; leave --head out")
    own = method.default_head if solves_head(method) else None
    if own is not None and own.start == "text" and head is not None and replace(head, scale=own.scale) != own:
        raise ConfigError(f"{METHODS.name_of(method)} is made of the texts of the classes; leave --head out")


def check_method(protocol: str, method: Method) -> None:
    """Methods that break laws run only under a protocol that lists them, and such a protocol runs nothing else.

    Raises ConfigError otherwise.
    """
    table = protocol_table()
    listed = table.get(protocol, {}).get("methods")
    if listed is None and not method.breaks:
        return
    name = METHODS.name_of(method)
    if listed is not None and name not in listed:
        other = table[protocol]["honest"]
        raise ConfigError(
            f"protocol {protocol} repeats published code and runs {', '.join(listed)} only; use {other} for {name}"
        )
    if listed is None:
        able = [known for known, row in table.items() if name in row.get("methods", {})] or ["none"]
        laws = ", ".join(sorted(method.breaks))
        raise ConfigError(f"{name} breaks {laws}: it repeats published code and runs only under protocol {able[0]}")


def plain_config(config: Any) -> dict[str, Any]:
    """The fields of a configuration as JSON values; the method as its name and fields."""
    plain = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    plain["method"] = plain_method(config.method)
    plain["recipe"] = dataclasses.asdict(config.recipe) if config.recipe else None
    # Fields that the first records did not have are left out at their defaults, so that old digests stay.
    later = {name: field for name, field in Recipe.__dataclass_fields__.items() if name not in FIRST_RECIPE}
    for name, field in later.items() if config.recipe else ():
        if getattr(config.recipe, name) == field.default:
            del plain["recipe"][name]
    head, prompts = config.head, config.prompts
    del plain["head"], plain["prompts"]
    plain |= {"head": plain_head(head)} if head else {}
    plain |= {"prompts": dataclasses.asdict(prompts)} if prompts else {}
    return cast(dict[str, Any], json.loads(json.dumps(plain)))


def config_digest(plain: Mapping[str, Any]) -> str:
    """16 hex digits of plain values; files of knowledge are known by content, not by place."""
    knowledge = plain.get("prompts", {}).get("knowledge") or {}
    if knowledge.get("content"):
        del knowledge["path"]
    text = json.dumps(plain, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
