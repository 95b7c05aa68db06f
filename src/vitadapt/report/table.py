"""Records -> a table: one row per method (and whatever else varies), one column per dataset, average, PE, cost."""

from __future__ import annotations

import ast
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Literal, Protocol, TypeVar

from ..errors import ConfigError
from ..files import checksum
from ..metrics import PE_PARAMETERS, PPT_PARAMETERS, performance_efficiency, performance_per_tuned
from ..results import DAGGER, Entry
from .panels import short_names

Format = Literal["text", "md", "csv", "latex", "json"]
Of = TypeVar("Of", bound=Entry)
VARYING = ("backbone", "image_size", "shots", "protocol", "precision")


class OverSeeds:
    """What has one score per seed: their mean and standard deviation, None where there are too few."""

    scores: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Cell(OverSeeds):
    """Scores of one method on one dataset over seeds, in percent."""

    scores: tuple[float, ...]
    diverged: int = 0
    splits: tuple[str, ...] = ()  # the rules behind train and test, as far as the records tell them
    tested: frozenset[tuple[str, int]] = frozenset()  # digest and number of the test images; one, unless they changed
    drawn: frozenset[tuple[str, str]] = frozenset()  # how training images were drawn, and their digest

    def text(self) -> str:
        parts = [] if self.mean is None else [f"{self.mean:.1f}"]
        if self.sd is not None:
            parts.append(f"± {self.sd:.1f}")
        if self.diverged:
            parts.append(f"({self.diverged} diverged)")
        return " ".join(parts)


@dataclass(frozen=True)
class Row:
    """One line of the results: who, its score per dataset, and what it costs on average."""

    setting: tuple[tuple[str, Any], ...]
    method: str
    cells: dict[str, Cell]
    trained: float | None  # trainable numbers, head included, averaged over runs
    seconds: float  # per run
    caveat: str = ""  # as the records have it

    @property
    def average(self) -> float | None:
        """Mean over datasets, only when every dataset has a score."""
        means = [cell.mean for cell in self.cells.values()]
        known = [mean for mean in means if mean is not None]
        return statistics.fmean(known) if known and len(known) == len(means) else None

    @property
    def pe(self) -> float | None:
        if self.average is None or self.trained is None:
            return None
        return performance_efficiency(self.average, self.trained)

    @property
    def ppt(self) -> float | None:
        if self.average is None or self.trained is None:
            return None
        return performance_per_tuned(self.average, self.trained)


Setting = tuple[tuple[str, Any], ...]


class InSetting(Protocol):
    """Something that was measured in one setting."""

    @property
    def setting(self) -> Setting: ...


@dataclass(frozen=True)
class Group(Generic[Of]):
    """Records that differ in dataset and seed alone, under the name that tells them from the other groups."""

    setting: Setting
    method: str
    records: list[Of]


def groups_of(records: Sequence[Of]) -> list[Group[Of]]:
    """Group records by everything but dataset and seed: settings in order, in each the method that trains least first.

    Where a method was run with several recipes or prompts, its name is followed by what differs.
    """
    groups: dict[tuple[Any, ...], list[Of]] = defaultdict(list)
    variants: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: (r.created, r.digest)):
        who = (tuple((name, record.config[name]) for name in VARYING), record.method)
        text, details = _details(repr(record.config["recipe"]), repr(record.config.get("prompts")))
        variants[who][text] = details
        key = (*who, text)
        groups[key].append(record)
    found = [
        Group(setting, method + _difference(variants[(setting, method)], text), members)
        for (setting, method, text), members in groups.items()
    ]
    return sorted(found, key=lambda group: (_setting_key(group.setting), _trained(group.records) or math.inf))


@lru_cache(maxsize=4096)
def _details(recipe: str, prompts: str) -> tuple[str, dict[str, Any]]:
    """What may tell apart records of one method in one setting, as text and by name, from the `repr` of both."""
    plain = ast.literal_eval(prompts)
    details = {**(ast.literal_eval(recipe) or {}), "prompts": checksum(plain)[:6] if plain else "built-in"}
    return json.dumps(details, sort_keys=True), details


def _setting_key(setting: Setting) -> list[tuple[bool, float, str]]:
    """Settings in the order of their values: numbers as numbers, then words, none last."""
    return [
        (value is None, float(value), "") if isinstance(value, (int, float)) else (value is None, math.inf, str(value))
        for _, value in setting
    ]


def _trained(records: Sequence[Entry]) -> float | None:
    """Trainable numbers, head included, averaged over runs; None when no run tells."""
    trained = [record.parameters["trained"] for record in records if record.parameters]
    return statistics.fmean(trained) if trained else None


def _difference(variants: dict[str, dict[str, Any]], text: str) -> str:
    """ " [lr=0.01]" for the variant `text`: its fields that differ between variants; nothing for the only one."""
    names = {name for details in variants.values() for name in details}
    differing = sorted(name for name in names if len({str(details.get(name)) for details in variants.values()}) > 1)
    return f" [{', '.join(f'{n}={variants[text][n]}' for n in differing if n in variants[text])}]" if differing else ""


def rows_of(records: Sequence[Entry]) -> list[Row]:
    """One row per group of records."""
    datasets = sorted({record.config["dataset"] for record in records})
    return [_row(group.setting, group.method, group.records, datasets) for group in groups_of(records)]


