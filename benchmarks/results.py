"""Keep the records of a benchmark in one small file of the repository, with a table of its cells for people.

    python benchmarks/results.py runs/offline docs/results/offline      # writes offline.tar.xz and offline.csv
    make results                                                        # unpacks the first, and prints the tables

The archive holds records without predictions and adapters: enough for `vitadapt results`, `compare`, `plot` and for
`vitadapt bench`, which goes on where they end. The same records give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from vitadapt.benchmark.results.record import Record
from vitadapt.benchmark.results.store import Store
from vitadapt.utils.files import write_atomic

VERSIONS = ("vitadapt", "torch", "numpy", "pillow", "threads")
HEAD = (
    *("dataset", "shots", "seed", "image_size", "method", "score", "trained", "seconds", "peak_mb", "tested"),
    *("train_images", "test_images", "digest", *VERSIONS),
)


def cell_of(record: Record) -> list[str]:
    """One line of the table: what was run, what came out, which images, which versions."""
    config, images = record.config, record.images
    what = [config[name] for name in ("dataset", "shots", "seed", "image_size")]
    score = "diverged" if record.score is None else f"{record.score:.2f}"
    cost = [record.parameters["trained"], f"{sum(record.seconds.values()):.0f}", f"{record.peak_memory_mb:.0f}"]
    content = [images["test_count"], record.drawn, images["test"], record.digest]
    return [str(value) for value in (*what, record.label, score, *cost, *content)] + [
        record.versions.get(name, "") for name in VERSIONS
    ]


def table_of(records: Sequence[Record]) -> str:
    """All cells as CSV, sorted."""
    text = io.StringIO()
    rows = sorted((cell_of(record) for record in records), key=lambda row: (row[0], int(row[1]), row[4], int(row[2])))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path, help="path of both files, without an ending")
    arguments = parser.parse_args()
    records, damaged = Store(arguments.runs).records()
    if damaged:
        raise SystemExit("\n".join(damaged))
    write_atomic(arguments.out.with_suffix(".csv"), table_of(records).encode())
    write_atomic(arguments.out.with_suffix(".tar.xz"), archive_of(records, arguments.out.name))
    print(f"{len(records)} records: {arguments.out}.tar.xz and .csv")


if __name__ == "__main__":
    main()
