"""What is run, as values: the recipe of a training, the configuration of a run, and the text forms of both."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from ..data.catalog import names_of
from ..methods import METHODS
from ..nn.head_spec import TEXT, ZERO, HeadSpec, parse_head
from ..nn.surgery import Method
from ..text.prompts import Prompts, build_prompts
from ..training.recipe import Recipe, protocol_table, recipe_for
from ..utils.errors import ConfigError
from ..utils.fields import build
from ..utils.files import parse_toml, read_text
from ..utils.limits import TOML_FILE


@dataclass(frozen=True)
class RunConfig:
    """One cell of a benchmark: everything that the score depends on, and nothing else.

    shots: labelled images per class, or None for all of them. image_size: pixels, None for the backbone's own.
    head: None for a head at zero, or of class names when the method trains none. prompts: None for the built-in ones.
    subset: digest of the manifest whose images are used; None draws them by `shots` and `seed`.
    """

    backbone: str
    method: Method
    dataset: str
    shots: int | None = 5
    seed: int = 0
    image_size: int | None = None
    protocol: str = "fixed"
    precision: Literal["fp32", "bf16"] = "fp32"
    recipe: Recipe | None = None
    head: HeadSpec | None = None
    prompts: Prompts | None = None
    subset: str | None = None

    def __post_init__(self) -> None:
        if not self.method.trains_head and self.head is not None and self.head.start != "text":
            raise ConfigError("this method trains no head, so that it must start from text; leave --head out")
        if self.shots is not None and self.shots < 1:
            raise ConfigError(f"shots must be at least 1 (or 'all'), got {self.shots}: nothing to train on")
        check_match(self.protocol, self.method)

    def resolved(self) -> RunConfig:
        """The same configuration with the recipe that its protocol prescribes filled in, in the one form it has.

        What says nothing new (a head that is the default, prompts for a head without text) is left out.
        """
        head = None if self.head == self.usual_head else self.head
        prompts = self.prompts if self.head_spec.start == "text" and self.prompts != Prompts() else None
        if prompts and prompts.knowledge:
            prompts = replace(prompts, knowledge=prompts.knowledge.pinned(names_of(self.dataset)))
        recipe = self.recipe or recipe_for(self.protocol, self.method)
        return replace(self, recipe=recipe, head=head, prompts=prompts)

    @property
    def head_spec(self) -> HeadSpec:
        """The head of this cell."""
        return self.head or self.usual_head

    @property
    def usual_head(self) -> HeadSpec:
        """The head of a cell that names none."""
        prescribed = protocol_table().get(self.protocol, {}).get("head")
        if prescribed:
            return parse_head(prescribed)
        return ZERO if self.method.trains_head else TEXT

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the method as its name and fields."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["method"] = {"name": METHODS.name_of(self.method), **dataclasses.asdict(cast(Any, self.method))}
        plain["recipe"] = dataclasses.asdict(self.recipe) if self.recipe else None
        # What is younger than the first records is left out where it says nothing, for their digests must stay.
        for name, value in {"decays": "matrices", "jitter": 0.0, "flip": False}.items():
            if self.recipe and getattr(self.recipe, name) == value:
                del plain["recipe"][name]
        for name in ("head", "prompts"):
            value = plain.pop(name)
            plain |= {name: dataclasses.asdict(value)} if value else {}
        if plain["subset"] is None:
            del plain["subset"]
        return cast(dict[str, Any], json.loads(json.dumps(plain)))

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> RunConfig:
        """The inverse of `to_dict`. Raises ConfigError or UnknownName."""
        fields = dict(plain)
        method = dict(fields.pop("method"))
        recipe, head, prompts = (fields.pop(name, None) for name in ("recipe", "head", "prompts"))
        return build(
            RunConfig,
            fields,
            "run",
            method=build(METHODS[method.pop("name")], method, "method"),
            recipe=build(Recipe, recipe, "recipe") if recipe else None,
            head=build(HeadSpec, head, "head") if head else None,
            prompts=build_prompts(prompts) if prompts else None,
        )

    def digest(self) -> str:
        """16 hex digits that name the record of this configuration; files are known by content, not by place."""
        plain = self.resolved().to_dict()
        knowledge = plain.get("prompts", {}).get("knowledge") or {}
        if knowledge.get("content"):
            del knowledge["path"]
        text = json.dumps(plain, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check_match(protocol: str, method: Method) -> None:
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


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ConfigError naming the file when it is missing or not TOML."""
    try:
        return parse_toml(read_text(path, TOML_FILE))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{path}: not a TOML file: {error}; correct that line") from error
