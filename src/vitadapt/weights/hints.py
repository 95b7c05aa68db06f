"""What tensors cannot tell about a checkpoint: known from a module, a configuration, a document, or a person."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import WeightsError
from ..vit import Activation, Pooling, Preprocess


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
