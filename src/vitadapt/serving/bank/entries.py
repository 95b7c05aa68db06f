"""What a bank holds of an adapter; the least recently used ones are read again from their files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load
from torch import Tensor

from ...nn.surgery import Method
from ...training.adapter_file import AdapterInfo
from ...utils.errors import WeightsError
from ...utils.files import bytes_digest, read_bounded
from ...utils.limits import ADAPTER_FILE
from .family import Family
from .heads import HeadFamily

BACKBONE, CONSTANT, HEAD = "backbone.", "constant.", "head."


@dataclass(frozen=True)
class Facts:
    """What a bank knows of an adapter.

    parameters: numbers it stands for, head and constants included. bytes: of memory that it takes while resident.
    path: its file, None for one given as an object. adapter: what that file says of itself.
    """

    classes: tuple[str, ...]
    parameters: int
    bytes: int
    path: Path | None = None
    adapter: AdapterInfo | None = None

    @property
    def method(self) -> Method | None:
        """The method that made it, if a file said so."""
        return self.adapter.method if self.adapter else None


@dataclass(frozen=True)
class File:
    """Where an adapter's tensors can be read again, and the digest of the bytes that were checked."""

    path: Path
    digest: str


@dataclass(frozen=True, eq=False)
class Packed:
    """All numbers of an adapter: those in the backbone, and its head's."""

    body: Tensor
    head: Tensor

    def to(self, device: torch.device | str) -> Packed:
        return Packed(self.body.to(device), self.head.to(device))


@dataclass(frozen=True, eq=False)
class Entry:
    """An adapter as it was added: never changed, only replaced.

    file: where its numbers can be read again. packed: the numbers, where all adapters stay ready, and of one without a
    file, then in the memory of the CPU.
    """

    name: str
    family: Family
    head: HeadFamily
    facts: Facts
    file: File | None = None
    packed: Packed | None = None


def pack(family: Family, head: HeadFamily, tensors: Mapping[str, Tensor]) -> Packed:
    """Of tensors named as in an adapter file, on the CPU. Raises KeyError when one is missing."""
    body = {name: tensors[_prefixed(name, tensors)] for name in family.layout.names}
    own = {name.removeprefix(HEAD): t for name, t in tensors.items() if name.startswith(HEAD)}
    return Packed(family.layout.pack(body), head.pack(own))


def _prefixed(name: str, tensors: Mapping[str, Tensor]) -> str:
    constant = CONSTANT + name
    return constant if constant in tensors else BACKBONE + name


class Residents:
    """The adapters ready on the device, `limit` of them at most; the others are fetched when they are asked for."""

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit, self.device = limit, device
        self._held: OrderedDict[Entry, Packed] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, entry: Entry) -> bool:
        with self._lock:
            return entry in self._held

    def get(self, entry: Entry) -> Packed:
        """Its numbers. Raises WeightsError when its file vanished or is not what was added."""
        with self._lock:
            if entry in self._held:
                self._held.move_to_end(entry)
                return self._held[entry]
        packed = (entry.packed or _read(entry, cast(File, entry.file))).to(self.device)
        self.put(entry, packed)
        return packed

    def put(self, entry: Entry, packed: Packed) -> None:
        with self._lock:
            self._held[entry] = packed
            self._held.move_to_end(entry)
            while len(self._held) > self.limit:
                self._held.popitem(last=False)

    def drop(self, entry: Entry) -> None:
        with self._lock:
            self._held.pop(entry, None)


def _read(entry: Entry, file: File) -> Packed:
    who = f"adapter {entry.name!r}: {file.path}"
    try:
        data = read_bounded(file.path, ADAPTER_FILE)
    except OSError as error:
        why = error.strerror or error
        raise WeightsError(f"{who} cannot be read again ({why}); put it back, or add the adapter again") from error
    if bytes_digest(data) != file.digest:
        raise WeightsError(f"{who} is no longer the file that was added; add the adapter again")
    return pack(entry.family, entry.head, load(data))
