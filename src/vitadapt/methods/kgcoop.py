"""KgCoOp: CoOp whose class vectors stay near those of the plain sentence.

Yao et al. 2023, "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization" (2303.13283; code:
htyao89/KgCoOp). With the class vectors w_c that learnt words give and those t_c of "a photo of a NAME.", of length 1,

    loss = cross-entropy + text_penalty mean_c (1 - w_c t_c).

Trained: P D, as in CoOp.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..utils.errors import ConfigError
from .coop import CoOp
from .registry import METHODS


@METHODS.register("kgcoop")
@dataclass(frozen=True)
class KgCoOp(CoOp):
    """CoOp with text_penalty mean_c (1 - w_c t_c), which holds class vectors near those of the plain sentence."""

    text_penalty: float = 8.0

    def __post_init__(self) -> None:
        if self.text_penalty < 0:
            raise ConfigError(f"kgcoop: text_penalty must not be negative, got {self.text_penalty}")
