"""What every picture is made of: panels with one coordinate system each, colours by role, names that fit.

A panel draws itself on any matplotlib axes, so that a file for a paper and the page in a browser show the same thing.
Colours are roles: the page puts others in their place when it is dark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Protocol

Axes = Any  # matplotlib.axes.Axes; the library is loaded by those who draw

INK, MUTED, GRID, PAPER = "#1c2127", "#5f6873", "#dde1e6", "#fefefe"
SERIES = ("#0067a8", "#c44e00", "#007f5f", "#a8478b", "#8a6d00", "#4a4fc4", "#b3313f", "#3f7d95")
"""Told apart with the common kinds of colour blindness; beyond them the dashes change."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
WIDE, SMALL = (6.0, 4.0), (3.5, 2.7)  # inches
LONGEST = 30
MOST_PANELS = 60  # of one picture


class Tag(Protocol):
    """Says of a drawn thing what it is, for readers that can ask: a tip, and what filters know about it."""

    def __call__(self, artist: Any, tip: str, **about: str) -> None: ...


def untagged(artist: Any, tip: str, **about: str) -> None:
    """A `Tag` for files on paper."""


@dataclass(frozen=True)
class Panel:
    """One coordinate system. `about` says which records it shows (field -> value); `summary` says it in words."""

    title: str
    draw: Callable[[Axes, Tag], None]
    about: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    size: tuple[float, float] = SMALL


@dataclass(frozen=True)
class Picture:
    """Panels of one kind under one heading. `legend`: names of the series in the order of their colours, or nothing."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    legend: Sequence[str] = ()


def colour(index: int) -> str:
    """The colour of the series with this number."""
    return SERIES[index % len(SERIES)]


def dash(index: int) -> Any:
    """The dashes of the series with this number; with the colour they tell 32 series apart."""
    return DASHES[index // len(SERIES) % len(DASHES)]


def clean(text: str, longest: int = LONGEST) -> str:
    """Text that can be drawn: no control characters, and cut in the middle when it is long."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", text)
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2 - 1]}…{text[-(longest - longest // 2) :]}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Name -> its last part when it is a path (as many parts as tell all names apart); other names stay."""
    parts = {name: PurePath(name).parts or (name,) for name in names}
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        short = {name: "/".join(those[-count:]) for name, those in parts.items()}
        if len(set(short.values())) == len(short):
            return short
    return {name: name for name in names}


def style() -> dict[str, Any]:
    """matplotlib settings for every picture. Names are never read as formulas, and text stays text."""
    edges = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED)
    return {
        **edges,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
        "axes.axisbelow": True,
        "axes.titlesize": 10,
        "font.size": 9,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "text.parse_math": False,
    }


def log_axis(axis: Any, values: Sequence[float]) -> None:
    """Make an axis logarithmic, with a few round numbers on it however small the range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    span = max(values) / min(values)
    few = LogLocator(subs=(1.0, 2.0, 5.0) if span < 100 else (1.0,))
    axis.set_major_locator(MaxNLocator(4) if span < 6 else few)
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    axis.set_minor_formatter(NullFormatter())


def number_text(value: float) -> str:
    """A short number: 0.001, 2.5, 300, 10k, 1M; powers of ten below a thousandth."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 1e-3 else f"{value:.4g}"


# where a name may stand beside its point, in points; the first that fits is taken
OFFSETS = (
    *((0, 7), (0, -14), (9, -3), (-9, -3), (9, 6), (-9, 6)),
    *((9, -13), (-9, -13), (0, 17), (0, -24), (9, 15), (-9, 15)),
)


def label_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], size: float = 8) -> list[Any]:
    """Write each name beside its point, where it covers neither a point nor another name and stays on the axes."""
    axes.figure.draw_without_rendering()  # before that the places of points are unknown
    places = [tuple(axes.transData.transform(point)) for point in points]
    scale, frame = axes.figure.dpi / 72, axes.bbox.extents
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    written = []
    for (x, y), point, name in zip(places, points, names, strict=True):
        boxes = {offset: _box(x, y, offset, len(name) * size * 0.58, size, scale) for offset in OFFSETS}
        offset = min(OFFSETS, key=lambda o: _trouble(boxes[o], taken, frame))
        taken.append(boxes[offset])
        side = "center" if offset[0] == 0 else "left" if offset[0] > 0 else "right"
        behind = {"facecolor": PAPER, "alpha": 0.7, "edgecolor": "none", "pad": 0.6}
        where = {"xytext": offset, "textcoords": "offset points", "ha": side, "fontsize": size, "bbox": behind}
        written.append(axes.annotate(name, point, zorder=2.5, **where))
    return written


Box = tuple[float, float, float, float]


def _box(x: float, y: float, offset: tuple[int, int], width: float, height: float, scale: float) -> Box:
    """Left, bottom, right, top in pixels of a text at this offset (in points) of a place."""
    left = x + offset[0] * scale - (width / 2 if offset[0] == 0 else 0 if offset[0] > 0 else width) * scale
    bottom = y + offset[1] * scale
    return left, bottom, left + width * scale, bottom + height * scale


def _overlap(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _trouble(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """How much a text in this box would cover, or stick out of the frame."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_overlap(box, other) for other in taken) + area - _overlap(box, frame)
