"""Where a classifier looks: one number per patch of an image, and a picture of them.

The network itself never builds its attention weights (`scaled_dot_product_attention`), so each block is gone through
again part by part, with all that a method added; `with_attention` gives the same numbers as the block.

rollout: attention with the residual path as half of it, multiplied from the first block to the last (Abnar & Zuidema
2020). The same for every class. gradient: attention weighted by its gradient for one class, positive parts only,
accumulated over the blocks (Chefer et al. 2021); the gradient is the mean over attention that grows from nothing (Hao
et al. 2021), for at its full strength a sure network hardly depends on any one weight. input: gradient for one class by
the pixels, times their distance from the mean; works with every backbone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..utils.errors import ConfigError, NotApplicable
from ..utils.registry import unknown
from .block import Block, append_tokens
from .head import Classifier
from .relative import Places
from .vit import ViT

COLOURS = ((48, 18, 59), (70, 107, 227), (40, 187, 236), (49, 242, 153), (163, 252, 60), (237, 208, 58), (251, 128, 34))
"""From cold to hot; the ends of the scale are told apart in grey, too."""
STEPS = 8  # strengths of attention over which its gradient is averaged
INPUT_GRID = 16  # squares along one side of a heat map of the input's gradient, unless there are patches


def with_attention(
    block: Block, x: Tensor, strength: float = 1.0, places: Places | None = None
) -> tuple[Tensor, Tensor]:
    """(the block's output (B, N, D), its attention weights (B, H, M, M)) of tokens x (B, N, D).

    M is N and the number of tokens that a method added to this block. With another `strength` than 1 the weights act as
    if they were multiplied by it.
    """
    attention, n = block.attention, x.shape[1]
    if block.tokens is not None:
        x = append_tokens(x, block.tokens)
    normed = block.enter("attention", x)
    q, k, v = attention.input(normed, places=places)
    mixed, weights = _mixed(q, k, v, strength, attention.bias(places, k.shape[2], q.shape[2]))
    x = block.extend("attention", x, normed, block.scale1(attention.output(mixed)))
    normed = block.enter("mlp", x)
    x = block.extend("mlp", x, normed, block.scale2(block.mlp(normed)))
    return block.leave(x, n), weights


def _mixed(q: Tensor, k: Tensor, v: Tensor, strength: float, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(strength * weights v, weights) of queries, keys and values (B, H, M, D/H); `bias` (H, M, M) as in `relative`."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return strength * weights @ v, weights


def explain(model: Classifier, images: Tensor, kind: str = "gradient", target: int | None = None) -> Tensor:
    """Heat (B, h, w), 0 to 1 within each image, of images (B, 3, S, S); `target` None asks for the most probable class.

    Raises UnknownName for a kind that does not exist, NotApplicable for attention of a network that has none,
    ConfigError for a class that does not exist.
    """
    if kind not in HEATS:
        raise unknown("kind of explanation", kind, HEATS)
    classes = model.head.linear.out_features
    if target is not None and not 0 <= target < classes:
        raise ConfigError(f"class {target} does not exist; there are {classes}, counted from 0")
    training = model.training
    heat = HEATS[kind](model.eval(), images.to(next(model.parameters()).device), target)
    model.train(training)
    low, high = heat.amin(dim=(1, 2), keepdim=True), heat.amax(dim=(1, 2), keepdim=True)
    return ((heat - low) / (high - low).clamp_min(1e-12)).detach().cpu()


def rollout(model: Classifier, images: Tensor, target: int | None) -> Tensor:
    """(B, h, w) share of each patch in the tokens that are read; `target` plays no part."""
    with torch.no_grad():
        n, _, maps, reading = _attentions(_vit(model), images)
        own = torch.eye(n, device=images.device)
        flow = own.expand(len(images), -1, -1)
        for weights in maps:
            mean = weights[..., :n, :n].mean(dim=1)  # (B, H, M, M) -> (B, N, N): added tokens show no part of the image
            flow = (mean + own) / 2 @ flow
    return _to_patches(_vit(model), flow, images, reading)


def gradient(model: Classifier, images: Tensor, target: int | None) -> Tensor:
    """(B, h, w) relevance of each patch for one class. A mirror image that the head reads, too, is left out."""
    vit = _vit(model)
    with torch.no_grad():
        chosen = _targets(model(images), target)
        n, _, weights, reading = _attentions(vit, images)
    slopes = [torch.zeros_like(part) for part in (*weights, *reading)]
    for step in range(1, STEPS + 1):
        with torch.enable_grad():
            _, features, maps, read = _attentions(vit, images, step / STEPS)
            found = torch.autograd.grad(_sum(model.head(features), chosen), [*maps, *read])
        for total, slope in zip(slopes, found, strict=True):
            total += slope / STEPS
    own = torch.eye(n, device=images.device)
    relevance = own.expand(len(images), -1, -1)
    for part, slope in zip(weights, slopes, strict=False):
        positive = (part * slope)[..., :n, :n].clamp_min(0).mean(dim=1)  # (B, H, M, M) -> (B, N, N)
        relevance = relevance + positive @ relevance
    if reading:
        return _to_patches(vit, relevance, images, [(reading[0] * slopes[-1]).clamp_min(0)])
    return _to_patches(vit, relevance - own, images)  # what a token is to itself says nothing about the class


def input_gradient(model: Classifier, images: Tensor, target: int | None) -> Tensor:
    """(B, h, w) mean over each patch of |gradient by a pixel x its distance from the image's mean|."""
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    with torch.enable_grad():
        pixels = pixels.detach().requires_grad_()
        logits = model(pixels)
        (slope,) = torch.autograd.grad(_sum(logits, _targets(logits, target)), pixels)
    middle = pixels.mean(dim=(2, 3), keepdim=True)
    strength = (slope * (pixels - middle)).detach().abs().sum(dim=1, keepdim=True)  # (B, 1, S, S)
    backbone = model.backbone
    if isinstance(backbone, ViT):
        return F.avg_pool2d(strength, backbone.config.patch)[:, 0]
    return F.adaptive_avg_pool2d(strength, INPUT_GRID)[:, 0]


HEATS: dict[str, Callable[[Classifier, Tensor, int | None], Tensor]] = {
    "gradient": gradient,
    "rollout": rollout,
    "input": input_gradient,
}


def _vit(model: Classifier) -> ViT:
    backbone = model.backbone
    if isinstance(backbone, ViT):
        return backbone
    raise NotApplicable(f"{type(backbone).__name__} has no attention to look at; use --kind input with this backbone")


def _attentions(vit: ViT, images: Tensor, strength: float = 1.0) -> tuple[int, Tensor, list[Tensor], list[Tensor]]:
    """The number of tokens N, the features (B, E), every block's attention weights (see `with_attention`), and those
    (B, H, 1, N) of the pooling of the last block, where it pools by attention."""
    x = vit.embed(images)
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()  # nothing need be trainable for the weights to have gradients
    maps, pooled, state = list[Tensor](), list[Tensor](), None
    reading = list[Tensor]()
    places = vit.places(images)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed, weights = _mixed(q, k, v, strength)
        reading[:] = [weights]
        return mixed

    for number, block in enumerate(vit.blocks):
        x, weights = with_attention(cast(Block, block), x, strength, places)
        x, state = vit.beside(number, x, state)
        maps.append(weights)
        if len(maps) > vit.config.depth - vit.config.pooled_blocks:
            pooled.append(vit.pool(x, attend))
    return x.shape[1], torch.cat(pooled, dim=-1), maps, reading


def _targets(logits: Tensor, target: int | None) -> Tensor:
    """(B,) the class asked for; each image's most probable one for None."""
    return logits.argmax(dim=1) if target is None else torch.full((len(logits),), target, device=logits.device)


def _sum(logits: Tensor, classes: Tensor) -> Tensor:
    """The sum over images of the logit (B, C) of its class (B,): no image's gradient depends on another."""
    return logits.gather(1, classes[:, None]).sum()


def _to_patches(vit: ViT, flow: Tensor, images: Tensor, reading: Sequence[Tensor] = ()) -> Tensor:
    """How much the patches (columns) give to the tokens that pooling reads (rows): (B, N, N) -> (B, h, w).

    `reading`: how much pooling by attention reads each token, (B, H, 1, N).
    """
    config = vit.config
    h, w = (side // config.patch for side in images.shape[2:])
    patches = slice(config.prefix, config.prefix + h * w)
    if reading:
        shares = reading[0].mean(dim=1)  # (B, H, 1, N) -> (B, 1, N); added tokens are not read
        rows = (shares @ flow[:, : shares.shape[-1]])[:, 0]
        return cast(Tensor, rows[:, patches].unflatten(1, (h, w)))
    read = {"class": flow[:, : config.class_tokens].mean(dim=1), "average": flow[:, patches].mean(dim=1)}
    rows = read["class"] + read["average"] if config.pooling == "class+average" else read[config.pooling]
    return cast(Tensor, rows[:, patches].unflatten(1, (h, w)))


def overlay(image: Image.Image, heat: Tensor, strength: float = 0.62) -> Image.Image:
    """`image` in grey where it is cold, and in the heat's colours where it is warm; heat (h, w) in 0..1."""
    rgb = np.asarray(image.convert("RGB"), dtype=np.float32)
    height, width = rgb.shape[:2]
    smooth = F.interpolate(heat[None, None].float(), size=(height, width), mode="bicubic", align_corners=False)
    warmth = smooth[0, 0].clamp(0, 1).numpy()
    places = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(warmth, places, channel) for channel in np.array(COLOURS).T], axis=-1)
    grey = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    base = 0.55 * np.repeat(grey[..., None], 3, axis=2) + 0.45 * rgb
    part = strength * (0.35 + 0.65 * warmth[..., None])
    return Image.fromarray(np.rint(base * (1 - part) + colours * part).clip(0, 255).astype(np.uint8))


def side_by_side(image: Image.Image, heat: Tensor, gap: int = 12) -> Image.Image:
    """What the model sees, and the same under its heat."""
    width, height = image.size
    sheet = Image.new("RGB", (2 * width + gap, height), "white")
    sheet.paste(image.convert("RGB"), (0, 0))
    sheet.paste(overlay(image, heat), (width + gap, 0))
    return sheet
