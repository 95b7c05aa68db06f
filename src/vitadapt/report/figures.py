"""The pictures by name: what `vitadapt plot` writes and `vitadapt report` shows. One more is one more line."""

from __future__ import annotations

from collections.abc import Callable

from .costs import accuracy, cost
from .diagrams import learning, reliability, search
from .panels import Picture
from .scores import heatmap, seeds
from .subject import Subject

FIGURES: dict[str, Callable[[Subject], Picture]] = {
    "accuracy": accuracy,
    "heatmap": heatmap,
    "seeds": seeds,
    "learning": learning,
    "reliability": reliability,
    "cost": cost,
    "search": search,
}
