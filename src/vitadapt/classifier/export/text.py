"""The text tower of a model whose method changed it, too, in the names of open_clip and of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from ...nn.surgery import merge
from ...text.layouts import TEXT_LAYOUTS
from ...utils.errors import NotMergeable
from .deployed import TrainedModel

FILE = "text.safetensors"
_LAYOUTS = {"open_clip": ("openai-clip", "open-clip-linear"), "hf": ("hf-clip", "hf-siglip")}
"""Target -> the layout of a text tower whose projection has no bias, and of one that has."""


def write_text(trained: TrainedModel, folder: Path, to: Literal["open_clip", "hf"]) -> None:
    """FILE with the merged text tower, where the method acted on it. Raises NotMergeable for what cannot be folded."""
    tower = trained.text_tower()
    if tower is None:
        return
    try:
        network = merge(tower.network).cpu()
    except NotMergeable as error:
        raise NotMergeable(f"the text tower: {error}") from error
    layout = TEXT_LAYOUTS[_LAYOUTS[to][network.config.projection_bias]]
    state = {name: tensor.contiguous() for name, tensor in layout.write(network).items()}
    save_file(state, folder / FILE, {"format": "pt"})
