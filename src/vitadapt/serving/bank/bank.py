"""One frozen backbone, many adapters: a batch of mixed tasks is answered in one pass."""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ...nn.backbone import Backbone, backbone_digest
from ...nn.head import Classifier
from ...nn.surgery import copy_sharing_weights, is_adapted, require_vit
from ...nn.vit import ViT
from ...training.adapter_file import ADAPTER, AdapterInfo, load_adapter, read_adapter
from ...utils.errors import ConfigError, DataError, VitadaptError, WeightsError
from ...utils.files import bytes_digest, read_bounded
from ...utils.limits import ADAPTER_FILE
from ...utils.registry import unknown
from .adapters import (
    BACKBONE,
    HEAD,
    AdapterSummary,
    BankAdapter,
    File,
    ResidentAdapters,
    class_names,
    grouped_by_family,
    head_logits,
    pack,
    rows_at,
)
from .calls import Call, Packed
from .factors import FactorCache, Rows
from .family import Family, dissect, family_of
from .heads import HeadFamily, dissect_head
from .host import Plan, following, host_of

Source = Path | str | Classifier
"""An adapter: its file, a model folder with one, or a classifier of the bank's backbone."""


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
        self._residents = None if resident is None else ResidentAdapters(resident, self.device)
        self._factors = FactorCache(active)
        self._lock = threading.RLock()
        self._adapters: dict[str, BankAdapter] = {}
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
        return self._plain.patches.weight.device

    @property
    def names(self) -> tuple[str, ...]:
        """Of all adapters, in the order in which they were first added."""
        with self._lock:
            return tuple(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, name: object) -> bool:
        return name in self._adapters

    def info(self, name: str) -> AdapterSummary:
        """Raises UnknownName."""
        return self._adapter(name).summary

    def add(self, name: str, source: Source, classes: Sequence[str] = ()) -> None:
        """Add an adapter, or replace the one of this name at once and whole.

        A file is checked like by `load_adapter`; `classes` are for a classifier object, which does not know their
        names. Raises WeightsError when it does not fit the backbone, ConfigError for a name, source, head or class
        names that cannot be used, NotApplicable when it has nothing to share.
        """
        if not isinstance(name, str):
            raise ConfigError(f"the name of an adapter is a string, got {name!r}")
        info = path = file = None
        if isinstance(source, Classifier):
            model = source
        else:
            model, info, path, file = self._open(source)
            if classes:
                raise ConfigError(f"{path}: the file says how its classes are called; leave them out")
            classes = info.classes
        try:
            family, body = dissect(model.backbone, self._plain, self._families)
            head, own = dissect_head(model.head, cast(ViT, model.backbone).features, family.projected)
            classes = class_names(classes, model.head.linear.out_features)
        except VitadaptError as error:
            raise type(error)(f"adapter {name!r}: {error}") from error
        tensors = {BACKBONE + key: t for key, t in body.items()} | {HEAD + key: t for key, t in own.items()}
        packed = pack(family, head, tensors)
        size = sum(row.numel() * row.element_size() for row in (packed.body, packed.head))
        summary = AdapterSummary(classes, sum(t.numel() for t in tensors.values()), size, path, info)
        self._put(name, family, head, summary, file, packed)

    def remove(self, name: str) -> None:
        """Raises UnknownName. Calls that are being answered keep what they began with."""
        with self._lock:
            adapter = self._adapter(name)
            del self._adapters[name]
        if self._residents is not None:
            self._residents.drop(adapter)

    def is_resident(self, name: str) -> bool:
        """Is it ready on the device? Raises UnknownName."""
        adapter = self._adapter(name)
        return self._residents is None or adapter in self._residents

    @torch.no_grad()
    def logits(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Images (B, 3, S, S) and the adapter of each -> the logits of each, (C,) in fp32, C as its adapter has.

        uint8 0..255 or floats 0..1. Raises UnknownName, ConfigError when images and names are not as many, DataError
        for images of another shape than the backbone's, and WeightsError when an adapter's file vanished or changed.
        """
        return [logits for logits, _ in self.logits_and_features(images, names)]

    @torch.no_grad()
    def logits_and_features(self, images: Tensor, names: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """As `logits`, and of each image the features (E,) that the head of its adapter gets."""
        self._check(images, names)
        if not len(names):
            return []
        adapters = self._snapshot(names)
        order = grouped_by_family([adapters[name][0] for name in names])
        ordered = [adapters[names[i]] for i in order]
        features = self._features(rows_at(images.to(self.device), order), self._plan(ordered))
        found = head_logits(ordered, features)
        places = {image: place for place, image in enumerate(order)}
        own = [features[adapter.head.projected][place] for place, (adapter, _) in enumerate(ordered)]
        return [(found[places[image]], own[places[image]]) for image in range(len(names))]

    def classifier(self, name: str) -> Classifier:
        """The adapter as a model of its own, which shares the frozen weights. Raises UnknownName, WeightsError."""
        adapter, packed = self._snapshot([name])[name]
        with adapter.family.names.lock:
            backbone = copy_sharing_weights(adapter.family.template)
        places = dict(backbone.named_parameters()) | dict(backbone.named_buffers())
        for key, tensor in adapter.family.layout.views(packed.body).items():
            places[key].data = tensor.clone()
        return Classifier(backbone, adapter.head.alone(packed.head)).eval()

    def to(self, device: torch.device | str) -> Bank:
        """The same adapters on a copy of the backbone on another device; this bank stays as it is."""
        limit = self._residents.limit if self._residents is not None else None
        moved = Bank(copy.deepcopy(self._plain).to(device), resident=limit, active=self._factors.limit)
        for adapter, packed in self._snapshot(self.names).values():
            with adapter.family.names.lock:
                template = copy.deepcopy(adapter.family.template)
            family = family_of(template.to(device), moved._plain, adapter.family.layout.names)
            head, _ = dissect_head(adapter.head.alone(packed.head).to(device), template.features, family.projected)
            moved._put(adapter.name, family, head, adapter.summary, adapter.file, packed)
        return moved

    def _open(self, source: Path | str) -> tuple[Classifier, AdapterInfo, Path, File | None]:
        """The file is None when the adapter's numbers are not all in it. Raises ConfigError, WeightsError."""
        if not isinstance(source, (Path, str)):
            raise ConfigError(f"an adapter is a path or a Classifier, got {type(source).__name__}")
        path = Path(source)
        path = path / ADAPTER if path.is_dir() else path
        try:
            data = read_bounded(path, ADAPTER_FILE)
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
        self._digest = self._digest or backbone_digest(self._plain)
        info, tensors = read_adapter(path, data)
        model = load_adapter(path, self._plain, self._digest, data)
        complete = any(key.startswith(HEAD) for key in tensors)
        return model, info, path, File(path.absolute(), bytes_digest(data)) if complete else None

    def _put(
        self, name: str, family: Family, head: HeadFamily, summary: AdapterSummary, file: File | None, packed: Packed
    ) -> None:
        with self._lock:
            family = self._families.setdefault(family.key, family)
            head = self._heads.setdefault(head.key, head)
        ready = packed.to(self.device)
        if self._residents is None:
            adapter = BankAdapter(name, family, head, summary, packed=ready)
        else:
            stored = None if file else packed.to(torch.device("cpu"))
            adapter = BankAdapter(name, family, head, summary, file, stored)
        with self._lock:
            before = self._adapters.get(name)
            self._adapters[name] = adapter
        if self._residents is not None:
            self._residents.put(adapter, ready)
            if before is not None:
                self._residents.drop(before)

    def _adapter(self, name: str) -> BankAdapter:
        with self._lock:
            if name not in self._adapters:
                raise unknown("adapter", name, self._adapters)
            return self._adapters[name]

    def _check(self, images: Tensor, names: Sequence[str]) -> None:
        if not isinstance(images, Tensor):
            raise DataError(f"expected images as a tensor, got {type(images).__name__}; see torch.as_tensor")
        side, channels = self._plain.image_size, self._plain.config.channels
        if images.ndim != 4 or tuple(images.shape[1:]) != (channels, side, side):
            expected = f"(B, {channels}, {side}, {side})"
            raise DataError(f"expected images {expected}, got {tuple(images.shape)}; resize them first")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise DataError(f"expected uint8 images 0..255 or floating ones 0..1, got {images.dtype}; convert them")
        if isinstance(names, str) or len(names) != len(images):
            raise ConfigError(f"{len(images)} images need as many names of adapters, got {names!r}")

    def _snapshot(self, names: Sequence[str]) -> dict[str, tuple[BankAdapter, Packed]]:
        """The adapters asked for, as they are at one moment."""
        with self._lock:
            adapters = {name: self._adapter(name) for name in dict.fromkeys(names)}
        return {name: self._with_numbers(adapter) for name, adapter in adapters.items()}

    def _with_numbers(self, adapter: BankAdapter) -> tuple[BankAdapter, Packed]:
        if self._residents is None:
            return adapter, cast(Packed, adapter.packed)
        try:
            return adapter, self._residents.get(adapter)
        except WeightsError:
            with self._lock:
                now = self._adapters.get(adapter.name, adapter)
            if now is adapter:
                raise
            return self._with_numbers(now)  # its file was overwritten while it was replaced

    def _plan(self, ordered: Sequence[tuple[BankAdapter, Packed]]) -> Plan:
        plan, start = Plan(len(ordered)), 0
        for family, group in groupby(ordered, key=lambda pair: pair[0].family):
            packed = [packed for _, packed in group]
            results = self._factors.results(family.factors, family.layout, packed)
            plan.add(slice(start, start + len(packed)), family, Rows(family.layout, packed, results))
            start += len(packed)
        return plan

    def _features(self, images: Tensor, plan: Plan) -> dict[bool, Tensor]:
        """Images (B, 3, S, S) -> features (B, E) with and without the output projection."""
        with following(plan):
            plain = cast(Tensor, self._host(images))
        projected = cast(Tensor, self._plain.projection(plain))
        for part, piece, rows in plan.parts.get("projection", ()):
            projected[part] = rows.run(cast(Call, piece), plain[part])
        return {False: plain, True: projected}


def _plain(backbone: Backbone) -> ViT:
    vit = require_vit(backbone)
    if is_adapted(vit):
        raise ConfigError("a bank needs the plain backbone, and this one is adapted; load it again, or merge it")
    return copy_sharing_weights(vit).eval()
