"""The shape that all converters share: a table of renaming rules that is read in both directions.

A converter is data. Reading is closed-world: a tensor that no rule takes and that is not listed as irrelevant to image
features is refused, so that a network which only resembles a plain ViT is never converted to something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import WeightsError
from ..vit import Activation, Pooling, Preprocess, ViT, ViTConfig

State = dict[str, Tensor]
Form = Literal["same", "stacked", "lead1", "lead2", "transposed"]
Missing = Literal["error", "absent", "zeros"]

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
class Hints:
    """What the shapes of a checkpoint's tensors cannot tell; None means not known."""

    heads: int | None = None
    activation: Activation | None = None
    norm_eps: float | None = None
    pooling: Pooling | None = None
    norm_after_pool: bool | None = None
    antialias: bool | None = None
    preprocess: Preprocess | None = None

    def over(self, other: Hints) -> Hints:
        """These hints, with the gaps filled from `other`."""
        gaps = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **gaps)

    def unknown(self) -> list[str]:
        """The names of the hints that are still not known."""
        return [f.name for f in fields(self) if getattr(self, f.name) is None]


NO_HINTS = Hints()


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our words. `rest` holds the tensors we do not use, under their own names."""

    config: ViTConfig
    state: State
    rest: State
    layout: str
    prefix: str = ""


_READ: dict[Form, Callable[[list[Tensor]], Tensor]] = {
    "same": lambda parts: parts[0],
    "stacked": torch.cat,
    "lead1": lambda parts: parts[0].flatten(0, 1),
    "lead2": lambda parts: parts[0].flatten(),
    "transposed": lambda parts: parts[0].T.contiguous(),
}
_WRITE: dict[Form, Callable[[Tensor, int], list[Tensor]]] = {
    "same": lambda tensor, count: [tensor],
    "stacked": lambda tensor, count: [part.clone() for part in tensor.chunk(count)],
    "lead1": lambda tensor, count: [tensor.unsqueeze(0)],
    "lead2": lambda tensor, count: [tensor.view(1, 1, -1)],
    "transposed": lambda tensor, count: [tensor.T.contiguous()],
}
_DIMENSIONS: dict[Form, int] = {"lead1": 3, "lead2": 3, "transposed": 2}


@dataclass(frozen=True)
class Rule:
    """One tensor of ours and the tensors of theirs that it is made of ("{i}" stands for the block number).

    `missing` says what happens when theirs has no such tensor: an error, nothing ("absent": the part is optional), or
    zeros ("zeros": their module always has it, and zeros are what it must hold when ours lacks it).
    """

    ours: str
    theirs: tuple[str, ...]
    form: Form = "same"
    missing: Missing = "error"

    def at(self, block: int) -> Rule:
        """The rule for one block."""
        i = str(block)
        return replace(self, ours=self.ours.replace("{i}", i), theirs=tuple(t.replace("{i}", i) for t in self.theirs))

    def read(self, parts: list[Tensor]) -> Tensor:
        """Their tensors -> ours. Raises WeightsError when they do not fit together."""
        wanted = _DIMENSIONS.get(self.form, parts[0].ndim)
        lead = parts[0].shape[: {"lead1": 1, "lead2": 2}.get(self.form, 0)]
        if parts[0].ndim != wanted or any(size != 1 for size in lead) or len({p.shape[1:] for p in parts}) > 1:
            shapes = ", ".join(f"{name} {tuple(p.shape)}" for name, p in zip(self.theirs, parts, strict=True))
            raise WeightsError(f"tensors of unexpected shape: {shapes}")
        return _READ[self.form](parts)

    def write(self, tensor: Tensor, prefix: str) -> State:
        """Our tensor -> theirs, bit for bit."""
        parts = _WRITE[self.form](tensor, len(self.theirs))
        return {prefix + name: part for name, part in zip(self.theirs, parts, strict=True)}


def pair(ours: str, *theirs: str, form: Form = "same", missing: Missing = "error") -> tuple[Rule, Rule]:
    """The rules for a weight and its bias."""
    weight, bias = (
        Rule(f"{ours}.{kind}", tuple(f"{t}.{kind}" for t in theirs), form, missing) for kind in ("weight", "bias")
    )
    return weight, bias


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
        except ValueError as error:
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


def heads_of_64(width: int) -> int | None:
    """Heads of a model whose documentation says 64 channels per head; None when `width` cannot be such a model's."""
    return None if width % 64 else width // 64


def with_affine_norm(config: ViTConfig, state: State) -> State:
    """`state` whose final norm has a weight and a bias, the neutral ones when the model's norm is plain."""
    if config.final_norm != "plain":
        return dict(state)
    like = state["patches.weight"].flatten(1)[:, 0]
    return state | {"norm.weight": torch.ones_like(like), "norm.bias": torch.zeros_like(like)}


def config_of_tensors(ours: State, depth: int, hints: Hints) -> ViTConfig:
    """The configuration that the shapes of `ours` and the complete `hints` describe. Raises ValueError."""
    width, channels, patch, other = ours["patches.weight"].shape
    if channels != 3 or patch != other:
        raise ValueError(f"patch embedding of shape {tuple(ours['patches.weight'].shape)}; expected (D, 3, P, P)")
    class_token, rows = "class_token" in ours, len(ours["position"])
    class_position = class_token and isqrt(rows - 1) ** 2 == rows - 1
    patches = rows - int(class_position)
    if isqrt(patches) ** 2 != patches:
        raise ValueError(f"{rows} positions do not form a square grid (with or without one for the class token)")
    hidden = ours["blocks.0.mlp.fc1.weight"].shape[0]
    known: dict[str, Any] = {f.name: getattr(hints, f.name) for f in fields(hints)}
    return ViTConfig(
        width=width,
        depth=depth,
        patch=patch,
        image_size=isqrt(patches) * patch,
        hidden=0 if hidden == 4 * width else hidden,
        class_token=class_token,
        class_position=class_position or not class_token,
        registers=len(ours["registers"]) if "registers" in ours else 0,
        patch_bias="patches.bias" in ours,
        qkv_bias="blocks.0.attention.qkv.bias" in ours,
        ln_pre="ln_pre.weight" in ours,
        layer_scale="blocks.0.scale1.gamma" in ours,
        projection=len(ours["projection.weight"]) if "projection.weight" in ours else 0,
        **known,
    )


def shapes_of(config: ViTConfig) -> dict[str, torch.Size]:
    """Name -> shape of every tensor of a `ViT` with this configuration; no memory is used."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in ViT(config).state_dict().items()}


def build(config: ViTConfig, state: State) -> ViT:
    """A frozen ViT in eval mode holding float32 copies of `state`."""
    with torch.device("meta"):  # random initial values would cost seconds and be overwritten
        vit = ViT(config)
    vit.load_state_dict({k: v.detach().to("cpu", torch.float32, copy=True) for k, v in state.items()}, assign=True)
    for name in ("mean", "std"):
        vit.register_buffer(name, torch.tensor(getattr(config.preprocess, name)).view(3, 1, 1), persistent=False)
    return vit.requires_grad_(False).eval()


NORMALISATIONS: dict[str, Preprocess] = {
    "imagenet": Preprocess(),
    "half": Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": Preprocess((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""The three usual ways to normalise images, by name."""
