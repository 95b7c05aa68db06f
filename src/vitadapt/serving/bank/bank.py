"""One frozen backbone, many adapters: a batch of mixed tasks is answered in one pass."""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ...nn.backbone import Backbone, backbone_digest
from ...nn.head import Classifier
from ...nn.surgery import copy_sharing_weights, require_vit
from ...nn.vit import Block, SlotLinear, ViT
from ...training.adapter_file import load_adapter, read_adapter
from ...utils.errors import ConfigError, DataError, VitadaptError, WeightsError
from ...utils.files import bytes_digest, read_bounded
from ...utils.limits import ADAPTER_FILE
from ...utils.registry import unknown
from .calls import Call
from .entries import BACKBONE, HEAD, Entry, Facts, File, Packed, Residents, pack
from .family import Family, dissect, family_of
from .heads import HeadFamily, crowd, dissect_head
from .host import Plan, Share, following, host_of
from .thin import Active, Rows

Source = Path | str | Classifier
"""An adapter: its file, a model folder with one, or a classifier of the bank's backbone."""


@dataclass(frozen=True)
class _Opened:
    classifier: Classifier
    classes: tuple[str, ...] = ()
    path: Path | None = None
    info: Any = None
    file: File | None = None  # None when the adapter's numbers are not all in `path`


