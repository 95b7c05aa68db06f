"""What backbones there are, as data: read without importing torch, so that listing them is instant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from ..utils.files import shipped_table
from ..utils.registry import unknown


@dataclass(frozen=True)
class BackboneRow:
    """One row of backbones.toml."""

    name: str
    sources: tuple[str, ...]
    image_size: int
    licence: str
    description: str
    resize: float | None = None

    @property
    def source(self) -> str:
        """Where it comes from: the general name that is tried first."""
        return self.sources[0]


GENERAL_FORMS = {
    "timm:NAME": "any timm model; a plain ViT becomes adaptable everywhere, other networks give features",
    "open_clip:ARCH/TAG": "the image tower of an open_clip model, e.g. open_clip:ViT-B-16/laion2b_s34b_b88k",
    "hf:REPO": "a Hugging Face repository (or folder) with a CLIP, ViT or DINOv2 model",
    "file:PATH": "a local checkpoint, or a folder with one; file:PATH?like=ARCH tells what its tensors do not, "
    "?weights=ema or raw which of two sets",
    "random:ARCH": "random weights, always the same: random:tiny, random:clip-vit-b32@7, random:timm/resnet18",
}
"""Names that are not rows, for help texts."""


def _table(file: str) -> dict[str, dict[str, Any]]:
    return shipped_table("vitadapt.weights", file)


@cache
def backbones() -> dict[str, BackboneRow]:
    """Name -> row, in the order of the file."""
    rows = {name: dict(row) for name, row in _table("backbones.toml").items()}
    return {name: BackboneRow(name=name, sources=tuple(row.pop("from")), **row) for name, row in rows.items()}


def list_backbones() -> list[dict[str, str]]:
    """Name, source, licence and description of every named backbone, then of the general forms."""
    columns = ("name", "source", "licence", "description")
    named = [{column: getattr(row, column) for column in columns} for row in backbones().values()]
    return named + [dict(zip(columns, (form, "", "", what), strict=True)) for form, what in GENERAL_FORMS.items()]


def architectures() -> dict[str, dict[str, Any]]:
    """Name -> fields of the `ViTConfig` of every architecture that `random:` knows."""
    return _table("architectures.toml")


def architecture(name: str) -> dict[str, Any]:
    """The fields of one architecture. Raises UnknownName."""
    known = architectures()
    if name not in known:
        raise unknown("architecture", name, known, "or use random:timm/NAME")
    return known[name]