def _row(setting: Setting, method: str, records: Sequence[Entry], datasets: list[str]) -> Row:
    cells, by_dataset = {}, defaultdict[str, list[Entry]](list)
    for record in records:
        by_dataset[record.config["dataset"]].append(record)
    for dataset in datasets:
        mine = by_dataset[dataset]
        scores = tuple(record.score for record in mine if record.score is not None)
        rules = tuple(sorted({record.split for record in mine if record.split}))
        tests = ((record.images.get("test"), record.images.get("test_count", 0)) for record in mine)
        tested = frozenset((digest, count) for digest, count in tests if digest)
        drawn = frozenset((_draw(record.config), record.drawn) for record in mine if record.drawn)
        cells[dataset] = Cell(scores, sum(record.status == "diverged" for record in mine), rules, tested, drawn)
    seconds = statistics.fmean(sum(record.seconds.values()) for record in records)
    caveats = ", ".join(sorted({record.caveat for record in records if record.caveat}))
    return Row(setting, method, cells, _trained(records), seconds, caveats)


def _draw(config: dict[str, Any]) -> str:
    """What decides which images of a dataset are trained on, as text."""
    return json.dumps([config.get(name) for name in ("shots", "protocol", "subset", "seed")])


def columns_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells as text; a setting is a column only when it varies between rows."""
    settings = varying(rows)
    datasets = list(rows[0].cells) if rows else []
    average = ["average"] if len(datasets) > 1 else []
    head = [*settings, "method", "trained", *short_names(datasets).values(), *average, "PE", "PPT", "seconds"]
    body = []
    for row in rows:
        shown = [setting_text(name, dict(row.setting)[name]) for name in settings]
        scores = [row.cells[dataset].text() or "-" for dataset in datasets]
        mean = [_number(row.average)] if average else []
        trained = "-" if row.trained is None else f"{row.trained:,.0f}"
        costs = [_number(row.pe), _number(row.ppt), f"{row.seconds:.0f}" if row.seconds else "-"]
        body.append([*shown, row.method, trained, *scores, *mean, *costs])
    return head, body


def remarks_of(rows: Sequence[Row]) -> list[str]:
    """What must be said below a table: what PE is, what daggers mean, scores on splits that are not the benchmark's."""
    native = sorted({name for row in rows for name, cell in row.cells.items() if "native" in cell.splits})
    said = []
    if any(row.pe is not None for row in rows):
        said.append(f"PE = score exp(-log10(trained / {PE_PARAMETERS:.0e} + 1)), PPT with {PPT_PARAMETERS:.0e}")
    said += [f"{DAGGER} {caveat}" for caveat in sorted({row.caveat for row in rows if row.caveat})]
    if native:
        said.append(f"native split, not the benchmark's, so that published scores do not compare: {', '.join(native)}")
    return [*said, *_changed(rows)]


def _changed(rows: Sequence[Row]) -> list[str]:
    """A line per dataset whose images were not always the same, such as a folder that lost one meanwhile."""
    tested, drawn = defaultdict[str, set[tuple[str, int]]](set), defaultdict[str, dict[str, set[str]]](dict)
    for row in rows:
        for name, cell in row.cells.items():
            tested[name] |= cell.tested
            for draw, digest in cell.drawn:
                drawn[name].setdefault(draw, set()).add(digest)
    found = [
        f"{name}: tested on {' and '.join(str(count) for _, count in sorted(sets, key=lambda s: s[1]))} images"
        for name, sets in tested.items()
        if len(sets) > 1
    ]
    for name, draws in drawn.items():
        if changed := sum(len(sets) > 1 for sets in draws.values()):
            found.append(f"{name}: {changed} of {len(draws)} draws of training images differ between methods")
    return [
        f"{line}, not always the same, so that these scores do not compare; run again what is not on the right ones"
        for line in found
    ]


def varying(rows: Sequence[InSetting]) -> list[str]:
    """The parts of the setting that are not the same in all rows."""
    return [name for name in VARYING if len({dict(row.setting)[name] for row in rows}) > 1]


def setting_text(name: str, value: Any) -> str:
    """A value of a setting as people read it: no limit of shots is all of them, no size is the backbone's own."""
    if value is None:
        return "all" if name == "shots" else "own"
    return str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def render(records: Sequence[Entry], form: Format) -> str:
    """The table as Markdown, CSV, LaTeX or JSON text. Raises ConfigError when a library for the format is missing."""
    rows = rows_of(records)
    if form == "json":
        return json.dumps([_plain(row) for row in rows], indent=1)
    head, body = columns_of(rows)
    return written(head, body, remarks_of(rows), form)


def written(head: Sequence[str], body: Sequence[Sequence[str]], remarks: Sequence[str], form: Format) -> str:
    """A table as Markdown, CSV or LaTeX text. Raises ConfigError when a library for the format is missing."""
    import pandas as pd

    frame = pd.DataFrame(list(map(list, body)), columns=list(head))
    try:
        if form == "csv":
            return str(frame.to_csv(index=False))
        if form == "latex":
            from pandas.io.formats.style import Styler  # fails to import without jinja2; frame.style fails otherwise

            latex = str(Styler(frame).hide(axis="index").to_latex(hrules=True)).replace("±", r"$\pm$")
            return "\n".join([latex, *(f"% {remark}" for remark in remarks)])
        return "\n\n".join([str(frame.to_markdown(index=False, disable_numparse=True)), *remarks])
    except ImportError as error:
        raise ConfigError(f'{form} tables need another library: pip install "vitadapt[table]"') from error


def _plain(row: Row) -> dict[str, Any]:
    cells = {
        name: {
            "mean": cell.mean,
            "sd": cell.sd,
            "seeds": len(cell.scores),
            "diverged": cell.diverged,
            "split": ", ".join(cell.splits),
        }
        for name, cell in row.cells.items()
    }
    costs = {"trained": row.trained, "average": row.average, "pe": row.pe, "ppt": row.ppt, "seconds": row.seconds}
    costs |= {"pe_parameters": PE_PARAMETERS, "ppt_parameters": PPT_PARAMETERS}
    return {**dict(row.setting), "method": row.method, "datasets": cells, **costs, "caveat": row.caveat}
