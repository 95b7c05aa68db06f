"""Keep the records of a benchmark in one small file of the repository, with a table of its cells for people.

    python benchmarks/results.py pack runs/offline docs/results/offline      # writes offline.tar.xz and offline.csv
    make results      # unpacks the first, and writes the tables of pages: python benchmarks/results.py pages README.md

The archive holds records without predictions and adapters: enough for `vitadapt results`, `compare`, `plot` and for
`vitadapt bench`, which goes on where they end. A table of a page is a block of text behind a comment
`<!-- printed by: vitadapt results FOLDER -->`.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from vitadapt.benchmark.results.record import Record
from vitadapt.benchmark.results.store import Store
from vitadapt.utils.files import write_atomic

WIDTH = "110"
BLOCK = re.compile(r"(?P<before><!-- printed by: (?P<command>vitadapt [^\n]+?) -->\n```text\n)[^`]*```")
VERSIONS = ("vitadapt", "torch", "numpy", "pillow", "threads")
HEAD = (
    *("dataset", "shots", "seed", "image_size", "protocol", "method", "score", "trained", "seconds", "peak_mb"),
    *("tested", "train_images", "test_images", "digest", *VERSIONS),
)


def cell_of(record: Record) -> list[str]:
    """One line of the table: what was run, what came out, which images, which versions."""
    config, images = record.config, record.images
    what = [config[name] for name in ("dataset", "shots", "seed", "image_size", "protocol")]
    score = "diverged" if record.score is None else f"{record.score:.2f}"
    cost = [record.parameters["trained"], f"{sum(record.seconds.values()):.0f}", f"{record.peak_memory_mb:.0f}"]
    content = [images["test_count"], record.drawn, images["test"], record.digest]
    return [str(value) for value in (*what, record.label, score, *cost, *content)] + [
        record.versions.get(name, "") for name in VERSIONS
    ]


def table_of(records: Sequence[Record]) -> str:
    """All cells as CSV, sorted."""
    text = io.StringIO()
    cells = (cell_of(record) for record in records)
    rows = sorted(cells, key=lambda row: (row[0], int(row[1]), *row[4:6], int(row[2])))
    csv.writer(text, lineterminator="\n").writerows([HEAD, *rows])
    return text.getvalue()


def archive_of(records: Sequence[Record], folder: str) -> bytes:
    """The records as a tar.xz archive of FOLDER/records/DIGEST.json, without times and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for record in records:
            data = record.to_json().encode()
            member = tarfile.TarInfo(f"{folder}/records/{record.digest}.json")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def printed(page: str) -> str:
    """The text of a page with the tables that its commands print now."""

    def again(match: re.Match[str]) -> str:
        call = shlex.split(match["command"])
        done = subprocess.run(
            [sys.executable, "-m", *call],
            env=os.environ | {"COLUMNS": WIDTH},
            capture_output=True,
            text=True,
            check=True,
        )
        text = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
        return f"{match['before']}{text}```"

    return BLOCK.sub(again, page)


def pack(runs: Path, out: Path) -> None:
    """Write the archive and the table of the records in `runs`."""
    records, damaged = Store(runs).records()
    if damaged:
        raise SystemExit("\n".join(damaged))
    write_atomic(out.with_suffix(".csv"), table_of(records).encode())
    write_atomic(out.with_suffix(".tar.xz"), archive_of(records, out.name))
    print(f"{len(records)} records: {out}.tar.xz and .csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    packing = what.add_parser("pack")
    packing.add_argument("runs", type=Path)
    packing.add_argument("out", type=Path, help="path of both files, without an ending")
    what.add_parser("pages").add_argument("pages", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "pack":
        pack(arguments.runs, arguments.out)
        return
    for page in arguments.pages:
        write_atomic(page, printed(page.read_text("utf-8")).encode())


if __name__ == "__main__":
    main()
