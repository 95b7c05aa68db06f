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
    inner = config.attention_norm * config.width + config.qk_norm * 2 * (config.width // config.heads)
    shapes = [shape(config, slot) for slot in fields.pop("targets", ())]
    network = TextTransformer if isinstance(config, TextConfig) else ViT
    own = _of_images(config) if isinstance(config, ViTConfig) else _OF_TEXT
    return {
        "L": len(method.chosen_blocks(network(config))) if part else config.depth,
        "whole": int(not part),
        "D": config.width,
        "M": config.mlp_width,
        "E": config.projection,
        "norm": 2 if config.norm == "layer" else 1,
        "norms": 2 * config.width + inner + config.mlp_norm * config.mlp_width,
        "inner": inner,
        **{name: getattr(config, name) for name in ("qkv_bias", "linear_bias", "layer_scale", "gated")},
        **own,
        "text": int(isinstance(config, TextConfig)),
        "slots": len(shapes),
        "rows": sum(rows for rows, _ in shapes),
        "cols": sum(cols for _, cols in shapes),
        "sides": sum(min(sides) for sides in shapes),
        "widths": sum({rows for rows, _ in shapes}),
        **fields,
    }


_OF_TEXT = {"relative": 0, "final_norm": 1, "outer": 1, "patch_bias": 0, "projection_bias": 0, "pooled": 0, "Q": 0}
"""Of these formulas, what a text tower has of an image tower's ends."""


def _of_images(config: ViTConfig) -> dict[str, int]:
    pooled, final = int(config.pooling == "attention"), int(config.final_norm == "affine")
    return {
        "P": config.patch,
        "N": config.positions * (config.table_grid**2 + (config.class_token and config.class_position)),
        "F": config.pooled_width,
        "Q": pooled * (config.pool_hidden or 4 * config.width),
        "pooled": pooled,
        "final_norm": final,
        "outer": config.patch_norm + config.ln_pre + final + pooled,
        **{name: getattr(config, name) for name in ("class_token", "registers", "patch_bias", "channels")},
        "projection_bias": config.projection_bias,
        "relative": config.heads * ((2 * grid - 1) ** 2 + 3) if (grid := config.relative_grid) else 0,
    }


def documented_count(config: ViTConfig | TextConfig, method: Method) -> int:
    """The value of the documented formula for `method` on a backbone of this shape."""
    formula, _ = TABLE[METHODS.name_of(method)]
    return int(eval(formula, {"__builtins__": {"min": min}}, variables(config, method)))  # noqa: S307 - our own page
