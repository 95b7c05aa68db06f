"""Methods as text, "lora:rank=8" or "lora+bitfit", and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from ..nn.block import SLOTS
from ..nn.surgery import Method
from ..utils.fields import build, changes_text, named, parse_fields
from . import METHODS
from .depth import BlockMethod
from .together import Together


def parse_method(text: str) -> Method:
    """ "lora", or "lora:rank=8,alpha=16,targets=q+k+v" -> LoRA(rank=8, ...); "lora+bitfit" -> both together.

    Raises UnknownName or ConfigError.
    """
    parts = _parts(text)
    if len(parts) > 1:
        return Together(*map(parse_method, parts))
    name, _, fields = text.partition(":")
    kind = METHODS[name.strip()]
    return build(kind, parse_fields(fields), f"method {name.strip()}")


def _parts(text: str) -> list[str]:
    """The texts of single methods in one of several. A "+" also joins the values of a field, as in targets=q+v."""
    first, *rest = text.split("+")
    parts = [first]
    for piece in rest:
        name = piece.partition(":")[0].strip()
        is_value = "=" in parts[-1] and (name in SLOTS or name.isdigit() or name not in METHODS)
        parts = [*parts[:-1], f"{parts[-1]}+{piece}"] if is_value else [*parts, piece]
    return parts


def method_text(method: Method) -> str:
    """The shortest text from which `parse_method` makes `method` again."""
    if isinstance(method, Together):
        return "+".join(map(method_text, method.methods))
    fields = sorted(dataclasses.fields(cast(Any, method)), key=lambda field: bool(field.kw_only))
    values, defaults = {f.name: getattr(method, f.name) for f in fields}, {f.name: f.default for f in fields}
    return named(METHODS.name_of(method), changes_text(values, defaults))


def plain_method(method: Method) -> dict[str, Any]:
    """Name and fields as plain values; fields of all block methods that say nothing new are left out."""
    if isinstance(method, Together):
        return {"name": METHODS.name_of(method), "methods": list(map(plain_method, method.methods))}
    fields = dataclasses.asdict(cast(Any, method))
    for f in dataclasses.fields(BlockMethod) if isinstance(method, BlockMethod) else ():  # the first records had none
        if fields[f.name] == f.default:
            del fields[f.name]
    return {"name": METHODS.name_of(method), **fields}


def method_of(plain: Mapping[str, Any]) -> Method:
    """The inverse of `plain_method`. Raises UnknownName or ConfigError."""
    fields = dict(plain)
    if "methods" in fields:
        return Together(*map(method_of, fields["methods"]))
    return build(METHODS[fields.pop("name")], fields, "method")
