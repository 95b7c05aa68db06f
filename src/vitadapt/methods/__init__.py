"""The methods: one file each, found by the name under which they are registered; and all that a new one needs.

A method is a frozen dataclass (fields = hyper-parameters = identity) with one verb, `adapt(vit)`. Importing this
package registers the built-in ones; a third party registers its own with `@METHODS.register("my-method")`, in a plugin
file or in an installed package (docs/new-method.md).
"""

from ..nn.block import PLACES, SLOTS, Place, Slot
from ..nn.deltas import Affine, ChannelScale, Computed, Delta, Referring, ScaleShift, ThinDelta, WeightTransform
from ..nn.support import Solution, Support
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
    require_transformer,
    require_vit,
    slot_layer,
    slot_shape,
    slots_of,
    thaw,
)
from .adapter import Adapter
from .adapter_plus import AdapterPlus
from .adaptformer import AdaptFormer
from .audit import probe
from .boft import BOFT
from .both_towers import CLIPSVD, CLIPLoRA, TwoStage
from .clap import CLAP
from .clip_adapter import CLIPAdapter
from .compacter import Compacter, PHMAdapter
from .convpass import Convpass
from .coop import CoOp
from .depth import BlockMethod
from .discriminant import Discriminant
from .dora import DoRA
from .dtl import DTL
from .fact import FactTK, FactTT
from .gda_clip import GDAClip
from .houlsby import Houlsby, Pfeiffer
from .ia3 import IA3
from .kadaptation import KAdaptation
from .kgcoop import KgCoOp
from .laws import LAWS, check_method
from .loha import LoHa
from .lokr import LoKr
from .lora import LoRA
from .lp_plus_plus import LPPlusPlus
from .maple import MaPLe
from .oft import OFT
from .partial import DiffFit, PartialK
from .proker import ProKeR
from .prolip import ProLIP
from .registry import METHODS
from .released import AdapterReleased, CompacterReleased, KAdaptationReleased, LoRAReleased
from .repadapter import RepAdapter
from .selective import Attention, BitFit, FineTune, LayerNorm, LinearProbe, ZeroShot
from .side import SideTuning
from .ss_text import SSText
from .ssf import SSF
from .svd import SVD
from .taskres import TaskRes
from .testing import Case
from .text_discriminant import TextDiscriminant
from .text_prior import TextPrior
from .tip_adapter import TipAdapter, TipAdapterF
from .together import Together
from .vera import VeRA
from .vpt import VPT

__all__ = [
    "BOFT",
    "CLAP",
    "CLIPAdapter",
    "CoOp",
    "GDAClip",
    "KgCoOp",
    "LPPlusPlus",
    "ProKeR",
    "ProLIP",
    "SSText",
    "TaskRes",
    "TextDiscriminant",
    "TextPrior",
    "TipAdapter",
    "TipAdapterF",
    "Solution",
    "Support",
    "DTL",
    "IA3",
    "LAWS",
    "METHODS",
    "OFT",
    "PLACES",
    "SLOTS",
    "SSF",
    "SVD",
    "VPT",
    "Together",
    "TwoStage",
    "AdaptFormer",
    "Adapter",
    "AdapterPlus",
    "AdapterReleased",
    "Affine",
    "Attention",
    "BitFit",
    "BlockMethod",
    "CLIPLoRA",
    "CLIPSVD",
    "Case",
    "ChannelScale",
    "Compacter",
    "CompacterReleased",
    "Computed",
    "Convpass",
    "Delta",
    "DiffFit",
    "Discriminant",
    "DoRA",
    "FactTK",
    "FactTT",
    "FineTune",
    "Houlsby",
    "KAdaptation",
    "KAdaptationReleased",
    "LayerNorm",
    "LinearProbe",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRAReleased",
    "MaPLe",
    "Method",
    "PHMAdapter",
    "PartialK",
    "Pfeiffer",
    "Place",
    "Referring",
    "RepAdapter",
    "ScaleShift",
    "SideTuning",
    "Slot",
    "ThinDelta",
    "VeRA",
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
    "require_transformer",
    "require_vit",
    "slot_layer",
    "slot_shape",
    "slots_of",
    "thaw",
]
