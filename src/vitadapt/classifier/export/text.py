"""The text tower of a model whose method changed it, too: named as in open_clip and Hugging Face, and compared."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from ...nn.surgery import merge
from ...text.layouts import TEXT_LAYOUTS
from ...text.prompts import DEFAULT_TEMPLATES, fill, in_words
from ...training.adapter_file import AdapterInfo
from ...utils.errors import NotMergeable
from .comparison import Run
from .deployed import TrainedModel

FILE = "text.safetensors"
_LAYOUTS = {"open_clip": ("openai-clip", "open-clip-linear"), "hf": ("hf-clip", "hf-siglip")}
"""Target -> the layout of a text tower whose projection has no bias, and of one that has."""
_MOST = 64  # classes whose sentences are read twice for a certificate


def write_text(trained: TrainedModel, folder: Path, to: Literal["open_clip", "hf"]) -> None:
    """FILE with the merged text tower, where the method acted on it. Raises NotMergeable for what cannot be folded."""
    tower = trained.text_tower
    if tower is None:
        return
    try:
        network = merge(copy.deepcopy(tower.network)).cpu()
    except NotMergeable as error:
        raise NotMergeable(f"the text tower: {error}") from error
    layout = TEXT_LAYOUTS[_LAYOUTS[to][network.config.projection_bias]]
    state = {name: tensor.contiguous() for name, tensor in layout.write(network).items()}
    save_file(state, folder / FILE, {"format": "pt"})


def class_sentences(info: AdapterInfo) -> list[str]:
    """One sentence about each of the first classes, 64 at most: what the exported text tower is asked."""
    names = info.names or [in_words(name) for name in info.classes]
    template = (info.templates or DEFAULT_TEMPLATES)[0]
    return [fill(template, name) for name in names[:_MOST]]


@torch.no_grad()
def text_difference(trained: TrainedModel, run: Run) -> float:
    """The largest difference of the features of the class sentences, our tower's and `run`'s, in the largest of ours.

    run: token numbers (N, L) -> features (N, E), by the library.
    """
    tower = trained.text_tower
    assert tower is not None, "one was exported"
    tokens = tower.tokenise(class_sentences(trained.info))
    wanted = tower.encode_tokens(tokens)
    return float((run(tokens) - wanted).abs().max() / wanted.abs().max())
