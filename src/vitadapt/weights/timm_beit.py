"""BEiT and BEiT-2 (Bao et al. 2022, Peng et al. 2022) in the names of timm and of their authors: relative positions."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..nn.surgery import State
from .converter import Converter
from .hints import Hints, Live, expect, square
from .rules import Rule
from .timm import check_patches, layout, live_of, pooling_of
from .timm_eva import ATTENTION, SCALES

_TABLE = "blocks.{i}.attn.relative_position_bias_table"
_SHARED = "rel_pos_bias.relative_position_bias_table"


def _documented(state: State) -> Hints:
    """Fine-tuned ones average the patches; those of the pretraining read the class token."""
    check_patches(state)
    average = "fc_norm.weight" in state
    heads = next(t for name, t in state.items() if name.endswith("relative_position_bias_table")).shape[1]
    return Hints(heads, "gelu", 1e-6, "average" if average else "class", average, True)


def _layouts(name: str, table: str) -> tuple[Converter, ...]:
    position = Rule("position", ("pos_embed",), "lead1", "absent")
    bias = Rule("blocks.{i}.attention.relative.table", (table,), "shared" if table == _SHARED else "same")
    rules, anchor = (position, *ATTENTION, *SCALES, bias), table.replace("{i}", "0")
    made = layout(name, rules, (anchor,), _documented, title="timm BEiT")
    spare = ("*relative_position_index", "lm_head.*", "cls_pt_layers.*")
    plain = (converter for converter in made if "swiglu" not in converter.name)
    return tuple(replace(converter, spare=(*converter.spare, *spare)) for converter in plain)


LAYOUTS = (*_layouts("timm-beit", _TABLE), *_layouts("timm-beit-shared", _SHARED))


def describe(module: nn.Module) -> Live | None:
    """A live BEiT of timm understood, or None for anything else. Raises WeightsError for what our ViT does not have."""
    if type(module).__module__.partition(".")[0] != "timm" or type(module).__name__ != "Beit":
        return None
    from timm.layers import Mlp
    from timm.models.beit import Attention, Beit, Block

    assert isinstance(module, Beit), "told by its name"
    expect(not module.patch_embed.dynamic_img_pad, "padding of images")
    for block in module.blocks:
        expect(type(block) is Block, f"blocks of class {type(block).__name__}")
        expect(type(block.attn) is Attention, f"attention of class {type(block.attn).__name__}")
        expect(type(block.mlp) is Mlp, f"an MLP of class {type(block.mlp).__name__}")
        both = block.attn.relative_position_bias_table is not None and module.rel_pos_bias is not None
        expect(not both, "relative positions both shared and of each block")
    return live_of(module, module, pooling_of(module), {"image_size": square(module.patch_embed.img_size)})
