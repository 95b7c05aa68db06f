"""What a bank knows of an adapter; the least recently used ones are read again from their files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load
from torch import Tensor

from ...nn.surgery import Method
from ...training.adapter_file import AdapterInfo
from ...utils.errors import ConfigError, WeightsError
from ...utils.files import bytes_digest, read_bounded
from ...utils.limits import ADAPTER_FILE
from .calls import Packed
from .family import Family
from .heads import HeadFamily, padded_size

BACKBONE, CONSTANT, HEAD = "backbone.", "constant.", "head."  # prefixes of the names in an adapter file


@dataclass(frozen=True)
class AdapterSummary:
    """What a bank says of an adapter.

    parameters: its numbers, head and constants included. bytes: of memory that it takes while it is resident.
    path: its file, None for one given as an object. adapter: what that file says of itself.
    """

    classes: tuple[str, ...]
    parameters: int
    bytes: int
    path: Path | None = None
    adapter: AdapterInfo | None = None

    @property
    def method(self) -> Method | None:
        """The method that made it, if a file names it."""
        return self.adapter.method if self.adapter else None


@dataclass(frozen=True)
class File:
    """Where an adapter's tensors can be read again, and the digest of the bytes that were checked."""

    path: Path
    digest: str


@dataclass(frozen=True, eq=False)
class BankAdapter:
    """An adapter as it was added: never changed, only replaced.

    file: where its numbers can be read again. packed: the numbers, where all adapters stay ready, and of one without a
    file, then in the memory of the CPU.
    """

    name: str
    family: Family
    head: HeadFamily
    summary: AdapterSummary
    file: File | None = None
    packed: Packed | None = None


def pack(family: Family, head: HeadFamily, tensors: Mapping[str, Tensor]) -> Packed:
    """Of tensors named as in an adapter file, on the CPU. Raises KeyError when one is missing."""
    body = {
        name: tensors[CONSTANT + name if CONSTANT + name in tensors else BACKBONE + name]
        for name in family.layout.names
    }
    own = {name.removeprefix(HEAD): t for name, t in tensors.items() if name.startswith(HEAD)}
    return Packed(family.layout.pack(body), head.pack(own))


class ResidentAdapters:
    """The adapters ready on the device, `limit` of them at most; the others are fetched when they are asked for."""

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit, self.device = limit, device
        self._resident: OrderedDict[BankAdapter, Packed] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, adapter: BankAdapter) -> bool:
        with self._lock:
            return adapter in self._resident

    def get(self, adapter: BankAdapter) -> Packed:
        """Its numbers. Raises WeightsError when its file vanished or is not what was added."""
        with self._lock:
            if adapter in self._resident:
                self._resident.move_to_end(adapter)
                return self._resident[adapter]
        packed = (adapter.packed or _read(adapter, cast(File, adapter.file))).to(self.device)
        self.put(adapter, packed)
        return packed

    def put(self, adapter: BankAdapter, packed: Packed) -> None:
        with self._lock:
            self._resident[adapter] = packed
            self._resident.move_to_end(adapter)
            while len(self._resident) > self.limit:
                self._resident.popitem(last=False)

    def drop(self, adapter: BankAdapter) -> None:
        with self._lock:
            self._resident.pop(adapter, None)


def _read(adapter: BankAdapter, file: File) -> Packed:
    who = f"adapter {adapter.name!r}: {file.path}"
    try:
        data = read_bounded(file.path, ADAPTER_FILE)
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"{who} cannot be read again ({reason}); put it back, or add the adapter again") from error
    if bytes_digest(data) != file.digest:
        raise WeightsError(f"{who} is no longer the file that was added; add the adapter again")
    return pack(adapter.family, adapter.head, load(data))


def grouped_by_family(adapters: Sequence[BankAdapter]) -> list[int]:
    """An order of the places in a batch: adapters of one family, and in it equal ones, become neighbours."""
    families: dict[Family, int] = {}
    numbers: dict[BankAdapter, int] = {}
    ranks = [
        (families.setdefault(adapter.family, len(families)), numbers.setdefault(adapter, len(numbers)))
        for adapter in adapters
    ]
    return sorted(range(len(adapters)), key=ranks.__getitem__)


def head_logits(ordered: Sequence[tuple[BankAdapter, Packed]], features: Mapping[bool, Tensor]) -> dict[int, Tensor]:
    """Features (B, E) with and without the output projection -> place in the batch -> logits (C,)."""
    groups: dict[tuple[HeadFamily, int], list[int]] = {}
    for place, (adapter, _) in enumerate(ordered):
        groups.setdefault((adapter.head, padded_size(len(adapter.summary.classes))), []).append(place)
    found = {}
    for (head, _), places in groups.items():
        rows = head.logits([ordered[i][1].head for i in places], rows_at(features[head.projected], places))
        for place, row in zip(places, rows, strict=True):
            found[place] = row[: len(ordered[place][0].summary.classes)]
    return found


def class_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Of a head of `count` classes; without names they are numbers. Raises ConfigError."""
    names = tuple(names) or tuple(str(i) for i in range(count))
    for kind, found in (("class names", len(names)), ("different class names", len(set(names)))):
        if found != count:
            raise ConfigError(f"{found} {kind} for a head of {count} classes")
    return names


def rows_at(rows: Tensor, places: list[int]) -> Tensor:
    """The rows of (B, ...) at `places`; not copied when these are all of them in their order."""
    return rows if places == list(range(len(rows))) else rows[torch.tensor(places, device=rows.device)]
