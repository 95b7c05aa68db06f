"""A classifier head in a file of its own, for models that have no place for it: four tensors, one formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .shipment import PlainHead

FILE = "head.safetensors"
FORMULA = "logits = weight @ g + bias, g = (features - centre) / spread"


def write_head(head: PlainHead, folder: Path, classes: tuple[str, ...]) -> None:
    """head.safetensors; its metadata say the formula and the classes."""
    formula = FORMULA + (", divided by its Euclidean length" if head.unit else "")
    about = {"formula": formula, "unit": json.dumps(head.unit), "classes": json.dumps(classes)}
    save_file({name: t.contiguous() for name, t in head.state_dict().items()}, folder / FILE, about)


def read_head(folder: Path) -> Callable[[Tensor], Tensor] | None:
    """features (B, E) -> logits (B, C) by the file alone; None where there is none."""
    if not (folder / FILE).is_file():
        return None
    with safe_open(str(folder / FILE), framework="pt") as file:
        t = {name: file.get_tensor(name) for name in ("weight", "bias", "centre", "spread")}
        unit = json.loads(file.metadata()["unit"])

    def logits(features: Tensor) -> Tensor:
        g = (features - t["centre"]) / t["spread"]
        return F.linear(F.normalize(g, dim=-1) if unit else g, t["weight"], t["bias"])

    return logits
