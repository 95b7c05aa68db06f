"""Dataclasses from text and TOML values, and the shortest text that says how one differs from its defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from .errors import ConfigError
from .registry import unknown

Instance = TypeVar("Instance")


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
    if isinstance(value, str) and _is_tuple(kind, name, value):
        value = tuple(value.split("+"))
    try:
        return _adapter(kind, name).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise ConfigError(f"{what}: {name}={value!r} is not possible: {reason}") from error


def _is_tuple(kind: type, name: str, text: str) -> bool:
    """Is the text of a field that of several values? Where a word may stand as well, numbers are."""
    hint = _hint(kind, name)
    among = any(get_origin(choice) is tuple for choice in get_args(hint))
    return get_origin(hint) is tuple or (among and text[:1].isdigit())


@cache
def _hint(kind: type, name: str) -> Any:
    return get_type_hints(kind)[name]


@cache
def _adapter(kind: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_hint(kind, name))


def parse_fields(text: str) -> dict[str, str]:
    """ "rank=8,targets=q+v,bias=false" -> {"rank": "8", "targets": "q+v", "bias": "false"}. Raises ConfigError."""
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(f"cannot read {part!r}; write field=value, several separated by commas")
        values[name.strip()] = value.strip()
    return values


def changes_text(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """ "rank=8,targets=q+k+v": the values that are not the default ones, in the order of the defaults."""
    changed = [(name, values[name]) for name in defaults if name in values and values[name] != defaults[name]]
    texts = {name: "+".join(map(str, value)) if isinstance(value, tuple) else value for name, value in changed}
    return ",".join(f"{name}={text}" for name, text in texts.items())


def named(name: str, changes: str) -> str:
    """ "lora" or "lora:rank=8"."""
    return f"{name}:{changes}" if changes else name
