"""The picture of the paper: accuracy against the number of trainable parameters, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, StorageError
from ..results import Record
from .table import Row, rows_of

ENDINGS = (".png", ".svg", ".pdf")


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of (cost, score) points that no other point beats in both, by rising cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def plot_accuracy(records: Sequence[Record], path: Path) -> Path:
    """Write the picture to `path` (.png, .svg or .pdf). Raises ConfigError, StorageError."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path}: a plot ends in {', '.join(ENDINGS)}")
    rows = [row for row in rows_of(records) if row.average is not None and row.trained is not None]
    if not rows:
        raise ConfigError("no method has a score on every dataset yet, so there is nothing to plot")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('plots need matplotlib: pip install "vitadapt[plot]"') from error
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure, rows, sorted({record.config["dataset"] for record in records}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def _draw(figure: object, rows: Sequence[Row], datasets: list[str]) -> None:
    axes = figure.subplots()  # type: ignore[attr-defined]
    points = [(max(row.trained or 0.0, 1.0), row.average or 0.0) for row in rows]  # a logarithm knows no zero
    pe = [row.pe or 0.0 for row in rows]
    front = pareto(points)
    axes.plot([points[i][0] for i in front], [points[i][1] for i in front], color="0.75", lw=1.2, zorder=1)
    dots = axes.scatter(*zip(*points, strict=True), c=pe, cmap="viridis", s=64, zorder=2, edgecolor="white")
    for row, (x, y) in zip(rows, points, strict=True):
        spread = max((cell.sd or 0.0) for cell in row.cells.values()) if len(datasets) == 1 else 0.0
        if spread:
            axes.errorbar(x, y, yerr=spread, color="0.6", lw=1, capsize=2, zorder=1)
    _label(axes, rows, points)
    axes.set_xscale("log")
    axes.margins(x=0.14, y=0.12)
    axes.set_xlabel("trainable parameters (head included)")
    axes.set_ylabel(
        f"score on {datasets[0]} (%)" if len(datasets) == 1 else f"mean score on {len(datasets)} datasets (%)"
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.colorbar(dots, ax=axes, label="PE score")  # type: ignore[attr-defined]


def _label(axes: object, rows: Sequence[Row], points: Sequence[tuple[float, float]]) -> None:
    """Names beside the points; the later of two that would overlap goes below its point."""
    placed: list[tuple[float, float]] = []
    scores = [y for _, y in points]
    step = max(max(scores) - min(scores), 1.0) / 14
    import math

    for row, (x, y) in sorted(zip(rows, points, strict=True), key=lambda pair: -pair[1][1]):
        close = any(abs(math.log10(x) - a) < 0.9 and abs(y + step - b) < step for a, b in placed)
        offset = (0, -14) if close else (0, 7)
        placed.append((math.log10(x), y - step if close else y + step))
        axes.annotate(row.method, (x, y), xytext=offset, textcoords="offset points", ha="center", fontsize=8)  # type: ignore[attr-defined]
