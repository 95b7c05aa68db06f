"""What tensors cannot tell about a checkpoint: known from a module, a configuration, a document, or a person.

With these hints, the shapes of the tensors give the configuration, and `build` makes the module.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import isqrt
from typing import Any, Literal, cast, get_args
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn

from ..nn.surgery import State
from ..nn.vit import ACTIVATIONS, Activation, Pooling, Preprocess, ViT, ViTConfig
from ..utils.errors import ConfigError, WeightsError
from ..utils.files import shipped_table
from ..utils.registry import unknown
from .catalog import architecture


@dataclass(frozen=True)
class Hints:
    """What the shapes of a checkpoint's tensors cannot tell; None means not known.

    Raises WeightsError for numbers that no network has.
    """

    heads: int | None = None
    activation: Activation | None = None
    norm_eps: float | None = None
    pooling: Pooling | None = None
    norm_after_pool: bool | None = None
    antialias: bool | None = None
    preprocess: Preprocess | None = None

    def __post_init__(self) -> None:
        _require(self.heads is None or (type(self.heads) is int and 1 <= self.heads <= _HEADS), "heads", self.heads)
        _require(self.norm_eps is None or _is_number(self.norm_eps, 0, 1), "the norm's epsilon", self.norm_eps)
        if self.preprocess is not None:
            how = self.preprocess
            _require(len(how.mean) == 3 and all(_is_number(v, -1e6, 1e6) for v in how.mean), "mean", how.mean)
            _require(len(how.std) == 3 and all(_is_number(v, 1e-6, 1e6) for v in how.std), "std", how.std)
            _require(_is_number(how.resize, 1, 100), "resize", how.resize)

    def over(self, other: Hints) -> Hints:
        """These hints, with the gaps filled from `other`."""
        gaps = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **gaps)

    def unknown(self) -> list[str]:
        """The names of the hints that are still not known."""
        return [f.name for f in fields(self) if getattr(self, f.name) is None]


_HEADS = 1024


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _require(holds: bool, what: str, value: Any) -> None:
    if not holds:
        raise WeightsError(f"{what} cannot be {value!r}; correct the settings beside the weights")


NO_HINTS = Hints()

Which = Literal["ema", "raw"]
"""Averaged weights or the last ones of the training, where a checkpoint holds both."""


NORMALISATIONS: dict[str, Preprocess] = {
    "imagenet": Preprocess(),
    "half": Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": Preprocess((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""The three usual ways to normalise images, by name."""


def heads_of_64(width: int) -> int | None:
    """Heads of a model whose documentation says 64 channels per head; None when `width` cannot be such a model's."""
    return None if width % 64 else width // 64


_TRUTH = {"true": True, "false": False}


def config_of(name: str) -> ViTConfig:
    """The configuration of a named architecture. Raises UnknownName."""
    row = dict(architecture(name))
    return ViTConfig(preprocess=NORMALISATIONS[row.pop("normalise", "imagenet")], **row)


def parse_hints(query: str) -> Hints:
    """Hints out of name=value pairs joined by "&". Raises ConfigError (unknown field or value) and UnknownName.

    The fields are those of `Hints`, `mean` (a named normalisation), `like` (a named architecture, whose every hint
    is taken unless another field says otherwise) and `weights` (see `weights_of`).
    """
    base, values = Hints(), {}
    for field, value in parse_qsl(query, keep_blank_values=True):
        if field == "weights":
            continue
        if field == "like":
            config = config_of(value)
            base = Hints(**{f.name: getattr(config, f.name) for f in fields(Hints)})
        elif field in _PARSERS:
            name, parse, _ = _PARSERS[field]
            values[name] = _parsed(field, value, parse)
        else:
            raise unknown("hint", field, ["like", "weights", *_PARSERS])
    return Hints(**values).over(base)


def weights_of(query: str) -> Which | None:
    """Which of two sets of weights the query asks for with weights=ema or weights=raw. Raises ConfigError."""
    value = dict(parse_qsl(query)).get("weights")
    if value not in (None, *get_args(Which)):
        raise ConfigError(f"{value!r} is no value for weights; use one of {', '.join(get_args(Which))}")
    return cast(Which | None, value)


def _parsed(field: str, value: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(value)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{value!r} is no value for {field}; use {_PARSERS[field][2]}") from error


def _one_of(*names: str) -> tuple[Callable[[str], str], str]:
    return {name: name for name in names}.__getitem__, f"one of {', '.join(names)}"


_PARSERS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "activation": ("activation", *_one_of(*ACTIVATIONS)),
    "heads": ("heads", int, "a whole number"),
    "norm_eps": ("norm_eps", float, "a number such as 1e-6"),
    "pooling": ("pooling", *_one_of(*get_args(Pooling))),
    "norm_after_pool": ("norm_after_pool", _TRUTH.__getitem__, "true or false"),
    "antialias": ("antialias", _TRUTH.__getitem__, "true or false"),
    "mean": ("preprocess", NORMALISATIONS.__getitem__, f"one of {', '.join(NORMALISATIONS)}"),
}
"""Field of the query -> field of `Hints`, how its text is read, and what is allowed."""


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
    vit.register_scales()
    return vit.requires_grad_(False).eval()


@dataclass(frozen=True)
class Live:
    """A module of another library, understood.

    `tower` is the part whose state dict is converted, `features` is its own way from normalised images (B, 3, S, S) to
    image features (B, E), and `image_size` is the input size that it declares.
    """

    tower: nn.Module
    hints: Hints
    features: Callable[[Tensor], Tensor]
    image_size: int


def expect(holds: bool, otherwise: str) -> None:
    """Raises WeightsError naming the feature that a plain ViT does not have unless the expectation holds."""
    if not holds:
        raise WeightsError(f"this model has {otherwise}; it cannot be converted exactly to a plain vision transformer")


def refuse_unknown(settings: Mapping[str, Any], table: str, where: str) -> None:
    """Raises WeightsError naming a setting that has a value and is not in the table of settings.toml."""
    known = {name for names in shipped_table("vitadapt.weights", "settings.toml")[table].values() for name in names}
    foreign = sorted(name for name, value in settings.items() if value and name not in known)
    expect(not foreign, f"the setting {foreign[0]}={settings[foreign[0]]!r} in {where}" if foreign else "")


def activation_of(module: nn.Module) -> Activation:
    """Which of our activations `module` computes, told by its values. Raises WeightsError when it is none of them."""
    x = torch.linspace(-4, 4, 81)
    with torch.no_grad():
        y = copy.deepcopy(module).cpu()(x.clone())
        for name, function in ACTIVATIONS.items():
            if torch.allclose(function(x), y, rtol=0, atol=1e-6):
                return name
    raise WeightsError(f"this model has the activation {type(module).__name__}; known are {', '.join(ACTIVATIONS)}")


def norm_eps_of(module: nn.Module) -> float:
    """The one eps of all layer norms. Raises WeightsError when they differ or another norm is used."""
    eps = {m.eps for m in module.modules() if isinstance(m, nn.LayerNorm)}
    expect(bool(eps), "norms that are not layer norms")
    expect(len(eps) == 1, "layer norms with several eps")
    return eps.pop()


def square(size: int | tuple[int, ...] | list[int]) -> int:
    """The side of a square given as S or (S, S). Raises WeightsError for other shapes."""
    sides = {size} if isinstance(size, int) else set(size)
    expect(len(sides) == 1, f"inputs of shape {size}")
    return sides.pop()
