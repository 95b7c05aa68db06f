"""How many numbers each method trains, beside the published figures; and whether they can learn at all."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ..methods import METHODS
from ..methods.audit import TensorReport, probe
from ..methods.laws import law_trainable_tensors_learn
from ..methods.spec import parse_method
from ..metrics.scores import performance_efficiency
from ..nn.backbone import Backbone
from ..nn.surgery import Method, acts_on, adapt, adapt_both, towers_of, trainable
from ..text import load_text_tower
from ..utils.errors import NotApplicable
from ..utils.files import shipped_table
from ..weights import load_backbone

MEAN_CLASSES = 57.55  # 1151 classes in the 20 datasets of ELEVATER


@dataclass(frozen=True)
class CountRow:
    """Trainable numbers of one method on one backbone; None where the method does not apply.

    pe_factor: what PE takes of a score of 1 with the mean head. score, pe: the published mean score, and its PE with
    the numbers counted here. tensors: the status of each after a few probe steps, where that was wanted.
    """

    method: str
    trained: int | None
    head: float
    published: int | None
    tensors: list[TensorReport]
    pe_factor: float | None = None
    score: float | None = None
    pe: float | None = None

    @property
    def sound(self) -> bool:
        """Can every tensor learn, unless the method says of itself that one cannot?"""
        stated = law_trainable_tensors_learn.__name__ in parse_method(self.method).breaks
        return stated or all(tensor.status == "live" for tensor in self.tensors)


def count_methods(backbone: str, methods: list[str], audit: bool = False) -> list[CountRow]:
    """Count `methods` (texts such as "lora:rank=8"; all when empty) on the named backbone. Raises UnknownName."""
    published, scores = _published(backbone)
    towers = _Towers(backbone)
    rows = []
    for text in methods or list(METHODS):
        method, trained, tensors = parse_method(text), None, list[TensorReport]()
        try:
            trained = towers.trained(method)
            tensors = [report for tower in towers.of(method) for report in probe(tower, method)] if audit else []
        except NotApplicable:
            pass
        trains_head = method.trains_head and towers_of(method) == "image"
        head = (towers.image.features + 1) * MEAN_CLASSES if trains_head else 0.0
        factor = None if trained is None else performance_efficiency(1.0, trained + head)
        score = scores.get(text)
        pe = None if factor is None or score is None else score * factor
        rows.append(CountRow(text, trained, head, published.get(text), tensors, factor, score, pe))
    return rows


def _published(backbone: str) -> tuple[dict[str, int], dict[str, float]]:
    """Method -> trained numbers, and mean score, as published for this backbone."""
    table = shipped_table(__package__, "published.toml")
    places = table["backbones"]
    trained = table["trained"] if backbone in places["trained"] else {}
    if backbone in places["score"]:
        return trained, table["score"]
    return {name: count for name, count in trained.items() if name not in places["by_patch"]}, {}


@dataclass
class _Towers:
    """The image tower of a name, and the text tower beside it where a method asks for it, each made once."""

    name: str
    _shapes: dict[int, Any] = field(default_factory=dict)

    @cached_property
    def image(self) -> Backbone:
        return load_backbone(self.name)

    @cached_property
    def text(self) -> Any:
        """Raises NotApplicable where there is none."""
        return load_text_tower(self.name, self.image).network

    def of(self, method: Method) -> list[Any]:
        """Those that the method acts on."""
        both = [self.image] if towers_of(method) == "image" else [self.image, self.text]
        return [tower for tower in both if acts_on(method, tower)]

    def trained(self, method: Method) -> int:
        """How many numbers the method trains; only shapes are computed."""
        towers = self.of(method)
        for tower in towers:
            if id(tower) not in self._shapes:
                self._shapes[id(tower)] = copy.deepcopy(tower).to("meta")
        shapes = [self._shapes[id(tower)] for tower in towers]
        with torch.device("meta"):
            if len(shapes) == 2:
                sentences = torch.zeros(1, shapes[1].config.context, dtype=torch.long)
                shapes = [*adapt_both(shapes[0], shapes[1], sentences, method)]
            else:
                shapes = [adapt(tower, method) for tower in shapes]
        return sum(p.numel() for tower in shapes for p in trainable(tower).values())
