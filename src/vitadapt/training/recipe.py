"""The recipe of a training: every hyper-parameter of the loop, and the table of recipes per protocol and method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..methods import METHODS, Together
from ..nn.surgery import Method
from ..utils.errors import ConfigError
from ..utils.fields import build
from ..utils.files import shipped_table
from ..utils.registry import unknown


@dataclass(frozen=True)
class Recipe:
    """How one training goes. Learning rates are per step; `warmup` is in epochs; 0 switches clipping off.

    head_start: "zero", or "probe" to begin with a head trained for `probe_epochs` on the frozen features (Kumar et al.
    2022, LP-FT).
    weight_decay acts on matrices, not on vectors (biases, norms), unless `decays` is "all".
    jitter: how far training images are zoomed and shifted at random (`augment.jitter`); flip: half are mirrored.
    Neither touches a head that is trained on the features of the frozen backbone.
    views: how many jittered versions of each image are made once (as `views.py` says) and drawn from, where the first
    blocks stay as they are; 0 jitters anew in every epoch.
    Off at 0 (`ingredients.py`): drop_path, dropout and noise of what a method adds; pace, the weight of the squared
    distance between the logits of two passes with such noise (Ni et al. 2024); layer_decay, the factor of the learning
    rate for each block towards the input; ema, the decay of a moving average of the weights, which is used at the end;
    mixup and cutmix, the strength (alpha) of each; colour, how far brightness, contrast and saturation go; crop, the
    least share of the image's area that is seen.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    head_lr: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    epochs: int = 30
    batch_size: int = 16
    accumulate: int = 1
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: float = 1.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    head_start: Literal["zero", "probe"] = "zero"
    probe_epochs: int = 30
    decays: Literal["matrices", "all"] = "matrices"
    jitter: float = 0.0
    flip: bool = False
    views: int = 0
    drop_path: float = 0.0
    dropout: float = 0.0
    noise: float = 0.0
    pace: float = 0.0
    layer_decay: float = 0.0
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    colour: float = 0.0
    crop: float = 0.0

    def __post_init__(self) -> None:
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "accumulate": self.accumulate}
        positive["probe_epochs"] = self.probe_epochs
        for name, value in positive.items():
            if value < 1:
                raise ConfigError(f"recipe: {name} must be at least 1, got {value}")
        for name in (
            "lr",
            "head_lr",
            "weight_decay",
            "warmup",
            "clip_norm",
            "label_smoothing",
            "jitter",
            "views",
            "noise",
            "pace",
            "mixup",
            "cutmix",
            "colour",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"recipe: {name} must not be negative, got {getattr(self, name)}")
        for name in ("momentum", "drop_path", "dropout", "layer_decay", "ema", "crop"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"recipe: {name} must be in 0 to 1, without 1, got {getattr(self, name)}")
        if self.pace and not (self.noise or self.dropout or self.drop_path):
            raise ConfigError("recipe: pace compares two passes, which differ by noise or dropout alone; set noise=1")
        if self.views and (self.mixup or self.cutmix or self.colour or self.crop):
            raise ConfigError("recipe: mixup, cutmix, colour and crop change the images anew each time; set views=0")


def protocol_table() -> dict[str, Any]:
    """The rows of protocols.toml: what each protocol prescribes."""
    return shipped_table(__package__, "protocols.toml")


def recipe_for(protocol: str, method: Method) -> Recipe:
    """The recipe that `protocol` prescribes for `method`: the protocol's defaults, then the method's own row."""
    table = protocol_table()
    if protocol not in table:
        raise unknown("protocol", protocol, table)
    if isinstance(method, Together) and method.methods:  # what suits the most careful of them
        return min((recipe_for(protocol, part) for part in method.methods), key=lambda recipe: recipe.lr)
    rows = table[table[protocol].get("like", protocol)]["recipe"]
    name = METHODS.name_of(method)
    return build(Recipe, {**rows["default"], **rows.get(name, {})}, f"protocol {protocol}")
