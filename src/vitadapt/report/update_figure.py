"""A picture of what a run changed: the intrinsic dimension of each module's update by block, and how features moved."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from ..benchmark.post_hoc.updates import Updates
from ..utils.errors import ConfigError
from ..utils.files import write_atomic
from .plot import ENDINGS, drawing, new_figure


def draw_updates(found: Updates, title: str, path: Path) -> None:
    """Write the picture as .png, .svg or .pdf, as the name of `path` says. Raises ConfigError for another name."""
    modules = list(dict.fromkeys(update.module for update in found.updates))
    depth = len(found.similarity)
    grid = np.full((len(modules), depth), math.nan)
    for update in found.updates:
        if update.dimension is not None:
            grid[modules.index(update.module), update.block] = update.dimension
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise ConfigError(f"{path}: a picture ends in {', '.join(ENDINGS)}")
    buffer = io.BytesIO()
    with drawing():
        figure = new_figure((4.5 + 0.35 * depth, 4.0 + 0.3 * len(modules)))
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(max(1, len(modules)), 3))
        image = top.imshow(grid, aspect="auto", cmap="viridis")
        top.set_yticks(range(len(modules)), modules)
        figure.suptitle(title, fontsize=9)
        top.set_title("local intrinsic dimension of each update", loc="left")
        figure.colorbar(image, ax=top)
        below.plot(range(depth), found.similarity, marker="o")
        below.set(ylim=(0, 1.05), xlabel="block", ylabel="CKA")
        below.set_xticks(range(depth))
        figure.savefig(buffer, format=kind.removeprefix("."), dpi=160)
    write_atomic(path, buffer.getvalue())
