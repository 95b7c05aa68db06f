"""Hints that a person gives: behind a file's name (file:PATH?activation=gelu&mean=imagenet) or as a named model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args
from urllib.parse import parse_qsl

from ..errors import ConfigError
from ..registry import unknown
from ..vit import ACTIVATIONS, Pooling, ViTConfig
from .hints import NORMALISATIONS, Hints
from .names import architecture

_TRUTH = {"true": True, "false": False}


def config_of(name: str) -> ViTConfig:
    """The configuration of a named architecture. Raises UnknownName."""
    row = dict(architecture(name))
    return ViTConfig(preprocess=NORMALISATIONS[row.pop("normalise", "imagenet")], **row)


def parse_hints(query: str) -> Hints:
    """Hints out of name=value pairs joined by "&". Raises ConfigError (unknown field or value) and UnknownName.

    The fields are those of `Hints`, `mean` (a named normalisation) and `like` (a named architecture, whose every hint
    is taken unless another field says otherwise).
    """
    base, values = Hints(), {}
    for field, value in parse_qsl(query, keep_blank_values=True):
        if field == "like":
            config = config_of(value)
            base = Hints(**{f.name: getattr(config, f.name) for f in fields(Hints)})
        elif field in _PARSERS:
            name, parse = _PARSERS[field]
            values[name] = _parsed(field, value, parse)
        else:
            raise unknown("hint", field, ["like", *_PARSERS])
    return Hints(**values).over(base)


def _parsed(field: str, value: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(value)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{value!r} is no value for {field}; {_VALUES[field]}") from error


def _one_of(*names: str) -> Callable[[str], str]:
    return {name: name for name in names}.__getitem__


_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "activation": ("activation", _one_of(*ACTIVATIONS)),
    "heads": ("heads", int),
    "norm_eps": ("norm_eps", float),
    "pooling": ("pooling", _one_of(*get_args(Pooling))),
    "norm_after_pool": ("norm_after_pool", _TRUTH.__getitem__),
    "antialias": ("antialias", _TRUTH.__getitem__),
    "mean": ("preprocess", NORMALISATIONS.__getitem__),
}
_VALUES = {
    "activation": f"use one of {', '.join(ACTIVATIONS)}",
    "heads": "use a whole number",
    "norm_eps": "use a number such as 1e-6",
    "pooling": f"use one of {', '.join(get_args(Pooling))}",
    "norm_after_pool": "use true or false",
    "antialias": "use true or false",
    "mean": f"use one of {', '.join(NORMALISATIONS)}",
}
