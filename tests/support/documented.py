"""The parameter-count formulas of docs/methods.md, read from its table."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from vitadapt.methods import METHODS, BlockMethod
from vitadapt.nn.block import Slot
from vitadapt.nn.surgery import Method
from vitadapt.nn.text_transformer import TextConfig, TextTransformer
from vitadapt.nn.vit import ViT, ViTConfig
from vitadapt.nn.vit_config import BlockConfig

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
ROW = re.compile(r"^\| ([a-z0-9-]+) \| `(.+)` \| ([\d,]+) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text("utf-8"))
TABLE = {name: (formula, int(figure.replace(",", ""))) for name, formula, figure in ROWS}


def shape(config: BlockConfig, slot: Slot) -> tuple[int, int]:
    """(D_out, D_in) of a slot, from the configuration alone."""
    up, down = (config.mlp_width, config.width), (config.width, config.mlp_width)
    sides: dict[Slot, tuple[int, int]] = {"gate": up, "fc1": up, "fc2": down}
    return sides.get(slot, (config.width, config.width))


def variables(config: ViTConfig | TextConfig, method: Method) -> dict[str, int]:
    """What docs/methods.md says its variables mean."""
    fields = asdict(method)
    part = isinstance(method, BlockMethod) and method.blocks != "all"
    shapes = [shape(config, slot) for slot in fields.pop("targets", ())]
    network = TextTransformer if isinstance(config, TextConfig) else ViT
    own = _of_images(config) if isinstance(config, ViTConfig) else _OF_TEXT
    return {
        "L": len(method.chosen_blocks(network(config))) if part else config.depth,
        "whole": int(not part),
        "D": config.width,
        "M": config.mlp_width,
        "E": config.projection,
        "qkv_bias": config.qkv_bias,
        "layer_scale": config.layer_scale,
        **own,
        "slots": len(shapes),
        "rows": sum(rows for rows, _ in shapes),
        "cols": sum(cols for _, cols in shapes),
        "sides": sum(min(sides) for sides in shapes),
        "widths": sum({rows for rows, _ in shapes}),
        **fields,
    }


_OF_TEXT = {"final_norm": 1, "ln_pre": 0, "patch_bias": 0}
"""Of these formulas, what a text tower has of an image tower's ends."""


def _of_images(config: ViTConfig) -> dict[str, int]:
    return {
        "P": config.patch,
        "N": config.grid**2 + (config.class_token and config.class_position),
        "F": config.width * (2 if config.pooling == "class+average" else 1),
        "final_norm": int(config.final_norm == "affine"),
        **{name: getattr(config, name) for name in ("class_token", "registers", "patch_bias", "ln_pre")},
    }


def documented_count(config: ViTConfig | TextConfig, method: Method) -> int:
    """The value of the documented formula for `method` on a backbone of this shape."""
    formula, _ = TABLE[METHODS.name_of(method)]
    return int(eval(formula, {"__builtins__": {}}, variables(config, method)))  # noqa: S307 - our own page
