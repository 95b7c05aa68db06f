"""Ingredients of a training that a recipe may ask for: noise in the network, mixed images, rates by depth, averages.

All are off unless a recipe names them. What was measured of each: docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..nn.block import Block
from ..nn.changes import slot_layers, unchanged_blocks
from ..nn.perturbation import Perturbation
from ..nn.surgery import blocks, seeded, trainable
from ..nn.transformer import Transformer
from .augmentation import jitter
from .recipe import Recipe


@dataclass(frozen=True)
class Blend:
    """Image i of a batch is `share` of itself and 1 - share of image `partner[i]`."""

    partner: Tensor
    share: float


def _towers(model: nn.Module) -> list[Transformer]:
    return [part for part in model.modules() if isinstance(part, Transformer)]


@contextmanager
def at_work(model: nn.Module, recipe: Recipe, seed: int, epoch: int) -> Iterator[None]:
    """Within the block `model` trains with the recipe's noise; every epoch has random numbers of its own.

    drop_path grows with depth from the first block that the method changes to the last, noise falls with depth.
    """
    towers = _towers(model) if recipe.dropout or recipe.noise or recipe.drop_path else []
    for tower in towers:
        first, depth = unchanged_blocks(tower) or 0, tower.config.depth
        for number, block in enumerate(blocks(tower)):
            deep = (number - first + 1) / max(1, depth - first)
            if number >= first:
                noise = recipe.noise * (1 - number / depth)
                _set(block, Perturbation(recipe.dropout, noise, recipe.drop_path * deep))
    try:
        with seeded((seed * 1_000_003 + epoch) % 2**63):
            yield
    finally:
        for tower in towers:
            for block in blocks(tower):
                _set(block, None)


def _set(block: Block, perturbation: Perturbation | None) -> None:
    block.perturbation = perturbation
    for layer in slot_layers(block):
        layer.perturbation = perturbation


def augmented(batch: Tensor, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Blend | None]:
    """Training images (B, 3, S, T) changed as the recipe says, and how they were mixed; other inputs as they are."""
    if batch.ndim != 4:
        return batch, None
    if recipe.crop or recipe.colour:
        batch = _by_torchvision(batch, recipe)
    if recipe.jitter or recipe.flip:
        batch = jitter(batch, recipe.jitter, recipe.flip, generator)
    if not (recipe.mixup or recipe.cutmix):
        return batch, None
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    partner = torch.from_numpy(draw.permutation(len(batch))).to(batch.device)
    cut = bool(recipe.cutmix) and (not recipe.mixup or draw.random() < 0.5)
    strength = recipe.cutmix if cut else recipe.mixup
    share = float(draw.beta(strength, strength))
    pixels = batch.float() / 255 if batch.dtype == torch.uint8 else batch
    if not cut:
        return share * pixels + (1 - share) * pixels[partner], Blend(partner, share)
    height, width = pixels.shape[-2:]
    sides = [round(side * (1 - share) ** 0.5) for side in (height, width)]
    top, left = (int(draw.integers(0, whole - side + 1)) for whole, side in zip((height, width), sides, strict=True))
    mixed = pixels.clone()
    window = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
    mixed[window] = pixels[partner][window]
    return mixed, Blend(partner, 1 - sides[0] * sides[1] / (height * width))


def _by_torchvision(batch: Tensor, recipe: Recipe) -> Tensor:
    """Every image with colours and a crop of its own."""
    from torchvision.transforms import v2

    steps: list[nn.Module] = []
    if recipe.crop:
        steps.append(v2.RandomResizedCrop(batch.shape[-2:], scale=(recipe.crop, 1.0), antialias=True))
    if recipe.colour:
        steps.append(v2.ColorJitter(recipe.colour, recipe.colour, recipe.colour))
    change = v2.Compose(steps)
    return torch.stack([cast(Tensor, change(image)) for image in batch])


def rate_factors(model: nn.Module, recipe: Recipe) -> dict[int, float]:
    """id of a tensor -> the factor of its learning rate: layer_decay for each block between it and the output."""
    return {
        id(p): recipe.layer_decay ** (tower.config.depth - 1 - number)
        for tower in (_towers(model) if recipe.layer_decay else [])
        for number, block in enumerate(blocks(tower))
        for p in block.parameters()
    }


@torch.no_grad()
def average(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, done: bool = False) -> None:
    """Go on with the moving average of every trained tensor, which is kept with the optimiser's state; or use it."""
    for parameter in trainable(model).values() if recipe.ema else ():
        state = optimizer.state[parameter]
        if done and "average" in state:
            parameter.copy_(state["average"])
        elif not done:
            state["average"] = torch.lerp(parameter, state.get("average", parameter), recipe.ema)
