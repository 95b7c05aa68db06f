"""How a head starts, as a value: apart from the head itself, so that reading a record imports no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Literal

from ..utils.errors import ConfigError
from ..utils.fields import build_changes, changes_text, named, parse_fields
from ..utils.registry import unknown


@dataclass(frozen=True)
class HeadSpec:
    """How a head starts, and what surrounds its linear layer.

    start: "zero", or "text": W = the text features of the classes, b = 0.
    norm: what happens to the features first: "standard" (centre and spread of the training images' features, fixed
      before training), "batch" (per-channel batch norm without weight and bias), or "none".
    length: "unit" then divides every feature vector by its length.
    scale: factor of the logits; "pretrained" is the one the text tower was trained with, "classes" is ln C.
    learn_scale: does the (logarithm of the) scale train?
    projection: "merged" folds the backbone's output projection P (E, D) into the head, W <- W P (C, D). A batch norm
      then stands before the projection, which is another network as soon as its statistics move.
    blocks: the head reads the pooled features of the last so many blocks of a vision transformer, one behind another;
      it reads all of them where there are fewer, and the features of other networks as they are.
    mirror: it reads the mean of the features of an image and of its mirror image.
    learnt: the "linear" layer; or it stays as it starts, and "keys" whose logits are added to its own are learnt (see
      `Head`), or "nothing".
    Raises ConfigError for parts that exclude each other.
    """

    start: Literal["zero", "text"] = "zero"
    norm: Literal["standard", "batch", "none"] = "standard"
    length: Literal["kept", "unit"] = "kept"
    scale: float | Literal["pretrained", "classes"] = 1.0
    learn_scale: bool = False
    projection: Literal["kept", "merged"] = "kept"
    blocks: int = 1
    mirror: bool = False
    learnt: Literal["linear", "keys", "nothing"] = "linear"

    def __post_init__(self) -> None:
        if self.start == "text" and (self.norm, self.length) == ("standard", "unit"):
            raise ConfigError("head: text features do not survive norm=standard with length=unit; choose one of them")
        if self.length == "unit" and self.projection == "merged":
            raise ConfigError(
                "head: length=unit needs the projection that projection=merged removes; choose one of them"
            )
        if self.blocks < 1:
            raise ConfigError(f"head: blocks must be at least 1, got {self.blocks}")
        if self.start == "text" and self.blocks > 1:
            raise ConfigError("head: text features fit the last block only; leave blocks out")
        if self.learnt == "nothing" and self.start != "text":
            raise ConfigError(
                "head: learnt=nothing leaves a head at zero, which tells no classes apart; start from text"
            )
        if self.learnt == "keys" and self.length != "unit":
            raise ConfigError("head: keys are compared with features of length 1; add length=unit")
        if isinstance(self.scale, (int, float)) and not 0 < self.scale < math.inf:
            raise ConfigError(f"head: scale must be a positive number, got {self.scale}")


ZERO = HeadSpec()
TEXT = HeadSpec("text", norm="none", length="unit", scale=100.0)
HEADS = {"zero": ZERO, "text": TEXT}
"""Named heads. "text" is, before training, exactly the zero-shot classifier: 100 times the cosine."""


def plain_head(head: HeadSpec) -> dict[str, object]:
    """The fields as plain values. Those that the first files did not have are left out at their defaults."""
    young = {"blocks": ZERO.blocks, "mirror": ZERO.mirror, "learnt": ZERO.learnt}
    return {name: value for name, value in dataclasses.asdict(head).items() if young.get(name) != value}


def parse_head(text: str) -> HeadSpec:
    """ "zero", "text", or "text:scale=pretrained,learn_scale=true" -> a HeadSpec. Raises UnknownName or ConfigError."""
    name, _, fields = text.partition(":")
    if name.strip() not in HEADS:
        raise unknown("head", name.strip(), HEADS)
    changes = build_changes(HeadSpec, parse_fields(fields), "head")
    return replace(HEADS[name.strip()], **changes)


def head_text(head: HeadSpec) -> str:
    """The shortest text from which `parse_head` makes `head` again."""
    return named(head.start, changes_text(dataclasses.asdict(head), dataclasses.asdict(HEADS[head.start])))
