"""Checkpoint files as plain dictionaries of tensors; nothing in a file is unpickled freely or executed."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..nn.surgery import State
from ..utils.errors import ConfigError, WeightsError, damaged
from ..utils.files import parse_json, read_text
from ..utils.limits import PICKLE_FILE, TENSORS_SHARE
from ..utils.pickle_guard import check_pickle
from .hint_query import Which
from .torchscript import description, is_torchscript, read_torchscript, zip_names

_SETS: dict[Which, tuple[str, ...]] = {
    "ema": (
        *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "teacher", "ema_model"),
        *("ema_state", "ema_weights", "averaged_model", "swa_state_dict", "swa_model", "params_ema", "target_encoder"),
    ),
    "raw": ("state_dict", "model_state_dict", "model", "module", "student", "net", "params", "weights", "encoder"),
}
"""Keys under which training programs store moving averages of the tensors, and the tensors themselves."""

_log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
"""What the weights are called in a folder, best first."""


def load_state_file(path: str | Path, which: Which | None = None) -> State:
    """Name -> tensor of a safetensors file, a torch checkpoint or a TorchScript archive, told by content, not by name.

    A checkpoint may hold averaged weights beside the raw ones: `which` chooses; None takes the averaged ones, as timm
    does, and logs a warning. Raises WeightsError naming the file and what to do about it.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _load_folder(path, which)
    if not os.path.isfile(path):
        raise WeightsError(f"{path} does not exist; check the path (a relative one starts at {Path.cwd()})")
    with damaged(path, "download it again", WeightsError):
        content = _reader(path)(path)
    state = _tensors_of(content, path, which)
    _check_tensors(state, path)
    return state


def _check_tensors(state: State, path: Path) -> None:
    """Raises WeightsError for tensors that are no plain arrays, or that unfold into more than the file can hold."""
    odd = next((name for name, t in state.items() if t.layout != torch.strided or t.is_quantized or t.is_meta), None)
    if odd is not None:
        raise WeightsError(f"{path}: {odd} is sparse, quantised or without content; save a plain state dict")
    total = sum(t.numel() * t.element_size() for t in state.values())
    if total > TENSORS_SHARE * path.stat().st_size:
        raise WeightsError(f"{path} unfolds into {total >> 20} MiB of tensors, far more than it holds; do not trust it")


def _reader(path: Path) -> Callable[[Path], Any]:
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        raise WeightsError(f"{path} is empty (0 bytes); download it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(f"{path} is a web page, not a checkpoint; download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the checkpoint; run: git lfs pull")
    if head[8:9] == b"{":  # an 8-byte length, then JSON
        return _load_safetensors
    if not head.startswith((b"PK", b"\x80")):  # a zip, or the bare pickle of old versions of torch
        raise WeightsError(f"{path} is not a checkpoint: neither safetensors nor a torch file; check what it is")
    if is_torchscript(path):
        return read_torchscript
    if zipfile.is_zipfile(path) and not _has_pickle(path):
        raise WeightsError(f"{path} is a zip without a torch checkpoint in it; unpack it and name the file inside")
    return _load_torch


def _has_pickle(path: Path) -> bool:
    """Is the checkpoint in the zip, as far as can be told? What is damaged is told later."""
    names = zip_names(path)
    return not names or any(name.endswith("data.pkl") for name in names)


def _load_safetensors(path: Path) -> State:
    with damaged(path, "download it again", WeightsError, "is a damaged safetensors file"):
        state: State = load_file(path)
    return state


def _load_torch(path: Path) -> Any:
    with damaged(path, "download it again", WeightsError, "is a damaged or incomplete checkpoint"):
        _check_pickles(path)
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace]):  # values; of timm
                warnings.simplefilter("ignore")  # what torch thinks of odd tensors, which are refused
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise WeightsError(
                f"{path} holds pickled objects besides tensors, which could run code and are not loaded; "
                "save model.state_dict() as safetensors or with torch.save"
            ) from error


