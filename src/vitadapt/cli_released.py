"""What `vitadapt results --optimism` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from .report.table import Format
    from .results import Record

REMARKS = (
    "selection: what choosing the epoch by the test set adds (best on test minus last epoch of the same training)",
    "gap: best on test minus the corrected method under the honest protocol, on the cells that have both",
)


def print_optimism(records: Sequence[Record], form: Format) -> None:
    """How many points of each published-style number come from looking at the test set. Raises ConfigError."""
    from .console import print_columns
    from .optimism import optimism_of
    from .report.panels import short_names
    from .report.table import setting_text, written

    rows = optimism_of(records)
    if not rows:
        raise ConfigError("no records of protocol elevater-released there; run some with -m kadaptation-released")
    if form == "json":
        plain = [{**asdict(row), "setting": dict(row.setting), "selection": row.selection} for row in rows]
        print(json.dumps(plain, indent=1))
        return
    settings = [name for name in dict(rows[0].setting) if len({dict(row.setting)[name] for row in rows}) > 1]
    names = short_names(list(dict.fromkeys(row.dataset for row in rows)))
    head = [*settings, "method", "dataset", "runs", "best on test", "last epoch", "selection"]
    head += ["corrected method", "honest", "gap", "pairs"]
    body = [
        [setting_text(name, dict(row.setting)[name]) for name in settings]
        + [row.method, names[row.dataset], str(row.seeds), f"{row.best:.1f}", f"{row.last:.1f}"]
        + [f"{row.selection:+.1f}", row.corrected, _number(row.honest, ".1f"), _number(row.gap, "+.1f")]
        + [str(row.pairs)]
        for row in rows
    ]
    if form == "text":
        print_columns(head, body, left=(*settings, "method", "dataset", "corrected method"))
        print("\n".join(REMARKS))
    else:
        print(written(head, body, REMARKS, form))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
