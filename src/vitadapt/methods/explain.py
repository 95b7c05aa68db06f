"""What a method does, for the terminal: a drawing of a block with the places where it acts, and where it comes from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch

from ..nn.block import Block
from ..nn.changes import slot_layers
from ..nn.surgery import Method, adapt, blocks, towers_of, trainable
from ..nn.text_transformer import TextConfig, TextTransformer
from ..nn.vit import ViT, ViTConfig
from ..utils.errors import NotApplicable
from ..utils.files import shipped_table
from .registry import METHODS

SMALL = ViTConfig(width=768, depth=12, heads=12, patch=16)  # drawn on ViT-B/16, without numbers
TEXT = TextConfig(width=512, depth=12, heads=8, projection=512)
THAWED = {
    "norm1": ("norm1",),
    "norm2": ("norm2",),
    "attention.qkv": ("q", "k", "v"),
    "attention.out": ("o",),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
}
"""A part of a block whose own tensors may train -> what it is called in the drawing."""


@dataclass(frozen=True)
class About:
    """formula: the first line of the method's documentation. paper and when: of about.toml, empty for plugins."""

    name: str
    formula: str
    paper: str
    when: str
    drawing: str


def about(method: Method) -> About:
    """What there is to know of a method."""
    name = METHODS.name_of(method)
    row = shipped_table(__package__, "about.toml").get(name, {})
    formula = (inspect.getdoc(type(method)) or "").partition("\n")[0]
    return About(name, formula, row.get("paper", ""), row.get("when", ""), drawing(method))


def drawing(method: Method) -> str:
    """A block of ViT-B/16 as text, what the method changes or adds in brackets; found by adapting one, not by name.

    Of a method that changes the text tower alone, a block of that.
    """
    with torch.device("meta"):
        try:
            text = towers_of(method) == "text"
            vit = adapt(cast(ViT, TextTransformer(TEXT)) if text else ViT(SMALL), method)
        except NotApplicable as error:
            return str(error)
    places = set(_places(vit))
    acting = [number for number, block in enumerate(blocks(vit)) if set(_places_of_block(block))]
    where = "nothing in the backbone" if not places else "outside the blocks"
    if acting:
        last = f" to {acting[-1]}" if len(acting) > 1 else ""
        where = f"block {acting[0]}{last} of {SMALL.depth}, counted from 0"
    lines = [f"What it changes or adds, in [brackets]; {where}:", ""]
    lines += [_chain(places, ["words" if text else "patches", "positions", "tokens"])]
    for layer, norm, inside in (
        ("attention", "norm1", ["q", "k", "v", "softmax", "o"]),
        ("mlp", "norm2", ["fc1", "fc2"]),
    ):
        lines += _layer(places, layer, norm, inside)
    lines += [_chain(places, ["block", "side", "norm", "features"])]
    return "\n".join(lines)


def _places(vit: ViT) -> Iterator[str]:
    for block in blocks(vit):
        yield from _places_of_block(block)
    yield from vit.inserted
    if vit.tokens is not None:
        yield "tokens"
    if vit.side is not None:
        yield "side"
    own = {name.split(".")[0] for name in trainable(vit)}
    yield from own & {"patches", "norm"}
    yield from ["positions"] * ("position" in own)


def _places_of_block(block: Block) -> Iterator[str]:
    for layer in slot_layers(block):
        yield from layer.deltas
    yield from block.inserted
    if block.tokens is not None:
        yield "tokens"
    for name in trainable(block):
        yield from THAWED.get(name.rpartition(".")[0], ())


def _shown(places: set[str], name: str) -> str:
    return f"[{name}]" if name in places else name


def _chain(places: set[str], names: list[str]) -> str:
    optional = {"tokens", "block", "side"}
    return "  " + " ─ ".join(_shown(places, name) for name in names if name in places or name not in optional)


def _layer(places: set[str], layer: str, norm: str, inside: list[str]) -> list[str]:
    """Lines of a sub-layer: the way through it, what stands beside it, and the residual path."""
    through = [norm, *([f"{layer}-input"] if f"{layer}-input" in places else []), *inside]
    through += [layer] if layer in places else []
    top = " ─ ".join(_shown(places, name) for name in through)
    beside = [f"[{layer}-{kind}]" for kind in ("parallel", "residual") if f"{layer}-{kind}" in places]
    width = max(map(len, (top, *beside)))
    rows = [f"  ─┬─ {top} {'─' * (width - len(top))}─ + ─"]
    rows += [f"   ├─ {name} {'─' * (width - len(name))}─┤" for name in beside]
    return [*rows, f"   └{'─' * (width + 4)}┘"]
