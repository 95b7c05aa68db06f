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

from ..nn.vit import ViTConfig
from ..utils.errors import WeightsError
from .build import config_of_tensors, shapes_of
from .hints import NO_HINTS, Hints
from .renaming import Rule, State

FOREIGN = {
    "*attn_pool*": "attention pooling",
    "*q_norm*": "normalised queries and keys",
    "*k_norm*": "normalised queries and keys",
    "*dist_token*": "a distillation token",
    "*distillation_token*": "a distillation token",
    "*w12*": "a gated (SwiGLU) MLP",
    "*weights_in*": "a gated (SwiGLU) MLP",
    "*gate_proj*": "a gated (SwiGLU) MLP",
    "*fc1_g*": "a gated (SwiGLU) MLP",
    "*relative_position*": "relative position biases",
    "*rope*": "rotary positions",
    "*attn.gate*": "gated attention",
    "*attn.norm*": "a norm inside the attention",
    "*mlp.norm*": "a norm inside the MLP",
}
"""What the name of a tensor betrays about a network that is not a plain ViT."""


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
    a row for the class token ("free": either way).
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

    def matches(self, state: Mapping[str, Any]) -> bool:
        """Does `state` look like this layout?"""
        return self._prefix(state) is not None

    def _prefix(self, state: Mapping[str, Any]) -> str | None:
        fitting = (p for p in self.prefixes if all(p + anchor in state for anchor in self.anchors))
        return next(fitting, None)

    def read(self, state: State, hints: Hints = NO_HINTS) -> Converted:
        """Their tensors -> ours; data types are kept.

        Raises WeightsError when a tensor is missing, does not fit its siblings or belongs to another kind of network,
        and when neither `hints` nor the source's documentation tell what tensors cannot.
        """
        prefix = self._prefix(state)
        if prefix is None:
            raise WeightsError(f"not {self.title}: expected tensors named {', '.join(self.anchors)}")
        inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
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
        left = self._positions(config, with_affine_norm(config, state))
        theirs: State = {}
        for rule in self._expanded(config.depth):
            if rule.ours not in left and rule.missing == "zeros":
                left[rule.ours] = torch.zeros_like(left[rule.ours.removesuffix("bias") + "weight"].flatten(1)[:, 0])
            if rule.ours in left:
                theirs |= rule.write(left.pop(rule.ours), prefix)
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
        for name in sorted(names):
            if any(fnmatchcase(name, pattern) for pattern in self.spare):
                continue
            feature = next((what for pattern, what in FOREIGN.items() if fnmatchcase(name, pattern)), "")
            what = f"has {feature} ({name})" if feature else f"has a tensor that a plain ViT lacks: {name}"
            raise WeightsError(f"this {self.title} network {what}; it cannot be converted exactly")

    def _config(self, ours: State, depth: int, hints: Hints) -> ViTConfig:
        if unknown := hints.unknown():
            raise WeightsError(
                f"the tensors ({self.title}) do not tell {', '.join(unknown)}; add them to the name: "
                "file:PATH?like=NAME (NAME: a registered backbone of the same kind) or ?activation=gelu&mean=imagenet"
            )
        try:
            return config_of_tensors(ours, depth, hints)
        except (ValueError, TypeError, IndexError) as error:
            raise WeightsError(f"this {self.title} network is not a plain ViT: {error}") from error

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
    return state | {"norm.weight": torch.ones_like(like), "norm.bias": torch.zeros_like(like)}
