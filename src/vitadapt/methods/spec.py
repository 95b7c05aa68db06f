"""Methods as text: "lora:rank=8"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from ..nn.surgery import Method
from ..utils.fields import build, changes_text, named, parse_fields
from . import METHODS
from .depth import BlockMethod


def parse_method(text: str) -> Method:
    """ "lora", or "lora:rank=8,alpha=16,targets=q+k+v" -> LoRA(rank=8, ...). Raises UnknownName or ConfigError."""
    name, _, fields = text.partition(":")
    kind = METHODS[name.strip()]
    return build(kind, parse_fields(fields), f"method {name.strip()}")


def method_text(method: Method) -> str:
    """The shortest text from which `parse_method` makes `method` again."""
    fields = sorted(dataclasses.fields(cast(Any, method)), key=lambda field: bool(field.kw_only))
    values, defaults = {f.name: getattr(method, f.name) for f in fields}, {f.name: f.default for f in fields}
    return named(METHODS.name_of(method), changes_text(values, defaults))


def plain_method(method: Method) -> dict[str, Any]:
    """Name and fields as plain values; all blocks are left out, for the first records had no such field."""
    fields = dataclasses.asdict(cast(Any, method))
    if isinstance(method, BlockMethod) and method.blocks == "all":
        del fields["blocks"]
    return {"name": METHODS.name_of(method), **fields}


def method_of(plain: Mapping[str, Any]) -> Method:
    """The inverse of `plain_method`. Raises UnknownName or ConfigError."""
    fields = dict(plain)
    return build(METHODS[fields.pop("name")], fields, "method")
