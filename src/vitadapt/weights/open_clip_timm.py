"""open_clip's models whose image tower is a ViT of timm: SigLIP, the Perception Encoder, EVA-02, MobileCLIP2-L."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..nn.surgery import State
from ..utils.errors import WeightsError
from ..utils.optional import package
from . import openai_clip, timm, timm_eva
from .converter import Converter
from .hints import Hints, Live, expect
from .rules import Rule

_TRUNK = "trunk."


def _in_trunk(converter: Converter) -> Converter:
    """The layout of the tower: the same names in a trunk, whose classifier is the projection."""
    inner = converter.under(_TRUNK)
    projection = [Rule(f"projection.{k}", (f"{_TRUNK}head.{k}",), missing="absent") for k in ("weight", "bias")]

    def documented(state: State) -> Hints:
        if (_TRUNK + "head.weight" in state) != (_TRUNK + "head.bias" in state):
            raise WeightsError(f"incomplete checkpoint (open_clip): {_TRUNK}head has a weight or a bias, and not both")
        return inner.documented(state)

    return replace(
        inner,
        name=f"open-clip-{converter.name}",
        title=f"open_clip with {converter.title}",
        rules=(*inner.rules, *projection),
        documented=documented,
        prefixes=("visual.", "", "module.visual."),
        spare=(),
    )


LAYOUTS = tuple(_in_trunk(converter) for converter in (*timm_eva.LAYOUTS, *timm.VARIANTS))


def hints_of_open_clip(model: dict[str, Any], pretrained: dict[str, Any]) -> Hints:
    """What open_clip's configurations of a model and of its weights tell, whoever made its image tower.

    Raises WeightsError for what our ViT does not have.
    """
    vision = model["vision_cfg"]
    if "timm_model_name" not in vision:
        return openai_clip.hints_of_open_clip(model, pretrained)
    library = package("timm", "timm")
    name, proj = vision["timm_model_name"], vision.get("timm_proj", "linear")
    expect(proj in (None, "", "none"), f"a projection behind the timm image tower {name}")
    expect(library.is_model(name), f"the image tower {name}, which this timm lacks")
    with torch.device("meta"):  # its settings alone are asked for
        tower = library.create_model(name, global_pool=vision.get("timm_pool", "avg"), num_classes=0)
    live = timm_eva.describe(tower) or timm.describe(tower)
    if live is None:
        raise WeightsError(f"the image tower {name} is no vision transformer that can be converted; load timm:{name}")
    return replace(live.hints, preprocess=openai_clip.preprocess_of(pretrained))


def describe(module: nn.Module) -> Live | None:
    """A live open_clip model with a timm image tower, or that tower; None for anything else.

    Raises WeightsError for what our ViT does not have.
    """
    tower: Any = getattr(module, "visual", module)
    if type(tower).__module__ != "open_clip.timm_model" or type(tower).__name__ != "TimmModel":
        return None
    expect(not len(tower.head), "a projection behind the timm image tower")
    live = timm_eva.describe(tower.trunk) or timm.describe(tower.trunk)
    if live is None:
        return None
    return replace(live, tower=tower, features=tower.forward)
