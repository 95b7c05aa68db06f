"""Tensors out of a TorchScript archive, without running any of its code.

Such an archive is a zip with compiled code, raw tensor data and a pickle that describes the tree of modules. Only the
pickle and the data are read. The pickle's machine may create nothing but tensors, plain containers and `Node`, a
placeholder for whatever class a module had; every other name in it makes the file unacceptable. The pickle machine
itself gets at no object that could do harm: it sees tensors only wrapped, and functions only as throw-away copies.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..nn.surgery import State
from ..utils.errors import WeightsError, damaged
from ..utils.limits import PICKLE_FILE
from ..utils.pickle_guard import check_pickle

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Node:
    """An object of any class in the archive: a bag of attributes that does nothing."""

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


@dataclass(frozen=True)
class TensorHandle:
    """A tensor out of the pickle machine's reach, which could otherwise call methods of it."""

    tensor: Tensor

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a tensor with a state")


def _first(value: Any, *_: Any) -> Any:
    """Stands for the tags that TorchScript wraps around lists and dictionaries."""
    return value


def _tensor(data: TensorHandle, offset: int, size: Any, stride: Any, *_: Any) -> TensorHandle:
    if prod(size) > data.tensor.numel():  # a few bytes repeated for ever
        raise ValueError(f"a tensor of size {size} out of {data.tensor.numel()} numbers")
    return TensorHandle(
        torch.as_strided(data.tensor, tuple(size), tuple(stride), offset)
    )  # a copy each could fill the memory


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "device"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
}


class _TensorUnpickler(pickle.Unpickler):
    """A pickle machine that knows tensors and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(description(archive, f"{folder}data.pkl")))
        self.archive, self.folder = archive, folder
        self.storages: dict[str, TensorHandle] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return Node
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) in _ALLOWED:
            function = _ALLOWED[module, name]
            return lambda *arguments: function(*arguments)  # a new one each time: nothing lasting can be written to it
        raise WeightsError(f"it asks for {module}.{name}, which no archive of tensors needs; do not trust this file")

    def persistent_load(self, reference: Any) -> TensorHandle:
        kind, dtype, key, _, count = reference
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError(f"unknown reference {kind!r}")
        if key not in self.storages:
            self.storages[key] = TensorHandle(self._storage(f"{self.folder}data/{key}", dtype, count))
        return self.storages[key]

    def _storage(self, member: str, dtype: torch.dtype, count: int) -> Tensor:
        info = self.archive.getinfo(member)
        size = info.file_size
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member} is compressed, which torch never does")
        if size != count * dtype.itemsize:
            raise ValueError(f"{member} holds {size} bytes instead of {count * dtype.itemsize}")
        if not count:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self.archive.read(member)), dtype=dtype)


def description(archive: zipfile.ZipFile, name: str) -> bytes:
    """The pickle that says what the tensors are. Raises ValueError when it is none that torch writes."""
    if archive.getinfo(name).file_size > PICKLE_FILE:
        raise ValueError(f"{name} is larger than {PICKLE_FILE >> 20} MiB")
    data = archive.read(name)
    check_pickle(data)
    return data


def is_torchscript(path: Path) -> bool:
    """Is the file a TorchScript archive (a zip with code beside the data)?"""
    return any("/code/" in name for name in zip_names(path))


def zip_names(path: Path) -> list[str]:
    """The members of a zip; none when it is none, or damaged."""
    try:
        with damaged(path, "", WeightsError), zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except WeightsError:
        return []


def read_torchscript(path: Path) -> State:
    """Name -> tensor of every parameter and buffer (and other tensor attribute) of the archived module.

    Raises WeightsError when the archive is damaged or its pickle asks for anything but tensors; nothing in the file is
    ever executed.
    """
    with (
        damaged(path, "download it again", WeightsError, "is a damaged TorchScript archive"),
        zipfile.ZipFile(path) as archive,
    ):
        folder = _folder(archive)
        try:
            root = _TensorUnpickler(archive, folder).load()
        except WeightsError as error:
            raise WeightsError(f"{path} was refused: {error}") from error
        state = dict(_walk(root, "", set()))
        if not state:
            raise ValueError("no tensors in it")
        return state


def _folder(archive: zipfile.ZipFile) -> str:
    members = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(members) != 1:
        raise ValueError("no single data.pkl")
    order = members[0].replace("data.pkl", "byteorder")
    if order in archive.namelist() and archive.getinfo(order).file_size != len("little"):
        raise ValueError("stored on a big-endian machine")
    return members[0].removesuffix("data.pkl")


def _walk(node: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors below `node`; a module that is reachable twice counts where it is met first."""
    if not isinstance(node, Node) or id(node) in seen:
        return
    seen.add(id(node))
    for name, value in (node.attributes or {}).items():
        if isinstance(value, TensorHandle):
            yield prefix + name, value.tensor
        else:
            yield from _walk(value, f"{prefix}{name}.", seen)
