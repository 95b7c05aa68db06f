"""How many numbers each method trains, beside the published figures; and whether they can learn at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..methods import METHODS
from ..methods.audit import TensorReport, probe
from ..methods.laws import law_trainable_tensors_learn
from ..methods.spec import parse_method
from ..nn.backbone import Backbone
from ..nn.surgery import Method, acts_on, adapt, towers_of, trainable
from ..text import load_text_tower
from ..utils.errors import NotApplicable
from ..utils.files import shipped_table
from ..weights import load_backbone

MEAN_CLASSES = 57.55  # 1151 classes in the 20 datasets of ELEVATER


@dataclass(frozen=True)
class CountRow:
    """Trainable numbers of one method on one backbone; None where the method does not apply.

    tensors: the status of each after a few probe steps, where that was wanted.
    """

    method: str
    trained: int | None
    head: float
    published: int | None
    tensors: list[TensorReport]

    @property
    def sound(self) -> bool:
        """Can every tensor learn, unless the method says of itself that one cannot?"""
        stated = law_trainable_tensors_learn.__name__ in parse_method(self.method).breaks
        return stated or all(tensor.status == "live" for tensor in self.tensors)


def count_methods(backbone: str, methods: list[str], audit: bool = False) -> list[CountRow]:
    """Count `methods` (texts such as "lora:rank=8"; all when empty) on the named backbone. Raises UnknownName."""
    table = shipped_table(__package__, "published.toml")
    published = table["trained"] if backbone in table["backbones"]["names"] else {}
    model = load_backbone(backbone)
    rows = []
    for text in methods or list(METHODS):
        method, trained, tensors = parse_method(text), None, list[TensorReport]()
        try:
            networks = [tower for tower in _towers(model, backbone, method) if acts_on(method, tower)]
            trained = sum(p.numel() for tower in networks for p in trainable(adapt(tower, method)).values())
            tensors = [report for tower in networks for report in probe(tower, method)] if audit else []
        except NotApplicable:
            pass
        trains_head = method.trains_head and towers_of(method) == "image"
        head = (model.features + 1) * MEAN_CLASSES if trains_head else 0.0
        rows.append(CountRow(text, trained, head, published.get(text), tensors))
    return rows


def _towers(model: Backbone, name: str, method: Method) -> list[Any]:
    """The image tower and, where the method acts on it, the text tower beside it. Raises NotApplicable without one."""
    return [model] if towers_of(method) == "image" else [model, load_text_tower(name, model).network]
