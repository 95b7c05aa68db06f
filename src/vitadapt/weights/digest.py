"""The identity of a backbone: the same for the same configuration and the same weights, on any device."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from typing import Any, cast

import torch
from torch import nn


def backbone_digest(module: nn.Module) -> str:
    """blake2b-128 (hex) over the module's `config` and its sorted state dict: names, types, shapes and bytes.

    A field of the configuration counts when it is not at its default, so that a later version of this package may have
    more fields without changing the digest of what exists.
    """
    config = _settings(cast(Any, module).config)
    whole = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return whole.hexdigest()


def _settings(config: Any) -> dict[str, Any]:
    plain = asdict(config)
    return {f.name: plain[f.name] for f in fields(config) if getattr(config, f.name) != f.default}
