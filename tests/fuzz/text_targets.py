"""Text towers with their tokenisers, as the libraries store them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import text_cases
import torch
from law import TARGETS, Target

from vitadapt.nn.backbone import Backbone
from vitadapt.text import load_text_tower
from vitadapt.weights import load_backbone

TEXTS = ["a photo of a cat.", "", "naïve"]


def _tower_target(name: str, write: Callable[[Path], Any], damaged: Callable[[Path], list[Path]]) -> None:
    """write: puts the model into a folder and says under which name it is loaded. damaged: its small files."""

    @cache
    def sound(folder: Path) -> tuple[str, Backbone]:
        named = write(folder)
        spec = named if isinstance(named, str) else named[1]
        return spec, load_backbone(spec)

    def prepare(folder: Path) -> list[Path]:
        sound(folder)
        return damaged(folder)

    def read(folder: Path) -> None:
        spec, backbone = sound(folder)
        tower = load_text_tower(spec, backbone)
        assert torch.isfinite(tower.encode(TEXTS)).all()

    TARGETS[f"text tower {name}"] = Target(f"text tower {name}", "text towers", prepare, read)


def _settings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".json", ".txt"))


_tower_target("hugging face", text_cases.hf_folder, _settings)
_tower_target("open_clip", text_cases.open_clip_folder, _settings)
_tower_target("siglip", text_cases.siglip_folder, _settings)
