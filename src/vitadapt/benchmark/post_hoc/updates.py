"""What a finished run changed: how much in each module, in how many directions, and what that does to the features.

norm: |W' - W| / |W| (Frobenius). rank: singular values of W' - W above 1e-5 of the largest; stable rank: the sum of
their squares over the square of the largest. dimension: local intrinsic dimension of what the module's update adds to
the tokens of images, by maximum likelihood (Levina and Bickel 2004, averaged as MacKay and Ghahramani 2005 advise).
similarity: linear CKA of frozen and adapted tokens behind each block (Kornblith et al. 2019). An analysis, never a
choice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from ...data import open_dataset
from ...nn.block import CHANGING, SlotLinear
from ...nn.changes import slot_layers
from ...nn.head import backbone_of
from ...nn.surgery import blocks
from ...nn.vit import ViT
from ...training.adapter_file import load_adapter
from ...training.features import Environment, cached_backbone, pixels_of
from ...utils.errors import ConfigError, NotApplicable
from ..config import RunConfig
from ..results.record import Record
from ..results.store import Store
from ..transfer import trained_on

NEIGHBOURS = 20
BATCH = 32
Points = dict[tuple[int, str], list[Tensor]]


@dataclass(frozen=True)
class Update:
    """The change of one slot, or one inserted module, of one block; None where it does not apply or is not known."""

    block: int
    module: str
    norm: float | None
    rank: int | None
    stable_rank: float | None
    dimension: float | None


@dataclass(frozen=True)
class Updates:
    """Everything that a run changed in its blocks; similarity: one number for each block."""

    updates: list[Update]
    similarity: list[float]
    images: int


def analyse(record: Record, store: Store, environment: Environment | None = None, images: int = 256) -> Updates:
    """The updates of a finished run, on up to so many of its test images, evenly chosen.

    Raises ConfigError when the run has no adapter, NotApplicable for a network without blocks, or without changes in
    them.
    """
    environment = environment or Environment()
    if "adapters" not in record.files:
        raise ConfigError(f"{record.digest}: has no adapter ({record.status}); nothing to analyse")
    config = RunConfig.from_dict(record.config)
    device = environment.setting.device
    backbone, base = cached_backbone(config.backbone, config.image_size, device)
    adapted = load_adapter(store.path("adapters", record.digest), backbone, base).backbone
    bare = backbone_of(backbone, config.head_spec)
    if not (isinstance(adapted, ViT) and isinstance(bare, ViT)):
        raise NotApplicable(f"{type(adapted).__name__} has no blocks to look into")
    split = trained_on(config, open_dataset(config.dataset, environment.data_root))
    pixels = pixels_of(split.splits["test"], backbone, environment, split.squash)
    rows = torch.linspace(0, len(pixels) - 1, min(images, len(pixels))).long()
    return updates_of(adapted, bare, [pixels.gather(part).to(device) for part in rows.split(BATCH)])


@torch.no_grad()
def updates_of(adapted: ViT, bare: ViT, batches: list[Tensor]) -> Updates:
    """The updates between `bare` and `adapted`, on images (B, 3, S, S) in batches. Raises NotApplicable without any."""
    matrices = {(n, slot): change for n in range(adapted.config.depth) for slot, change in _matrices(adapted, bare, n)}
    seen, before, after = defaultdict[tuple[int, str], list[Tensor]](list), [], []
    for images in batches:
        before.append(_run(bare, images, {}, defaultdict(list)))
        after.append(_run(adapted, images, matrices, seen))
    found = []
    for number, block in enumerate(blocks(adapted)):
        for module in [*(slot for n, slot in matrices if n == number), *block.inserted]:
            points = seen.get((number, module))
            dimension = intrinsic_dimension(torch.cat(points).double().cpu().numpy()) if points else None
            change = matrices.get((number, module))
            norm, rank, stable = (None, None, None) if change is None else _size(change[0], change[2])
            found.append(Update(number, module, norm, rank, stable, dimension))
    if not found:
        raise NotApplicable("the method changes no linear layer and inserts no module in a block")
    depth = adapted.config.depth
    features = [[torch.cat([part[i] for part in parts]).double() for i in range(depth)] for parts in (before, after)]
    similarity = [cka(a.cpu().numpy(), b.cpu().numpy()) for a, b in zip(*features, strict=True)]
    return Updates(found, similarity, sum(map(len, batches)))


def _matrices(adapted: ViT, bare: ViT, number: int) -> Iterator[tuple[str, tuple[Tensor, Tensor | None, Tensor]]]:
    """Slot -> (change of its weight, of its bias, weight) for the slots that changed."""
    pairs = zip(*(slot_layers(blocks(vit)[number]) for vit in (adapted, bare)), strict=True)
    for layer, plain in pairs:
        for slot in layer.slots:
            (weight, bias), (old, old_bias) = layer.original(slot), plain.original(slot)
            change, shift = weight - old, None if bias is None or old_bias is None else bias - old_bias
            if slot in layer.deltas:
                delta: Any = layer.deltas[slot]
                change, more = change + delta.matrix(), delta.bias()
                shift = more if shift is None else shift if more is None else shift + more
            if change.any() or (shift is not None and shift.any()):
                yield slot, (change, shift, old)


def _run(vit: ViT, images: Tensor, matrices: dict[Any, Any], seen: Points) -> list[Tensor]:
    """The first token (B, D) behind every block; and in `seen` what each update adds to it."""
    outputs: list[Tensor] = []
    handles = []
    for number, block in enumerate(blocks(vit)):
        handles.append(block.register_forward_hook(lambda module, given, made: outputs.append(made[:, 0])))
        for layer in slot_layers(block) if matrices else ():
            handles.append(layer.register_forward_hook(_of_a_layer(number, matrices, seen)))
        for place, module in block.inserted.items() if matrices is not None else ():
            handles.append(module.register_forward_hook(_of_a_module(number, place, seen)))
    try:
        vit(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs[: vit.config.depth]


def _of_a_layer(number: int, matrices: dict[Any, Any], seen: Points) -> Any:
    def hook(layer: SlotLinear, given: tuple[Any, ...], made: Any) -> None:
        for slot in given[1] if len(given) > 1 and given[1] else layer.slots:
            if (number, slot) in matrices:
                change, shift, _ = matrices[number, slot]
                seen[number, slot].append(F.linear(given[0][:, 0], change, shift))

    return hook


def _of_a_module(number: int, place: str, seen: Points) -> Any:
    def hook(module: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
        seen[number, place].append(made[:, 0] - given[0][:, 0] if place in CHANGING else made[:, 0])

    return hook


def _size(change: Tensor, weight: Tensor) -> tuple[float, int, float]:
    """(relative norm, rank, stable rank) of the change of a weight."""
    values = torch.linalg.svdvals(change.double())
    largest = float(values[0])
    if not largest:
        return 0.0, 0, 0.0
    norm = float(change.norm() / weight.norm())
    return norm, int((values > 1e-5 * largest).sum()), float(values.square().sum()) / largest**2


def intrinsic_dimension(points: npt.NDArray[np.float64], k: int = NEIGHBOURS) -> float | None:
    """Of points (N, D): 1 / mean of log(T_k / T_j) over points and j < k, T_j the distance to the j-th neighbour.

    None with fewer than k + 2 different points.
    """
    points = np.unique(points, axis=0)
    if len(points) < k + 2:
        return None
    nearest = np.sort(cdist(points, points), axis=1)[:, 1 : k + 1]
    logs = np.log(nearest[:, -1:] / np.maximum(nearest[:, :-1], 1e-300))
    return float(1 / logs.mean()) if logs.mean() > 0 else None


def cka(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Linear centred kernel alignment of features (N, D) and (N, E): 1 when one is the other turned and scaled."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    both = np.linalg.norm(y.T @ x) ** 2
    return float(both / max(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y), 1e-300))
