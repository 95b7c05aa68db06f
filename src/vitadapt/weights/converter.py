"""What all converters of image networks share: their tensors and ours, and the configuration that these describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch

from ..nn.surgery import State
from ..nn.vit import ViT, ViTConfig
from ..utils.errors import WeightsError, damaged
from .hints import NO_HINTS, Hints, config_of_tensors
from .layout import Layout, unwrapped
from .nearest import nearest_backbone

SILENT = frozenset({"rotary", "gated", "class_tokens", "resampling", "position_grid"})
"""Fields of `ViTConfig` with which the tensors of a plain ViT make another network."""

BESIDE = (
    *("head*", "*_head.*", "fc.*", "classifier.*", "*criterion*", "*loss*", "*metric*", "*momentum*", "*predictor*"),
    *("*projector*", "*queue*", "*decoder*", "text.*", "text_*", "transformer.*", "token_embedding.*", "ln_final.*"),
    *(
        "positional_embedding",
        "logit_scale",
        "logit_bias",
        "*attn_mask",
        "input_resolution",
        "context_length",
        "vocab_size",
    ),
)
"""Tensors outside an image network that have no influence on its features: heads, losses, text towers."""


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our words. `rest` holds the tensors we do not use, under their own names."""

    config: ViTConfig
    state: State
    rest: State
    layout: str
    prefix: str = ""


@dataclass(frozen=True)
class Converter(Layout):
    """One source's layout of a plain ViT's tensors, in both directions.

    `documented` gives the hints that the source's own documentation guarantees for the tensors at hand, and `class_row`
    says whether the source's positions hold a row for the class token ("free": either way). `takes` are the fields of
    `ViTConfig` of which no tensor tells and which networks of this layout may have at another value than a plain ViT.
    """

    documented: Callable[[State], Hints]
    class_row: Literal["free", "always", "unless registers"] = "free"
    takes: frozenset[str] = frozenset()

    def read(self, state: State, hints: Hints = NO_HINTS) -> Converted:
        """Their tensors -> ours; data types are kept.

        Raises WeightsError when a tensor is missing, does not fit its siblings or belongs to another kind of network,
        and when neither `hints` nor the source's documentation tell what tensors cannot.
        """
        prefix = self.prefix_of(state)
        if prefix is None:
            raise self.another()
        inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        self._refuse_outside([name for name in state if not name.startswith(prefix)], prefix)
        depth = self.depth_of(inside)
        ours, used = self.renamed(inside, depth)
        self.refuse_foreign(inside.keys() - used, lambda: nearest_backbone(ours, depth))
        config = self._config(ours, depth, hints.over(self.documented(inside)))
        self.check_shapes(ours, lambda: ViT(config), depth)
        taken = {prefix + name for name in used}
        rest = {name: tensor for name, tensor in state.items() if name not in taken}
        return Converted(config, ours, rest, self.name, prefix)

    def write(self, config: ViTConfig, state: State, prefix: str | None = None) -> State:
        """Our tensors -> theirs, the inverse of `read` (their names get `prefix`, by default the source's usual one).

        Raises WeightsError when the layout has no place for something that `config` has, or needs what it lacks.
        """
        prefix = self.prefixes[0] if prefix is None else prefix
        for name in sorted(SILENT - self.takes):
            if (value := getattr(config, name)) != getattr(ViTConfig, name):
                raise WeightsError(f"{self.title} cannot hold this model: it has no place for {name}={value}")
        left = self._positions(config, with_affine_norm(config, state))
        return self.written(left, config.depth, prefix)

    def under(self, part: str) -> Converter:
        """The same layout in a part of a whole: all names begin with `part`."""

        def documented(state: State) -> Hints:
            return self.documented({name.removeprefix(part): tensor for name, tensor in state.items()})

        return replace(
            self,
            rules=tuple(replace(rule, theirs=tuple(part + name for name in rule.theirs)) for rule in self.rules),
            block=part + self.block,
            anchors=tuple(part + anchor for anchor in self.anchors),
            documented=documented,
        )

    def _refuse_outside(self, names: list[str], prefix: str) -> None:
        """What stands beside the network may not be a part that changes its features, nor a second network."""
        wrapping = prefix[: len(prefix) - len(unwrapped(prefix))]
        second = [p for p in self.prefixes_in(dict.fromkeys(names)) if prefix not in self.prefixes]
        if second:
            raise WeightsError(
                f"there are two networks ({self.title}), {prefix}... and {second[0]}...; save the tensors of one alone"
            )
        for name in names:
            plain = name.removeprefix(wrapping)
            if not any(fnmatchcase(plain, pattern) for pattern in (*BESIDE, *self.spare)):
                raise WeightsError(
                    f"this {self.title} network ({prefix}...) stands beside {name}, which may change its features; "
                    "save the tensors of the network alone"
                )

    def _config(self, ours: State, depth: int, hints: Hints) -> ViTConfig:
        if unknown := hints.unknown():
            raise WeightsError(
                f"the tensors ({self.title}) do not tell {', '.join(unknown)}; add them to the name: "
                "file:PATH?like=NAME (NAME: a registered backbone of the same kind) or ?activation=gelu&mean=imagenet"
            )
        network = f"this {self.title} network"
        with damaged(network, "it cannot be converted exactly", WeightsError, "is not a plain ViT"):
            return config_of_tensors(ours, depth, hints)

    def _positions(self, config: ViTConfig, state: State) -> State:
        has_row = config.class_token and config.class_position
        if self.class_row == "always" and config.class_token and not has_row:
            row = torch.zeros_like(state["position"][:1])
            return state | {"position": torch.cat([row, state["position"]])}
        if self.class_row == "unless registers" and config.registers and has_row:
            first, patches = state["position"][0], state["position"][1:]  # the sum that ViT.embed would have formed
            return state | {"class_token": state["class_token"] + first, "position": patches.clone()}
        return dict(state)


def with_affine_norm(config: ViTConfig, state: State) -> State:
    """`state` whose final norm has a weight and a bias, the neutral ones when the model's norm is plain."""
    if config.final_norm != "plain":
        return dict(state)
    like = state["patches.weight"].flatten(1)[:, 0]
    neutral = {"norm.weight": torch.ones_like(like), "norm.bias": torch.zeros_like(like)}
    return state | {name: tensor for name, tensor in neutral.items() if name in ("norm.weight", *_biases(config))}


def _biases(config: ViTConfig) -> tuple[str, ...]:
    return ("norm.bias",) if config.norm == "layer" else ()
