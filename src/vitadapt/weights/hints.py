"""What tensors cannot tell about a checkpoint: known from a module, a configuration, a document, or a person."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..vit import Activation, Pooling, Preprocess


@dataclass(frozen=True)
class Hints:
    """What the shapes of a checkpoint's tensors cannot tell; None means not known."""

    heads: int | None = None
    activation: Activation | None = None
    norm_eps: float | None = None
    pooling: Pooling | None = None
    norm_after_pool: bool | None = None
    antialias: bool | None = None
    preprocess: Preprocess | None = None

    def over(self, other: Hints) -> Hints:
        """These hints, with the gaps filled from `other`."""
        gaps = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **gaps)

    def unknown(self) -> list[str]:
        """The names of the hints that are still not known."""
        return [f.name for f in fields(self) if getattr(self, f.name) is None]


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
