"""How many numbers each method trains, beside the published figures; and whether they can learn at all."""

from __future__ import annotations

from dataclasses import dataclass

from ..methods import METHODS
from ..methods.audit import TensorReport, probe
from ..methods.laws import law_trainable_tensors_learn
from ..methods.spec import parse_method
from ..nn.surgery import adapt, trainable
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
            trained = sum(p.numel() for p in trainable(adapt(model, method)).values())
            tensors = probe(model, method) if audit else []
        except NotApplicable:
            pass
        head = (model.features + 1) * MEAN_CLASSES if method.trains_head else 0.0
        rows.append(CountRow(text, trained, head, published.get(text), tensors))
    return rows
