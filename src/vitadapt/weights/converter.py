"""The shape that all converters share: a table of renaming rules that is read in both directions.

A converter is data. Reading is closed-world: a tensor that no rule takes and that is not listed as irrelevant to image
features is refused, so that a network which only resembles a plain ViT is never converted to something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch

from ..nn.surgery import State
from ..nn.vit import ViTConfig
from ..utils.errors import WeightsError, damaged
from ..utils.files import shipped_table
from .hints import NO_HINTS, Hints, config_of_tensors, shapes_of
from .rules import Rule

SILENT = frozenset({"rotary", "gated", "class_tokens", "resampling", "position_grid"})
"""Fields of `ViTConfig` with which the tensors of a plain ViT make another network."""

WRAPPING = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
"""What training programs put before all names: DataParallel, torch.compile, Lightning and others."""

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


def _unwrapped(prefix: str) -> str:
    """`prefix` without what training programs put before names."""
    while outer := next((p for p in WRAPPING if prefix.startswith(p)), ""):
        prefix = prefix[len(outer) :]
    return prefix


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our words. `rest` holds the tensors we do not use, under their own names."""

    config: ViTConfig
    state: State
    rest: State
    layout: str
    prefix: str = ""


@dataclass(frozen=True)
class Converter:
    """One source's layout of a plain ViT's tensors, in both directions.

    `anchors` are the tensors that tell this layout from the others, `block` is what stands before a block's number,
    `documented` gives the hints that the source's own documentation guarantees for the tensors at hand, `spare` are
    patterns of tensors without influence on image features, and `class_row` says whether the source's positions hold
    a row for the class token ("free": either way). `takes` are the fields of `ViTConfig` of which no tensor tells and
    which networks of this layout may have at another value than a plain ViT.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    block: str
    anchors: tuple[str, ...]
    documented: Callable[[State], Hints]
    prefixes: tuple[str, ...] = ("",)
    spare: tuple[str, ...] = ()
    class_row: Literal["free", "always", "unless registers"] = "free"
    takes: frozenset[str] = frozenset()

    def prefix_of(self, state: Mapping[str, Any], wrapped: bool = True) -> str | None:
        """What stands before this layout's names in `state`; None when it is another layout.

        Only the source's own prefixes count, or also, when `wrapped`, those that training programs put before them.
        """
        own = (p for p in self.prefixes if all(p + anchor in state for anchor in self.anchors))
        found = next(own, None)
        if found is None and wrapped:
            found = next((p for p in self.prefixes_in(state) if _unwrapped(p) in self.prefixes), None)
        return found

    def prefixes_in(self, state: Mapping[str, Any]) -> list[str]:
        """Whatever stands before the names of this layout's tensors in `state`; the shortest first."""
        first, *others = self.anchors
        found = {name.removesuffix(first) for name in state if name.endswith(first)}
        return sorted((p for p in found if all(p + anchor in state for anchor in others)), key=len)

    def read(self, state: State, hints: Hints = NO_HINTS) -> Converted:
        """Their tensors -> ours; data types are kept.

        Raises WeightsError when a tensor is missing, does not fit its siblings or belongs to another kind of network,
        and when neither `hints` nor the source's documentation tell what tensors cannot.
        """
        prefix = self.prefix_of(state)
        if prefix is None:
            raise WeightsError(f"not {self.title}: expected tensors named {', '.join(self.anchors)}")
        inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        self._refuse_outside([name for name in state if not name.startswith(prefix)], prefix)
        depth = self._depth(inside)
        ours, used = self._rename(inside, depth)
        self._refuse_foreign(inside.keys() - used)
        config = self._config(ours, depth, hints.over(self.documented(inside)))
        self._check_shapes(ours, config)
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
        theirs: State = {}
        for rule in self._expanded(config.depth):
            if rule.ours not in left and rule.missing == "zeros":
                left[rule.ours] = torch.zeros_like(left[rule.ours.removesuffix("bias") + "weight"].flatten(1)[:, 0])
            if rule.ours in left:
                parts = rule.write(left.pop(rule.ours), prefix)
                theirs |= {n: torch.cat([theirs[n], part]) if n in theirs else part for n, part in parts.items()}
            elif rule.missing == "error":
                raise WeightsError(f"{self.title} cannot hold this model: it needs {rule.ours}, which the model lacks")
        if left:
            raise WeightsError(f"{self.title} cannot hold this model: it has no place for {min(left)}")
        return theirs

    def rules_of(self, depth: int) -> dict[str, Rule]:
        """Our name of every tensor of a network of `depth` blocks -> the rule for it."""
        return {rule.ours: rule for rule in self._expanded(depth)}

    def _expanded(self, depth: int) -> Iterator[Rule]:
        for rule in self.rules:
            if "{i}" in rule.ours:
                yield from (rule.at(block) for block in range(depth))
            else:
                yield rule

    def _depth(self, inside: Mapping[str, Any]) -> int:
        numbers = {name[len(self.block) :].split(".")[0] for name in inside if name.startswith(self.block)}
        depth = len(numbers)
        if numbers != {str(i) for i in range(depth)}:
            gap = next(i for i in range(depth) if str(i) not in numbers)
            raise WeightsError(f"incomplete checkpoint ({self.title}): block {gap} of at least {depth} is missing")
        return depth

    def _rename(self, inside: State, depth: int) -> tuple[State, set[str]]:
        ours: State = {}
        used: set[str] = set()
        for rule in self._expanded(depth):
            lacking = [name for name in rule.theirs if name not in inside]
            if rule.missing == "absent" and len(lacking) == len(rule.theirs):
                continue
            if lacking:
                raise WeightsError(f"incomplete checkpoint ({self.title}): {lacking[0]} is missing")
            ours[rule.ours] = rule.read([inside[name] for name in rule.theirs])
            used |= set(rule.theirs)
        return ours, used

    def _refuse_foreign(self, names: set[str]) -> None:
        foreign = shipped_table("vitadapt.weights", "settings.toml")["foreign_tensors"]
        for name in sorted(names):
            if any(fnmatchcase(name, pattern) for pattern in self.spare):
                continue
            feature = next((what for pattern, what in foreign.items() if fnmatchcase(name, pattern)), "")
            what = f"has {feature} ({name})" if feature else f"has a tensor that a plain ViT lacks: {name}"
            raise WeightsError(f"this {self.title} network {what}; it cannot be converted exactly")

    def _refuse_outside(self, names: list[str], prefix: str) -> None:
        """What stands beside the network may not be a part that changes its features, nor a second network."""
        wrapping = prefix[: len(prefix) - len(_unwrapped(prefix))]
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

    def _check_shapes(self, ours: State, config: ViTConfig) -> None:
        expected = shapes_of(config)
        theirs = {rule.ours: " + ".join(rule.theirs) for rule in self._expanded(config.depth)}
        for name in sorted(expected.keys() | ours.keys()):
            if name not in ours or name not in expected:
                state = "is missing" if name not in ours else "is unexpected"
                raise WeightsError(f"incomplete checkpoint ({self.title}): {theirs.get(name, name)} {state}")
            if ours[name].shape != expected[name]:
                raise WeightsError(
                    f"tensors disagree ({self.title}): {theirs[name]} has shape {tuple(ours[name].shape)}, its "
                    f"siblings ask for {tuple(expected[name])}; the file is damaged or mixes two models"
                )

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
