"""What tensors cannot tell about a checkpoint: known from a module, a configuration, a document, or a person.

With these hints, the shapes of the tensors give the configuration, and `build` makes the module.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import isqrt
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..nn.surgery import State
from ..nn.vit import ACTIVATIONS, Activation, Pooling, Preprocess, Rotary, ViT, ViTConfig
from ..utils.errors import WeightsError
from ..utils.files import shipped_table
from .catalog import architecture

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Hints:
    """What the shapes of a checkpoint's tensors cannot tell; None means not known.

    `more` holds fields of `ViTConfig` that only unusual networks have at other values than the plain ones (`MORE`).
    Raises WeightsError for numbers that no network has.
    """

    heads: int | None = None
    activation: Activation | None = None
    norm_eps: float | None = None
    pooling: Pooling | None = None
    norm_after_pool: bool | None = None
    antialias: bool | None = None
    preprocess: Preprocess | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

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
        return replace(self, **gaps, more={**other.more, **self.more})

    def unknown(self) -> list[str]:
        """The names of the hints that are still not known."""
        missing = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return missing + [name for name, value in self.more.items() if value is UNKNOWN]


_HEADS = 1024
UNKNOWN = "unknown"
"""The value of a field in `Hints.more` that must be told."""
MORE = ("rotary", "resampling", "class_tokens", "position_grid", "pool_heads", "final_norm", "image_size")
"""Fields of `ViTConfig` that may be in `Hints.more`."""


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _require(holds: bool, what: str, value: Any) -> None:
    if not holds:
        raise WeightsError(f"{what} cannot be {value!r}; correct the settings beside the weights")


NO_HINTS = Hints()

NORMALISATIONS: dict[str, Preprocess] = {
    "imagenet": Preprocess(),
    "none": Preprocess((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": Preprocess((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""The usual ways to normalise images, by name."""


def heads_of_64(width: int) -> int | None:
    """Heads of a model whose documentation says 64 channels per head; None when `width` cannot be such a model's."""
    return None if width % 64 else width // 64


def config_of(name: str) -> ViTConfig:
    """The configuration of a named architecture. Raises UnknownName."""
    row = dict(architecture(name))
    rotary = Rotary(**row.pop("rotary")) if "rotary" in row else None
    return ViTConfig(preprocess=NORMALISATIONS[row.pop("normalise", "imagenet")], rotary=rotary, **row)


def hints_of_config(config: ViTConfig) -> Hints:
    """All that tensors do not tell of a network with this configuration."""
    plain = {f.name: getattr(config, f.name) for f in fields(Hints) if f.name != "more"}
    return Hints(**plain, more={name: getattr(config, name) for name in MORE if name != "image_size"})


def config_of_tensors(ours: State, depth: int, hints: Hints) -> ViTConfig:
    """The configuration that the shapes of `ours` and the complete `hints` describe. Raises ValueError."""
    width, channels, patch, other = ours["patches.weight"].shape
    if patch != other:
        raise ValueError(f"patch embedding of shape {tuple(ours['patches.weight'].shape)}; expected (D, C, P, P)")
    known: dict[str, Any] = {f.name: getattr(hints, f.name) for f in fields(hints) if f.name != "more"}
    known |= hints.more
    class_token = "class_token" in ours
    class_position = class_token
    if "position" in ours:
        class_position, side = _table(len(ours["position"]), class_token)
        if not known.get("position_grid"):
            known["image_size"] = side * patch
        elif known["position_grid"] != side:
            raise ValueError(f"{side} places along one side of the table of positions")
    relative_grid = 0
    if (table := ours.get("blocks.0.attention.relative.table")) is not None:
        relative_grid = (isqrt(len(table) - 3) + 1) // 2
        known["image_size"] = relative_grid * patch
    hidden = ours["blocks.0.mlp.fc2.weight"].shape[1]
    pool_hidden = 0
    if "latent" in ours:
        pool_hidden = len(ours["attention_pooling.fc1.weight"])
        known = {"pool_heads": hints.heads, **known, "pooling": "attention", "norm_after_pool": False}
    block = "blocks.0."
    return ViTConfig(
        width=width,
        depth=depth,
        patch=patch,
        hidden=0 if hidden == 4 * width else hidden,
        class_token=class_token,
        class_position=class_position or not class_token,
        registers=len(ours["registers"]) if "registers" in ours else 0,
        patch_bias="patches.bias" in ours,
        qkv_bias=f"{block}attention.qkv.bias" in ours,
        ln_pre="ln_pre.weight" in ours,
        layer_scale=f"{block}scale1.gamma" in ours,
        projection=len(ours["projection.weight"]) if "projection.weight" in ours else 0,
        positions="position" in ours,
        norm="layer" if f"{block}norm1.bias" in ours else "rms",
        patch_norm="patch_norm.weight" in ours,
        qk_norm=f"{block}attention.q_norm.weight" in ours,
        attention_norm=f"{block}attention.norm.weight" in ours,
        mlp_norm=f"{block}mlp.norm.weight" in ours,
        gated=len(ours[f"{block}mlp.fc1.weight"]) == 2 * hidden,
        linear_bias=f"{block}attention.out.bias" in ours,
        pool_hidden=0 if pool_hidden == 4 * width else pool_hidden,
        channels=channels,
        relative_grid=relative_grid,
        projection_bias="projection.bias" in ours,
        **known,
    )


def _table(rows: int, class_token: bool) -> tuple[bool, int]:
    """Has a table of positions a row for the class token, and how many places are along one side? Raises ValueError."""
    class_row = class_token and isqrt(rows - 1) ** 2 == rows - 1
    places = rows - int(class_row)
    if isqrt(places) ** 2 != places:
        raise ValueError(f"{rows} positions do not form a square grid (with or without one for the class token)")
    return class_row, isqrt(places)


def build(config: ViTConfig, state: State) -> ViT:
    """A frozen ViT in eval mode holding float32 copies of `state`."""
    vit = filled(lambda: ViT(config), state)
    vit.register_scales()
    return vit


def filled(make: Callable[[], Network], state: State) -> Network:
    """The network that `make` makes, frozen and in eval mode, holding float32 copies of `state`."""
    with torch.device("meta"):  # random initial values would cost seconds and be overwritten
        network = make()
    copies = {k: v.detach().to("cpu", torch.float32, copy=True) for k, v in state.items()}
    network.load_state_dict(copies, assign=True)
    return network.requires_grad_(False).eval()


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
    norms = [
        m for m in module.modules() if isinstance(m, nn.LayerNorm) or type(m).__name__.endswith(("RMSNorm", "RmsNorm"))
    ]
    eps = {m.eps if hasattr(m, "eps") else m.variance_epsilon for m in cast(list[Any], norms)}
    expect(bool(eps), "norms that are neither layer norms nor RMS norms")
    expect(len(eps) == 1, "layer norms with several eps")
    return float(eps.pop())


def square(size: int | tuple[int, ...] | list[int]) -> int:
    """The side of a square given as S or (S, S). Raises WeightsError for other shapes."""
    sides = {size} if isinstance(size, int) else set(size)
    expect(len(sides) == 1, f"inputs of shape {size}")
    return sides.pop()
