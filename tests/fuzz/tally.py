"""What run.py and guided.py counted, as a table: `python tests/fuzz/tally.py [runs/fuzz/counts.jsonl ...]`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path


def add_counts(path: Path, way: str, counts: Mapping[str, Mapping[str, int]], **about: object) -> None:
    """Append a line to `path`. way: random or guided. counts: target -> outcome (value, refused ...) -> examples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"way": way, **about, "counts": {name: dict(n) for name, n in counts.items()}}) + "\n")


def table(lines: list[dict], kinds: Mapping[str, str]) -> str:
    """Markdown: a row for each kind of files, with what was tried in both ways. kinds: target -> its kind."""
    rows: dict[str, Counter[str]] = {kind: Counter() for kind in dict.fromkeys(kinds.values())}
    for line in lines:
        for name, counts in line["counts"].items():
            row = rows[kinds[name]]
            row[line["way"]] += sum(counts.values())
            row.update(counts)
    rows["all"] = sum(rows.values(), Counter())
    targets = Counter(kinds.values())
    targets["all"] = len(kinds)
    shown = ["| files | readers | random | guided | broke the law |", "| --- | --- | --- | --- | --- |"]
    for kind, row in rows.items():
        shown.append(f"| {kind} | {targets[kind]} | {row['random']} | {row['guided']} | {row['broken']} |")
    return "\n".join(shown)


def main() -> None:
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    from targets import TARGETS

    files = [Path(name) for name in sys.argv[1:]] or [Path("runs/fuzz/counts.jsonl")]
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    print(table(lines, {name: target.kind for name, target in TARGETS.items()}))


if __name__ == "__main__":
    main()
