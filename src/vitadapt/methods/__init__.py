"""The methods: one file each, found by the name under which they are registered.

A method is a frozen dataclass (fields = hyper-parameters = identity) with one verb, `adapt(vit)`. Importing this
package registers the built-in ones; a third party registers its own with `@METHODS.register("my-method")`.
"""

from .adapter import Adapter
from .compacter import Compacter, PHMAdapter
from .kadaptation import KAdaptation
from .lora import LoRA
from .registry import METHODS
from .released import AdapterReleased, CompacterReleased, KAdaptationReleased, LoRAReleased
from .selective import Attention, BitFit, FineTune, LayerNorm, LinearProbe, ZeroShot

__all__ = [
    "METHODS",
    "Adapter",
    "AdapterReleased",
    "Attention",
    "BitFit",
    "Compacter",
    "CompacterReleased",
    "FineTune",
    "KAdaptation",
    "KAdaptationReleased",
    "LayerNorm",
    "LinearProbe",
    "LoRA",
    "LoRAReleased",
    "PHMAdapter",
    "ZeroShot",
]
