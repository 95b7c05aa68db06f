"""The methods: one file each, found by the name under which they are registered; and all that a new one needs.

A method is a frozen dataclass (fields = hyper-parameters = identity) with one verb, `adapt(vit)`. Importing this
package registers the built-in ones; a third party registers its own with `@METHODS.register("my-method")`, in a plugin
file or in an installed package (docs/new-method.md).
"""

from ..nn.block import PLACES, SLOTS, Place, Slot
from ..nn.deltas import Affine, ChannelScale, Delta, Referring, ScaleShift, ThinDelta, WeightTransform
from ..nn.surgery import (
    Method,
    add_delta,
    add_side,
    add_tokens,
    blocks,
    check_slots,
    insert,
    is_norm,
    parameters_of,
    require_vit,
    slot_layer,
    slot_shape,
    thaw,
)
from .adapter import Adapter
from .audit import probe
from .compacter import Compacter, PHMAdapter
from .depth import BlockMethod
from .discriminant import Discriminant
from .kadaptation import KAdaptation
from .laws import LAWS, check_method
from .lora import LoRA
from .registry import METHODS
from .released import AdapterReleased, CompacterReleased, KAdaptationReleased, LoRAReleased
from .selective import Attention, BitFit, FineTune, LayerNorm, LinearProbe, ZeroShot
from .testing import Case

__all__ = [
    "LAWS",
    "METHODS",
    "PLACES",
    "SLOTS",
    "Adapter",
    "AdapterReleased",
    "Affine",
    "Attention",
    "BitFit",
    "BlockMethod",
    "Case",
    "ChannelScale",
    "Compacter",
    "CompacterReleased",
    "Delta",
    "Discriminant",
    "FineTune",
    "KAdaptation",
    "KAdaptationReleased",
    "LayerNorm",
    "LinearProbe",
    "LoRA",
    "LoRAReleased",
    "Method",
    "PHMAdapter",
    "Place",
    "Referring",
    "ScaleShift",
    "Slot",
    "ThinDelta",
    "WeightTransform",
    "ZeroShot",
    "add_delta",
    "add_side",
    "add_tokens",
    "blocks",
    "check_method",
    "check_slots",
    "insert",
    "is_norm",
    "parameters_of",
    "probe",
    "require_vit",
    "slot_layer",
    "slot_shape",
    "thaw",
]