_PROGRAMS = 5  # of which a file consists that torch wrote before it wrote zips


def _check_pickles(path: Path) -> None:
    """Raises ValueError when what describes the tensors is not what torch writes, before torch reads it."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            check_pickle(file.read(PICKLE_FILE), _PROGRAMS)
        return
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{info.filename} is compressed, which torch never does")
            if info.filename.endswith(".pkl"):
                description(archive, info.filename)


def _tensors_of(content: Any, path: Path, which: Which | None) -> State:
    """The state dict inside what a training program saved."""
    seen: set[str | None] = set()
    while found := _sets_of(content):
        _check_only(content, found, path)
        content = content[found.get(which) or next(iter(found.values()))]
        if len(found) > 1 and which is None:
            _log.warning(
                f"{path} holds averaged weights ({found['ema']}) and raw ones ({found['raw']}); the averaged ones are "
                "taken. Choose with file:PATH?weights=ema or ?weights=raw"
            )
        seen |= found.keys()
    if which is not None and which not in seen:
        raise ConfigError(f"{path} does not name any of its weights {which}; leave out ?weights={which}")
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    state = {_plain(name): t for name, t in content.items() if isinstance(name, str) and isinstance(t, Tensor)}
    state.pop("n_averaged", None)  # a count of torch's AveragedModel
    if not state:
        keys = ", ".join(name[:60] for name in list(content)[:5] if isinstance(name, str)) or "nothing"
        raise WeightsError(f"{path} holds no tensors (found: {keys}); save model.state_dict() instead")
    return state


def _check_only(content: Mapping[Any, Any], found: Mapping[Which | None, str], path: Path) -> None:
    """Raises WeightsError naming what stands beside the known sets and has tensors of the same names."""
    known = {name for key in found.values() for name in content[key]}
    for key, value in content.items():
        second = value if isinstance(value, Mapping) and key not in found.values() else {}
        if any(isinstance(one, Tensor) and one.ndim > 1 and name in known for name, one in second.items()):
            raise WeightsError(
                f"{path} holds tensors of the same names under {', '.join(found.values())} and {str(key)[:60]}; "
                "save the ones you mean alone"
            )


_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def _plain(name: str) -> str:
    """A name without what torch's wrappers put in, before it or inside it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.replace("._orig_mod.", ".")


def _sets_of(content: Any, depth: int = 3) -> dict[Which | None, str]:
    """Which sets of weights the dictionary holds -> their keys; deeper nesting than three levels does not occur."""
    if not isinstance(content, Mapping) or not depth:
        return {}
    full = {key for key, value in content.items() if isinstance(value, Mapping) and _has_tensors(value, depth)}
    return {kind: next(key for key in keys if key in full) for kind, keys in _SETS.items() if full.intersection(keys)}


def _has_tensors(value: Mapping[Any, Any], depth: int) -> bool:
    return any(isinstance(one, Tensor) for one in value.values()) or bool(_sets_of(value, depth - 1))


def _load_folder(path: Path, which: Which | None) -> State:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        named = read_json(index).get("weight_map")
        shards = set(map(str, named.values())) if isinstance(named, dict) else {""}
        if strange := sorted(shard for shard in shards if not os.path.isfile(path / Path(shard).name)):
            raise WeightsError(f"{index} names {strange[0]!r}, which is no file beside it; download the whole folder")
        files = (path / Path(shard).name for shard in sorted(shards))
        return {name: tensor for file in files for name, tensor in load_state_file(file, which).items()}
    found = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        raise WeightsError(f"{path} holds none of {', '.join(WEIGHT_FILES)}; name the checkpoint file itself")
    return load_state_file(found, which)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises WeightsError naming the file."""
    with damaged(path, "download it again", WeightsError, "is not readable JSON"):
        content = parse_json(read_text(path))
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no JSON object; download it again")
    return content
