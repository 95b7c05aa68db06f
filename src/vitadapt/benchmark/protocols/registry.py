"""The protocols by name; those that see the test set come last."""

from __future__ import annotations

from ...utils.registry import Registry
from .base import Protocol
from .best_on_test import BestOnTest
from .few_shot_clip import FewShotCLIP
from .released import ElevaterReleased
from .standard import CrossValidation, Elevater, Fixed, Halving

PROTOCOLS: Registry[Protocol] = Registry("protocol")
PROTOCOLS.register("fixed")(Fixed())
PROTOCOLS.register("elevater")(Elevater())
PROTOCOLS.register("halving")(Halving())
PROTOCOLS.register("cv")(CrossValidation())
PROTOCOLS.register("few-shot-clip")(FewShotCLIP())
PROTOCOLS.register("fixed-released")(BestOnTest(Fixed()))
PROTOCOLS.register("few-shot-clip-released")(BestOnTest(FewShotCLIP()))
PROTOCOLS.register("elevater-released")(ElevaterReleased())