class Bank:
    """Many adapters, with heads of any sizes, on one frozen `backbone` whose weights are held once.

        bank = Bank(backbone, {"pets": "pets.safetensors", "cars": "cars.safetensors"})
        pets, cars = bank.logits(images, ["pets", "cars"])

    resident: how many adapters stay ready on the device; the least recently used others are read from their files
    when they are asked for (None: all stay). One that was given as a classifier has no file: its numbers stay in the
    memory of the CPU. active: bytes for the factors of the adapters that were
    used last; where these do not suffice they are made anew for every batch, layer by layer.

    May be used by several threads: a call answers with the adapters as they were at one moment, and one that is added
    under a name that exists replaces it whole.

    Raises NotApplicable when `backbone` is no plain ViT, ConfigError when it is adapted itself or `resident` is less
    than 1, and what `add` raises.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Mapping[str, Source] | None = None,
        *,
        resident: int | None = None,
        active: int = 64 << 20,
    ) -> None:
        if resident is not None and resident < 1:
            raise ConfigError(f"resident={resident}: at least one adapter must stay in memory (None: all of them)")
        self._plain = _plain(backbone)
        self._host = host_of(self._plain)
        self._digest = ""
        self._residents = None if resident is None else Residents(resident, self.device)
        self._active = Active(active)
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._families: WeakValueDictionary[Hashable, Family] = WeakValueDictionary()  # they go with their last adapter
        self._heads: WeakValueDictionary[Hashable, HeadFamily] = WeakValueDictionary()
        for name, source in (adapters or {}).items():
            self.add(name, source)

    @property
    def backbone(self) -> ViT:
        """The plain backbone: frozen, and sharing its weights with the one that was given."""
        return self._plain

    @property
    def device(self) -> torch.device:
        return self._plain.position.device

    @property
    def names(self) -> tuple[str, ...]:
        """Of all adapters, in the order in which they were first added."""
        with self._lock:
            return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def info(self, name: str) -> Facts:
        """Raises UnknownName."""
        return self._entry(name).facts

    def add(self, name: str, source: Source, classes: Sequence[str] = ()) -> None:
        """Add an adapter, or replace the one of this name at once and whole.

        A file is checked like by `load_adapter`; `classes` are for a classifier object, which does not know their
        names. Raises WeightsError when it does not fit the backbone, ConfigError for a name, source, head or class
        names that cannot be used, NotApplicable when it has nothing to share.
        """
        if not isinstance(name, str):
            raise ConfigError(f"the name of an adapter is a string, got {name!r}")
        opened = self._open(source, tuple(classes))
        try:
            entry, packed = self._entered(name, opened)
        except VitadaptError as error:
            raise type(error)(f"adapter {name!r}: {error}") from error
        self._put(entry, packed)

    def remove(self, name: str) -> None:
        """Raises UnknownName. Calls that are being answered keep what they began with."""
        with self._lock:
            entry = self._entry(name)
            del self._entries[name]
        if self._residents is not None:
            self._residents.drop(entry)

    def is_resident(self, name: str) -> bool:
        """Is it ready on the device? Raises UnknownName."""
        entry = self._entry(name)
        return self._residents is None or entry in self._residents

    @torch.no_grad()
    def logits(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Images (B, 3, S, S) and the adapter of each -> the logits of each, (C,) in fp32, C as its adapter has.

        uint8 0..255 or floats 0..1. Raises UnknownName, ConfigError when images and names are not as many, DataError
        for images of another shape than the backbone's, and WeightsError when an adapter's file vanished or changed.
        """
        self._check(images, names)
        if not len(names):
            return []
        adapters = self._snapshot(names)
        ranks = _Ranks()
        order = sorted(range(len(names)), key=lambda i: ranks.of(adapters[names[i]][0]))
        ordered = [adapters[names[i]] for i in order]
        shares = [share for share in self._shares(ordered) if share.family.pieces]
        features = self._features(_gathered(images.to(self.device), order), shares)
        answers: list[Tensor] = [images] * len(names)
        for place, answer in _answers(ordered, features).items():
            answers[order[place]] = answer
        return answers

    def classifier(self, name: str) -> Classifier:
        """The adapter as a model of its own, which shares the frozen weights. Raises UnknownName, WeightsError."""
        entry, packed = self._snapshot([name])[name]
        return _classifier(entry, packed)

    def to(self, device: torch.device | str) -> Bank:
        """The same adapters on a copy of the backbone on another device; this bank stays as it is."""
        limit = self._residents.limit if self._residents is not None else None
        moved = Bank(copy.deepcopy(self._plain).to(device), resident=limit, active=self._active.limit)
        for entry, packed in self._snapshot(self.names).values():
            with entry.family.numbers.lock:
                template = copy.deepcopy(entry.family.template)
            family = family_of(template.to(device), moved._plain, entry.family.layout.names)
            model = Classifier(template, entry.head.alone(packed.head).to(device))
            head, _ = dissect_head(model.head, template.features, family.projected)
            body = {BACKBONE + key: t for key, t in entry.family.layout.views(packed.body).items()}
            own = {HEAD + key: t for key, t in entry.head.views(packed.head).items()}
            opened = _Opened(model, entry.facts.classes, entry.facts.path, entry.facts.adapter, entry.file)
            moved._put(*moved._made(entry.name, (family, head), body | own, opened))
        return moved

    def _open(self, source: Source, classes: tuple[str, ...]) -> _Opened:
        if isinstance(source, Classifier):
            return _Opened(source, classes)
        path = _file(source)
        if classes:
            raise ConfigError(f"{path}: the file says how its classes are called; leave them out")
        try:
            data = read_bounded(path, ADAPTER_FILE)
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
        self._digest = self._digest or backbone_digest(self._plain)
        info, tensors = read_adapter(path, data)
        model = load_adapter(path, self._plain, self._digest, data)
        whole = any(key.startswith(HEAD) for key in tensors)
        return _Opened(model, info.classes, path, info, File(path.absolute(), bytes_digest(data)) if whole else None)

    def _entered(self, name: str, opened: _Opened) -> tuple[Entry, Packed]:
        model = opened.classifier
        family, body = dissect(model.backbone, self._plain, self._families)
        head, own = dissect_head(model.head, cast(ViT, model.backbone).features, family.projected)
        count = model.head.linear.out_features
        classes = opened.classes or tuple(str(i) for i in range(count))
        if len(classes) != count:
            raise ConfigError(f"{len(classes)} class names for a head of {count} classes")
        if len(set(classes)) != count:
            raise ConfigError(f"{len(set(classes))} different class names for a head of {count} classes")
        tensors = {BACKBONE + key: t for key, t in body.items()} | {HEAD + key: t for key, t in own.items()}
        return self._made(name, (family, head), tensors, replace(opened, classes=classes))

    def _made(
        self, name: str, kinds: tuple[Family, HeadFamily], tensors: Mapping[str, Tensor], opened: _Opened
    ) -> tuple[Entry, Packed]:
        """The entry of an adapter with these tensors, and its numbers."""
        with self._lock:
            family = self._families.setdefault(kinds[0].key, kinds[0])
            head = self._heads.setdefault(kinds[1].key, kinds[1])
        packed = pack(family, head, tensors)
        size = sum(row.numel() * row.element_size() for row in (packed.body, packed.head))
        parameters = sum(t.numel() for t in tensors.values())
        facts = Facts(opened.classes, parameters, size, opened.path, opened.info)
        ready = packed.to(self.device)
        if self._residents is None:
            return Entry(name, family, head, facts, packed=ready), ready
        return Entry(name, family, head, facts, opened.file, None if opened.file else packed), ready

    def _put(self, entry: Entry, packed: Packed) -> None:
        with self._lock:
            before = self._entries.get(entry.name)
            self._entries[entry.name] = entry
        if self._residents is not None:
            self._residents.put(entry, packed)
            if before is not None:
                self._residents.drop(before)

    def _entry(self, name: str) -> Entry:
        with self._lock:
            if name not in self._entries:
                raise unknown("adapter", name, self._entries)
            return self._entries[name]

    def _check(self, images: Tensor, names: Sequence[str]) -> None:
        if not isinstance(images, Tensor):
            raise DataError(f"expected images as a tensor, got {type(images).__name__}; see torch.as_tensor")
        side = self._plain.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise DataError(f"expected images (B, 3, {side}, {side}), got {tuple(images.shape)}; resize them first")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise DataError(f"expected uint8 images 0..255 or floating ones 0..1, got {images.dtype}; convert them")
        if isinstance(names, str) or len(names) != len(images):
            raise ConfigError(f"{len(images)} images need as many names of adapters, got {names!r}")

    def _snapshot(self, names: Sequence[str]) -> dict[str, tuple[Entry, Packed]]:
        """The adapters asked for, as they are at one moment."""
        with self._lock:
            entries = {name: self._entry(name) for name in dict.fromkeys(names)}
        return {name: self._held(entry) for name, entry in entries.items()}

    def _held(self, entry: Entry) -> tuple[Entry, Packed]:
        if self._residents is None:
            return entry, cast(Packed, entry.packed)
        try:
            return entry, self._residents.get(entry)
        except WeightsError:
            with self._lock:
                now = self._entries.get(entry.name, entry)
            if now is entry:
                raise
            return self._held(now)  # its file was overwritten while it was replaced

    def _shares(self, ordered: Sequence[tuple[Entry, Packed]]) -> list[Share]:
        shares, start = [], 0
        for stop in range(1, len(ordered) + 1):
            family = ordered[start][0].family
            if stop == len(ordered) or ordered[stop][0].family is not family:
                packed = [packed.body for _, packed in ordered[start:stop]]
                made = self._active.made(family.makers, family.layout, packed)
                shares.append(Share(family, slice(start, stop), Rows(family.layout, packed, made)))
                start = stop
        return shares

    def _features(self, images: Tensor, shares: list[Share]) -> dict[bool, Tensor]:
        """Images (B, 3, S, S) -> features (B, E) with and without the output projection."""
        with following(Plan.of(len(images), shares)):
            plain = cast(Tensor, self._host(images))
        projected = cast(Tensor, self._plain.projection(plain))
        for share in shares:
            piece = share.family.pieces.get("projection")
            if piece is not None:
                projected[share.images] = share.rows.run(cast(Call, piece), plain[share.images])
        return {False: plain, True: projected}


