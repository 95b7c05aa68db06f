"""Hints as text behind the name of a file: file:PATH?like=dinov3-s16&heads=6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args
from urllib.parse import parse_qsl

from ..nn.vit import ACTIVATIONS, Pooling
from ..utils.errors import ConfigError
from ..utils.registry import unknown
from .hints import NORMALISATIONS, Hints, config_of, hints_of_config

Which = Literal["ema", "raw"]
"""Averaged weights or the last ones of the training, where a checkpoint holds both."""


_TRUTH = {"true": True, "false": False}


def parse_hints(query: str) -> Hints:
    """Hints out of name=value pairs joined by "&". Raises ConfigError (unknown field or value) and UnknownName.

    The fields are those of `Hints`, `mean` (a named normalisation), `like` (a named architecture, whose every hint
    is taken unless another field says otherwise) and `weights` (see `weights_of`).
    """
    base, values = Hints(), {}
    for asked, value in parse_qsl(query, keep_blank_values=True):
        if asked == "weights":
            continue
        if asked == "like":
            base = hints_of_config(config_of(value))
        elif asked in _PARSERS:
            name, parse, _ = _PARSERS[asked]
            values[name] = _parsed(asked, value, parse)
        else:
            raise unknown("hint", asked, ["like", "weights", *_PARSERS])
    return Hints(**values).over(base)


def weights_of(query: str) -> Which | None:
    """Which of two sets of weights the query asks for with weights=ema or weights=raw. Raises ConfigError."""
    value = dict(parse_qsl(query)).get("weights")
    if value not in (None, *get_args(Which)):
        raise ConfigError(f"{value!r} is no value for weights; use one of {', '.join(get_args(Which))}")
    return cast(Which | None, value)


def _parsed(field: str, value: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(value)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{value!r} is no value for {field}; use {_PARSERS[field][2]}") from error


def _one_of(*names: str) -> tuple[Callable[[str], str], str]:
    return {name: name for name in names}.__getitem__, f"one of {', '.join(names)}"


_PARSERS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "activation": ("activation", *_one_of(*ACTIVATIONS)),
    "heads": ("heads", int, "a whole number"),
    "norm_eps": ("norm_eps", float, "a number such as 1e-6"),
    "pooling": ("pooling", *_one_of(*get_args(Pooling))),
    "norm_after_pool": ("norm_after_pool", _TRUTH.__getitem__, "true or false"),
    "antialias": ("antialias", _TRUTH.__getitem__, "true or false"),
    "mean": ("preprocess", NORMALISATIONS.__getitem__, f"one of {', '.join(NORMALISATIONS)}"),
}
"""Field of the query -> field of `Hints`, how its text is read, and what is allowed."""
