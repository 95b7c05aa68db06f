"""Export as a PEFT LoRA adapter of a Hugging Face model: for methods that only add to linear layers.

A delta P Q^T is lora_B = P, lora_A = Q^T with lora_alpha = r; a vector that it adds to the bias is the bias of lora_B
(PEFT's lora_bias). KAdaptation's sum of n Kronecker products of rank-1 factors has such factors of rank n; any other
delta gets them from the singular values of its matrix, where these are few enough to be worth it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...nn.block import Slot, SlotLinear
from ...nn.deltas import Delta, ThinDelta
from ...nn.surgery import blocks, trainable
from ...nn.vit import ViT
from ...utils.errors import NotApplicable, NotMergeable
from ...utils.optional import package, quiet_transformers
from ...weights import CONVERTERS
from ...weights.catalog import backbones
from .certificate import TARGETS, Options, Program, Target
from .deployed import PlainHead, TrainedModel, plain_vit, write_head
from .hugging_face import LibraryModel, library_model, program, write_processor

BASE = "base"
LAYERS: dict[Slot, tuple[str, int]] = {
    **{slot: ("attention.qkv", i) for i, slot in enumerate(cast(tuple[Slot, ...], ("q", "k", "v")))},
    "o": ("attention.out", 0),
    "fc1": ("mlp.fc1", 0),
    "fc2": ("mlp.fc2", 0),
}
"""Slot -> our layer in a block, and which of the library's modules for that layer holds the slot."""


@dataclass(frozen=True)
class Update:
    """lora_A (R, D_in), lora_B (D_out, R) and the vector for the bias of one slot of one block."""

    block: int
    slot: Slot
    a: Tensor
    b: Tensor
    shift: Tensor | None


def updates_of(vit: ViT) -> list[Update]:
    """Every delta as a low-rank update.

    Raises NotApplicable when something else was changed, or the rank of a delta makes that pointless.
    """
    found = list(_updates(vit))
    ours = sum(len(list(layer.deltas.parameters())) for layer in vit.modules() if isinstance(layer, SlotLinear))
    inserted = any(len(cast(Any, block).inserted) for block in blocks(vit))
    outside = [name for name in trainable(vit) if ".deltas." not in name and not name.startswith("shared.")]
    if not (found and ours) or inserted or outside:
        what = "inserts modules" if inserted else "changes weights themselves" if outside else "changes no linear layer"
        raise NotApplicable(f"this method {what}, which a LoRA adapter cannot hold; export --to hf or onnx")
    return found


def _updates(vit: ViT) -> Iterator[Update]:
    for number, block in enumerate(blocks(vit)):
        for layer in block.modules():
            for slot, delta in layer.deltas.items() if isinstance(layer, SlotLinear) else ():
                p, q = factors(cast(Delta, delta))
                shift = cast(Delta, delta).bias()
                yield Update(number, cast(Slot, slot), q.T, p, None if shift is None else shift.detach().cpu())


@torch.no_grad()
def factors(delta: Delta) -> tuple[Tensor, Tensor]:
    """P (D_out, R) and Q (D_in, R) with P Q^T = the delta's matrix. Raises NotApplicable for a matrix of high rank."""
    if isinstance(delta, ThinDelta):
        p, q = delta.factors()
        return p.detach().cpu(), q.detach().cpu()
    return low_rank(delta.matrix().detach().cpu())


def low_rank(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """P (D_out, R) and Q (D_in, R) with P Q^T = `matrix` to fp32's precision. Raises NotApplicable when R is large."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = max(1, int((s > s[0] * 1e-7).sum()))
    if rank * sum(matrix.shape) > matrix.numel():
        raise NotApplicable(
            f"the update of a {matrix.shape[0]} x {matrix.shape[1]} matrix has rank {rank}, for which a LoRA adapter "
            "is larger than the matrix; export --to hf, which merges it"
        )
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).float(), (vt[:rank].T * root).float()


def module_names(library: LibraryModel, depth: int) -> dict[tuple[int, Slot], str]:
    """(block, slot) -> the name of the linear layer in the library's model."""
    rules = CONVERTERS[library.layout].rules_of(depth)
    return {
        (i, slot): library.family.prefix + rules[f"blocks.{i}.{layer}.weight"].theirs[place].removesuffix(".weight")
        for i in range(depth)
        for slot, (layer, place) in LAYERS.items()
    }


def hub_name(backbone: str) -> str | None:
    """The Hugging Face repository that a backbone comes from, if any."""
    row = backbones().get(backbone)
    names = row.sources if row else (backbone,)
    return next((name.removeprefix("hf:") for name in names if name.startswith("hf:")), None)


def _base(trained: TrainedModel) -> LibraryModel:
    """The transformers model of the backbone as it was before it was adapted, the trained head on it."""
    base = plain_vit(trained.base, trained, "a PEFT adapter")
    return library_model(copy.deepcopy(base).cpu(), PlainHead(trained.classifier.head), trained.info)


def _write(trained: TrainedModel, folder: Path, _: Options) -> None:
    peft = package("peft", "peft")
    library = _base(trained)
    vit = cast(ViT, trained.classifier.backbone)
    updates, names = updates_of(vit), module_names(library, vit.config.depth)
    rank, shifted = max(update.b.shape[1] for update in updates), any(u.shift is not None for u in updates)
    if shifted and not (vit.config.qkv_bias or all(u.slot not in ("q", "k", "v") for u in updates)):
        raise NotMergeable("the update has a bias and the layer has none; train with bias=false")
    repository = hub_name(trained.info.backbone)
    if repository is None:
        with quiet_transformers():
            library.model.save_pretrained(folder / BASE)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        lora_bias=shifted,
        target_modules=sorted({names[u.block, u.slot] for u in updates}),
        modules_to_save=["classifier"] if library.family.classifies else None,
    )
    with quiet_transformers():
        model = peft.get_peft_model(library.model, config)
    model.peft_config["default"].base_model_name_or_path = repository or BASE
    for update in updates:
        _fill(model.get_submodule(f"base_model.model.{names[update.block, update.slot]}"), update)
    with warnings.catch_warnings():  # PEFT takes the vector that is lora_B's bias for a damaged matrix
        warnings.filterwarnings("ignore", message=".*LoRA tensor.*have invalid shape")
        model.save_pretrained(folder, save_embedding_layers=False)
    write_processor(trained, folder)
    if not library.family.classifies:
        write_head(PlainHead(trained.classifier.head), folder, trained.info.classes)


@torch.no_grad()
def _fill(layer: Any, update: Update) -> None:
    """Write an update into PEFT's layer; columns that it does not need stay zero."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"]
    rank = update.b.shape[1]
    a.zero_()[:rank] = update.a
    b.weight.zero_()[:, :rank] = update.b
    if b.bias is not None:
        b.bias.copy_(torch.zeros_like(b.bias) if update.shift is None else update.shift)


def _reopen(folder: Path, trained: TrainedModel, _: Options) -> Program:
    peft, base = package("peft", "peft"), _base(trained).model
    with quiet_transformers():
        model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    return program(model, folder)


TARGETS.register("peft")(Target("PEFT LoRA", ("peft", "transformers"), _write, _reopen))
