"""Pictures as files for papers: PNG, SVG or PDF."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..benchmark.results.record import Record
from ..utils.errors import ConfigError
from ..utils.files import write_atomic
from ..utils.optional import package
from ..utils.registry import unknown
from .cost_figures import accuracy, cost
from .figure import MOST_PANELS, Panel, Picture, colour, dash, style, untagged
from .figure_data import Predictions, Subject
from .score_figures import heatmap, seeds
from .training_figures import learning, reliability, search

ENDINGS = (".png", ".svg", ".pdf")


def plot(records: Sequence[Record], path: Path, figure: str, predictions: Predictions) -> Path:
    """Write the picture named `figure` to `path` (.png, .svg or .pdf).

    Raises UnknownName for a picture that does not exist, ConfigError when there is nothing to draw or the file has
    another ending, StorageError when it cannot be written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path}: a plot ends in {', '.join(ENDINGS)}")
    if figure not in FIGURES:
        raise unknown("figure", figure, FIGURES)
    picture = FIGURES[figure](Subject(records, predictions))
    if not picture.panels:
        raise ConfigError(f"{NOTHING.get(figure, 'no run has what this figure shows')}, so there is nothing to plot")
    return write_picture(picture, path)


def write_picture(picture: Picture, path: Path) -> Path:
    """Write a picture that has panels to `path` (.png, .svg or .pdf). Raises MissingPackage, StorageError."""
    with drawing():
        drawn, buffer = _compose(picture), io.BytesIO()
        drawn.savefig(buffer, dpi=160, format=path.suffix.lower().removeprefix("."))
    write_atomic(path, buffer.getvalue())
    return path


NOTHING = {
    "accuracy": "no method has a score on every dataset yet",
    "cost": "no method has a score on every dataset yet",
    "search": "no run searched for its learning rate",
}


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib as the pictures need it. Raises MissingPackage when it is not installed."""
    matplotlib = package("matplotlib", "plot")
    with matplotlib.rc_context(style()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # names may be in any script
        yield


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure of this size in inches that knows the size of its texts; nothing global is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_panel(panel: Panel, axes: Any, tag: Any = untagged) -> None:
    """One panel on these axes."""
    panel.draw(axes, tag)
    axes.set_title(panel.title, loc="left")


def _compose(picture: Picture) -> Any:
    """All panels on one sheet, up to four beside each other, with the legend below."""
    panels = picture.panels[:MOST_PANELS]
    width, height = (max(panel.size[side] for panel in panels) for side in (0, 1))
    columns = _columns(len(panels), max(1, int(14 // width)))
    lines = math.ceil(len(panels) / columns)
    extra = 0.3 * math.ceil(len(picture.legend) / (2 * columns)) if picture.legend else 0.0
    figure = new_figure((columns * width, lines * height + extra))
    for panel, axes in zip(panels, figure.subplots(lines, columns, squeeze=False).flat, strict=False):
        draw_panel(panel, axes)
    for axes in figure.axes[len(panels) : lines * columns]:
        axes.remove()
    if picture.legend:
        _legend(figure, picture.legend, 2 * columns)
    return figure


def _columns(count: int, most: int) -> int:
    """Panels beside each other: about a square, and as few empty places as possible."""
    first = min(math.ceil(math.sqrt(count)), most)
    return min(range(first, min(count, most) + 1), key=lambda columns: -count % columns)


def _legend(figure: Any, names: Sequence[str], columns: int) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour(i), linestyle=dash(i), lw=1.6) for i in range(len(names))]
    figure.legend(lines, names, loc="outside lower center", ncols=min(columns, len(names)), fontsize=8, handlelength=3)


FIGURES: dict[str, Callable[[Subject], Picture]] = {
    "accuracy": accuracy,
    "heatmap": heatmap,
    "seeds": seeds,
    "learning": learning,
    "reliability": reliability,
    "cost": cost,
    "search": search,
}
