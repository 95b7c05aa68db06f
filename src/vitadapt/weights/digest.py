"""The identity of a backbone: a digest of what it computes with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, cast

import torch
from torch import nn


def backbone_digest(backbone: nn.Module) -> str:
    """16 hex digits of BLAKE2b over the configuration and every tensor of the state dict, by name."""
    digest = hashlib.blake2b(digest_size=8)
    config = getattr(backbone, "config", None)
    plain = dataclasses.asdict(cast(Any, config)) if dataclasses.is_dataclass(config) else str(config)
    digest.update(json.dumps([type(backbone).__name__, plain], sort_keys=True).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
