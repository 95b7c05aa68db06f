"""How many numbers each method trains, beside the published figures; and whether they can learn at all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

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
    """Trainable numbers of one method on one backbone; None where the method does not apply."""

    method: str
    trained: int | None
    head: float
    published: int | None

    @property
    def applies(self) -> bool:
        return self.trained is not None

    @property
    def shown(self) -> str:
        return "does not apply" if self.trained is None else f"{self.trained:,}"

    @property
    def with_head(self) -> str:
        return "" if self.trained is None else f"{int(self.trained + self.head):,}"


def count_methods(backbone: str, methods: list[str]) -> list[CountRow]:
    """Count `methods` (texts such as "lora:rank=8"; all when empty) on the named backbone. Raises UnknownName."""
    table = shipped_table(__package__, "published.toml")
    published = table["trained"] if backbone in table["backbones"]["names"] else {}
    model = load_backbone(backbone)
    rows = []
    for text in methods or list(METHODS):
        method = parse_method(text)
        try:
            trained = sum(p.numel() for p in trainable(adapt(model, method)).values())
        except NotApplicable:
            trained = None
        head = (model.features + 1) * MEAN_CLASSES if method.trains_head else 0.0
        rows.append(CountRow(text, trained, head, published.get(text)))
    return rows


def audit_methods(backbone: str, methods: list[str]) -> dict[str, list[TensorReport]]:
    """Method -> status of each of its trainable tensors after a few probe steps."""
    model = load_backbone(backbone)
    return {text: probe(model, parse_method(text)) for text in methods}


def unsound(reports: dict[str, list[TensorReport]]) -> bool:
    """Is there a tensor that cannot learn, in a method that does not say so of itself?"""
    return any(
        tensor.status != "live"
        for method, tensors in reports.items()
        if law_trainable_tensors_learn.__name__ not in parse_method(method).breaks
        for tensor in tensors
    )


def plain(rows: list[CountRow], reports: dict[str, list[TensorReport]]) -> list[dict[str, Any]]:
    """JSON values."""
    return [
        {**dataclasses.asdict(row), "tensors": [dataclasses.asdict(t) for t in reports.get(row.method, [])]}
        for row in rows
    ]
