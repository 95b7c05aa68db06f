"""All checkpoint layouts, and the three ways to use them: read a state dict, read a live module, write back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..nn.surgery import State
from ..nn.vit import Preprocess, ViT
from ..utils.errors import WeightsError
from ..utils.registry import unknown
from . import (
    hugging_face,
    hugging_face_config,
    hugging_face_parts,
    open_clip_timm,
    openai_clip,
    timm,
    timm_beit,
    timm_eva,
    timm_naflex,
)
from .converter import Converted, Converter
from .hints import NO_HINTS, Hints, Live, build, expect
from .layout import WRAPPING

CONVERTERS: dict[str, Converter] = {
    layout.name: layout
    for layout in (
        *openai_clip.LAYOUTS,
        *timm_beit.LAYOUTS,
        *timm_eva.LAYOUTS,
        *timm.LAYOUTS,
        *timm_naflex.LAYOUTS,
        *open_clip_timm.LAYOUTS,
        *hugging_face_parts.LAYOUTS,
        *hugging_face.LAYOUTS,
    )
}
"""Name -> layout, in the order in which they are tried."""

_DESCRIBE: tuple[Callable[[nn.Module], Live | None], ...] = (
    timm_beit.describe,
    timm_eva.describe,
    timm_naflex.describe,
    timm.describe,
    open_clip_timm.describe,
    openai_clip.describe,
    hugging_face_config.describe,
)
_ELSEWHERE = {
    "visual.layer1.0.conv1.weight": "a ResNet that does not pool by attention as CLIP's do; use timm:NAME",
    "visual.trunk.stem.0.bn.weight": "an open_clip model with a timm image tower that is no ViT; use timm:NAME",
    "model.embed_tokens.weight": "a language model",
    "token_embedding.weight": "only the text tower of a CLIP; the image tower (visual.*) is missing",
    "text_model.embeddings.token_embedding.weight": "only the text tower of a CLIP; the image tower is missing",
    "patches.weight": "a state dict of vitadapt's own ViT; write it with weights.write_state first",
}
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_SEED = 0


def layout_of(state: State) -> Converter:
    """The layout of a state dict. Raises WeightsError, naming what it is when that can be told."""
    for wrapped in (False, True):
        for converter in CONVERTERS.values():
            if converter.prefix_of(state, wrapped) is not None:
                return converter
    for converter in CONVERTERS.values():
        if prefixes := converter.prefixes_in(state):
            raise WeightsError(
                f"the names of its tensors begin with {prefixes[0]!r} where those of {converter.title} follow; remove "
                f"it (known and removed here: {', '.join(WRAPPING)})"
            )
    what = next((what for name, what in _ELSEWHERE.items() if name in state), "no known vision transformer")
    names = ", ".join(list(state)[:3])
    known = ", ".join(dict.fromkeys(converter.title for converter in CONVERTERS.values()))
    raise WeightsError(f"the tensors ({names}, ...) are {what}; known layouts: {known}")


def read_state(state: State, hints: Hints = NO_HINTS) -> Converted:
    """A state dict of any known layout in our words. Raises WeightsError (see `Converter.read`)."""
    return layout_of(state).read(state, hints)


def write_state(vit: ViT, layout: str, prefix: str | None = None) -> State:
    """The weights of `vit` in another library's layout; merge deltas first. Raises WeightsError and UnknownName."""
    if layout not in CONVERTERS:
        raise unknown("checkpoint layout", layout, CONVERTERS)
    return CONVERTERS[layout].write(vit.config, vit.state_dict(), prefix)


def from_module(module: nn.Module, preprocess: Preprocess | None = None) -> ViT:
    """A frozen float32 copy of a timm, open_clip or Hugging Face vision transformer, its classifier left out.

    `preprocess` overrides what the module says about its input; Hugging Face modules say nothing, and then the default
    of the library's own image processor for that class is used. Before the copy is returned its features are compared
    with the module's own on one random image. Raises WeightsError naming the feature that a plain ViT does not have.
    """
    live, converted = understand(module, preprocess)
    vit = build(converted.config, converted.state)
    _require_agreement(live, vit)
    return vit


def understand(module: nn.Module, preprocess: Preprocess | None = None) -> tuple[Live, Converted]:
    """What a live module's parts are, and its tensors in our words. Raises WeightsError (see `from_module`)."""
    live = next((live for live in (describe(module) for describe in _DESCRIBE) if live is not None), None)
    if live is None:
        raise WeightsError(
            f"{type(module).__name__} from {type(module).__module__} is not known; from_module converts timm's and "
            "open_clip's VisionTransformer and Hugging Face's CLIP, ViT and DINOv2 models"
        )
    hints = Hints(preprocess=preprocess).over(live.hints)
    if hints.preprocess is None:
        raise WeightsError("the module does not tell how images are normalised; pass preprocess=Preprocess(mean, std)")
    converted = read_state(live.tower.state_dict(), hints)
    expect(
        converted.config.image_size == live.image_size,
        f"inputs of {live.image_size} pixels, not a multiple of its patch size {converted.config.patch}",
    )
    return live, converted


def _require_agreement(live: Live, vit: ViT) -> None:
    parameter = next(live.tower.parameters())
    generator = torch.Generator().manual_seed(_SEED)
    image = torch.rand(1, 3, vit.image_size, vit.image_size, generator=generator)
    with torch.no_grad(), _evaluating(live.tower):
        theirs = live.features(vit.normalise(image).to(parameter.device, parameter.dtype)).float().cpu()
        ours = vit(image)
    expect(theirs.shape == ours.shape, f"features of shape {tuple(theirs.shape)} instead of {tuple(ours.shape)}")
    error, scale = float((theirs - ours).abs().max()), float(theirs.abs().max())
    limit = _TOLERANCE.get(parameter.dtype, 5e-2) * max(scale, 1e-3)
    expect(error <= limit, f"a part that was not recognised (features differ by {error:.1e})")


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
