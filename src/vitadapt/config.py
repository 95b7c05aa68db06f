"""What is run, as values: the recipe of a training, the configuration of a run, and the text forms of both."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from .data.catalog import names_of
from .errors import ConfigError
from .files import parse_toml, read_text, shipped_table
from .headspec import HEADS, TEXT, ZERO, HeadSpec
from .limits import TOML_FILE
from .methods import METHODS
from .naming import changes_text, named
from .registry import unknown
from .surgery import Method
from .text.knowledge import Knowledge
from .text.prompts import Prompts

Instance = TypeVar("Instance")


@dataclass(frozen=True)
class Recipe:
    """How one training goes. Learning rates are per step; `warmup` is in epochs; 0 switches clipping off.

    head_start: "zero", or "probe" to begin with a head trained for `probe_epochs` on the frozen features (Kumar et al.
    2022, LP-FT).
    weight_decay acts on matrices, not on vectors (biases, norms), unless `decays` is "all".
    jitter: how far training images are zoomed and shifted at random (`augment.jitter`); flip: half are mirrored.
    Neither touches a head that is trained on the features of the frozen backbone.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    head_lr: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    epochs: int = 30
    batch_size: int = 16
    accumulate: int = 1
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: float = 1.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    head_start: Literal["zero", "probe"] = "zero"
    probe_epochs: int = 30
    decays: Literal["matrices", "all"] = "matrices"
    jitter: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "accumulate": self.accumulate}
        positive["probe_epochs"] = self.probe_epochs
        for name, value in positive.items():
            if value < 1:
                raise ConfigError(f"recipe: {name} must be at least 1, got {value}")
        for name in ("lr", "head_lr", "weight_decay", "warmup", "clip_norm", "label_smoothing", "jitter"):
            if getattr(self, name) < 0:
                raise ConfigError(f"recipe: {name} must not be negative, got {getattr(self, name)}")


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
        prescribed = data_table("protocols.toml").get(self.protocol, {}).get("head")
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


def build(kind: type[Instance], values: Mapping[str, Any], what: str, **ready: Any) -> Instance:
    """A dataclass from text or TOML values. Raises UnknownName for a field, ConfigError for a value of a wrong type."""
    return kind(**build_changes(kind, values, what), **ready)


def build_changes(kind: type, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`values` as fields of the dataclass `kind`, with the types they have there. Raises as `build`."""
    fields = {f.name: f for f in dataclasses.fields(cast(Any, kind)) if f.init}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what}: {values!r} is no table of fields; write name = value below [{what}]")
    for name in values:
        if name not in fields:
            hint = "" if fields else f"{what} has no fields"
            raise unknown(f"field of {what}", name, fields, hint)
    return {name: _checked(kind, name, value, what) for name, value in values.items()}


def _checked(kind: type, name: str, value: Any, what: str) -> Any:
    try:
        return _adapter(kind, name).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise ConfigError(f"{what}: {name}={value!r} is not possible: {reason}") from error


@cache
def _adapter(kind: type, name: str) -> TypeAdapter[Any]:
    from typing import get_type_hints

    return TypeAdapter(get_type_hints(kind)[name])


def build_prompts(values: Mapping[str, Any]) -> Prompts:
    """Prompts from plain values. Raises UnknownName or ConfigError."""
    fields = dict(values)
    knowledge = fields.pop("knowledge", None)
    known = build(Knowledge, knowledge, "knowledge") if knowledge else None
    if known is None and knowledge is not None:
        raise ConfigError("knowledge: needs a path")
    return build(Prompts, fields, "prompts", knowledge=known)


def parse_head(text: str) -> HeadSpec:
    """ "zero", "text", or "text:scale=pretrained,learn_scale=true" -> a HeadSpec. Raises UnknownName or ConfigError."""
    name, _, fields = text.partition(":")
    if name.strip() not in HEADS:
        raise unknown("head", name.strip(), HEADS)
    changes = build_changes(HeadSpec, parse_fields(fields), "head")
    return replace(HEADS[name.strip()], **changes)


def head_text(head: HeadSpec) -> str:
    """The shortest text from which `parse_head` makes `head` again."""
    return named(head.start, changes_text(dataclasses.asdict(head), dataclasses.asdict(HEADS[head.start])))


def parse_method(text: str) -> Method:
    """ "lora", or "lora:rank=8,alpha=16,targets=q+k+v" -> LoRA(rank=8, ...). Raises UnknownName or ConfigError."""
    name, _, fields = text.partition(":")
    kind = METHODS[name.strip()]
    return build(kind, parse_fields(fields), f"method {name.strip()}")


def method_text(method: Method) -> str:
    """The shortest text from which `parse_method` makes `method` again."""
    fields = dataclasses.fields(cast(Any, method))
    values, defaults = {f.name: getattr(method, f.name) for f in fields}, {f.name: f.default for f in fields}
    return named(METHODS.name_of(method), changes_text(values, defaults))


def parse_fields(text: str) -> dict[str, Any]:
    """ "rank=8,targets=q+v,bias=false" -> {"rank": "8", "targets": ("q", "v"), "bias": "false"}. Raises ConfigError."""
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(f"cannot read {part!r}; write field=value, several separated by commas")
        name, value = name.strip(), value.strip()
        values[name] = tuple(value.split("+")) if name == "targets" else value
    return values


def data_table(name: str) -> dict[str, Any]:
    """A TOML file that ships with the package, such as protocols.toml."""
    return shipped_table("vitadapt", name)


def recipe_for(protocol: str, method: Method) -> Recipe:
    """The recipe that `protocol` prescribes for `method`: the protocol's defaults, then the method's own row."""
    table = data_table("protocols.toml")
    if protocol not in table:
        raise unknown("protocol", protocol, table)
    rows = table[table[protocol].get("like", protocol)]["recipe"]
    name = METHODS.name_of(method)
    return build(Recipe, {**rows["default"], **rows.get(name, {})}, f"protocol {protocol}")


def check_match(protocol: str, method: Method) -> None:
    """Methods that break laws run only under a protocol that lists them, and such a protocol runs nothing else.

    Raises ConfigError otherwise.
    """
    table = data_table("protocols.toml")
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
