"""Methods as text: "lora:rank=8"."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from ..nn.surgery import Method
from ..utils.fields import build, changes_text, named, parse_fields
from . import METHODS


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