class _Ranks:
    """Numbers by which adapters of one family, and in it equal ones, become neighbours in a batch."""

    def __init__(self) -> None:
        self._families: dict[Family, int] = {}
        self._entries: dict[Entry, int] = {}

    def of(self, entry: Entry) -> tuple[int, int]:
        family = self._families.setdefault(entry.family, len(self._families))
        return family, self._entries.setdefault(entry, len(self._entries))


def _answers(ordered: Sequence[tuple[Entry, Packed]], features: Mapping[bool, Tensor]) -> dict[int, Tensor]:
    """Place in the batch -> logits (C,)."""
    groups: dict[tuple[HeadFamily, int], list[int]] = {}
    for place, (entry, _) in enumerate(ordered):
        groups.setdefault((entry.head, crowd(len(entry.facts.classes))), []).append(place)
    answers = {}
    for (head, _), places in groups.items():
        own = _gathered(features[head.projected], places)
        for place, row in zip(places, head.logits([ordered[i][1].head for i in places], own), strict=True):
            answers[place] = row[: len(ordered[place][0].facts.classes)]
    return answers


def _gathered(rows: Tensor, places: list[int]) -> Tensor:
    """The rows of (B, ...) at `places`; not copied when these are all of them in their order."""
    if places == list(range(len(rows))):
        return rows
    return rows[torch.tensor(places, device=rows.device)]


def _classifier(entry: Entry, packed: Packed) -> Classifier:
    with entry.family.numbers.lock:
        backbone = copy_sharing_weights(entry.family.template)
    places = dict(backbone.named_parameters()) | dict(backbone.named_buffers())
    for name, tensor in entry.family.layout.views(packed.body).items():
        places[name].data = tensor.clone()
    return Classifier(backbone, entry.head.alone(packed.head)).eval()


def _plain(backbone: Backbone) -> ViT:
    vit = copy_sharing_weights(require_vit(backbone)).eval()
    changed = [layer.deltas if isinstance(layer, SlotLinear) else layer.inserted for layer in _carriers(vit)]
    if any(len(modules) for modules in changed):
        raise ConfigError("a bank needs the plain backbone, and this one is adapted; load it again, or merge it")
    return vit


def _carriers(vit: ViT) -> list[SlotLinear | Block]:
    return [module for module in vit.modules() if isinstance(module, (SlotLinear, Block))]


def _file(source: Path | str) -> Path:
    from ...training.adapter_file import ADAPTER

    if not isinstance(source, (Path, str)):
        raise ConfigError(f"an adapter is a path or a Classifier, got {type(source).__name__}")
    path = Path(source)
    return path / ADAPTER if path.is_dir() else path
