"""Small random changes of training images, drawn from a generator and made on the device of the images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def jitter(images: Tensor, amount: float, flip: bool, generator: torch.Generator) -> Tensor:
    """Zoom, shift and perhaps mirror every image by itself: (B, 3, S, T), uint8 or 0..1 -> float 0..1, same shape.

    The side is scaled by exp(u) and the centre moved by v / 2 of the side in each direction, u and v uniform in
    [-amount, amount]; what comes in from outside repeats the border. With `flip` half of the images are mirrored
    left to right. Bilinear. The numbers are drawn on the CPU, so that a seed means the same on every device.
    """
    draws = 2 * torch.rand(len(images), 4, generator=generator) - 1  # zoom, shift x, shift y, mirror
    size = torch.exp(-amount * draws[:, 0])
    mirror = 1 - 2 * (draws[:, 3] < 0).float() if flip else torch.ones(len(images))
    transform = torch.zeros(len(images), 2, 3)  # from places in the new image to places in the old one, both in -1..1
    transform[:, 0, 0], transform[:, 1, 1] = size * mirror, size
    transform[:, :, 2] = amount * draws[:, 1:3]
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    grid = F.affine_grid(transform.to(pixels.device, non_blocking=True), list(images.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
