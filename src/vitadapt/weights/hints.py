"""What tensors cannot tell about a checkpoint: known from a module, a configuration, a document, or a person."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, get_args
from urllib.parse import parse_qsl

from ..nn.vit import ACTIVATIONS, Activation, Pooling, Preprocess, ViTConfig
from ..utils.errors import ConfigError, WeightsError
from ..utils.registry import unknown
from .catalog import architecture


@dataclass(frozen=True)
class Hints:
    """What the shapes of a checkpoint's tensors cannot tell; None means not known.

    Raises WeightsError for numbers that no network has.
    """

    heads: int | None = None
    activation: Activation | None = None
    norm_eps: float | None = None
    pooling: Pooling | None = None
    norm_after_pool: bool | None = None
    antialias: bool | None = None
    preprocess: Preprocess | None = None

    def __post_init__(self) -> None:
        _require(self.heads is None or (type(self.heads) is int and 1 <= self.heads <= _HEADS), "heads", self.heads)
        _require(self.norm_eps is None or _is_number(self.norm_eps, 0, 1), "the norm's epsilon", self.norm_eps)
        if self.preprocess is not None:
            how = self.preprocess
            _require(len(how.mean) == 3 and all(_is_number(v, -1e6, 1e6) for v in how.mean), "mean", how.mean)
            _require(len(how.std) == 3 and all(_is_number(v, 1e-6, 1e6) for v in how.std), "std", how.std)
            _require(_is_number(how.resize, 1, 100), "resize", how.resize)

    def over(self, other: Hints) -> Hints:
        """These hints, with the gaps filled from `other`."""
        gaps = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **gaps)

    def unknown(self) -> list[str]:
        """The names of the hints that are still not known."""
        return [f.name for f in fields(self) if getattr(self, f.name) is None]


_HEADS = 1024


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _require(holds: bool, what: str, value: Any) -> None:
    if not holds:
        raise WeightsError(f"{what} cannot be {value!r}; correct the settings beside the weights")


NO_HINTS = Hints()


NORMALISATIONS: dict[str, Preprocess] = {
    "imagenet": Preprocess(),
    "half": Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": Preprocess((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""The three usual ways to normalise images, by name."""


def heads_of_64(width: int) -> int | None:
    """Heads of a model whose documentation says 64 channels per head; None when `width` cannot be such a model's."""
    return None if width % 64 else width // 64


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
