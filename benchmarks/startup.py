"""How long a command takes before it answers: --help, and the table of stores of several sizes.

    python benchmarks/startup.py --records 1000 100000

The records are made up (four backbones, the methods, fifty data sets, seeds) and written as real ones are, in a folder
that is removed afterwards. `first` is a store that nobody has looked at, `again` the next call. Both the wall clock and
the processor's time are printed: on a machine with other work to do the second is what the command needs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.results.record import Record
from vitadapt.methods.spec import parse_method

METHODS = ("linear-probe", "kadaptation", "lora", "lora:rank=8", "adapter", "compacter", "bitfit", "layernorm")
TARGETS = {"--help": 0.3, "results, 1,000 records, again": 1.0}
PAST = 60  # seconds by which the files are older than now, as those of finished runs are


def cells() -> Iterator[RunConfig]:
    kinds = list(itertools.product(range(50), ("b32", "b16", "s14", "s16"), METHODS))
    for seed in itertools.count():  # outside the product, which would first collect all of it
        for dataset, backbone, method in kinds:
            yield RunConfig(f"random:{backbone}", parse_method(method), f"set-{dataset:02d}", seed=seed).resolved()


def fill(root: Path, count: int) -> None:
    """A store of `count` records of 5 shots and 20 classes."""
    folder = root / "records"
    folder.mkdir(parents=True)
    past = time.time() - PAST
    for number, config in enumerate(itertools.islice(cells(), count)):
        path = folder / f"{number:016x}.json"
        path.write_text(made_up(f"{number:016x}", config).to_json(), encoding="utf-8")
        os.utime(path, (past, past))


def made_up(digest: str, config: RunConfig) -> Record:
    return Record(
        digest=digest,
        config=config.to_dict(),
        status="ok",
        metric="accuracy",
        score=50 + int(digest, 16) % 40,
        pe=50.0,
        classes=[f"class {c}" for c in range(20)],
        per_class=[60.0] * 20,
        parameters={"backbone": 80_000, "head": 10_000, "trained": 90_000, "total": 87_000_000, "visual": 86_000_000},
        chosen={"lr": 1e-3, "weight_decay": 1e-4},
        seconds={"data": 0.5, "features": 1.0, "train": 40.0, "test": 10.0},
        peak_memory_mb=900.0,
        versions={"python": "3.12", "torch": "2.6"},
        images={"train": [f"{c:032x}" for c in range(100)], "test": "0" * 32, "test_count": 1000},
        losses=[1.0] * 20,
        created="2026-01-01T00:00:00+00:00",
    )


def timed(*arguments: str) -> tuple[float, float]:
    """Wall and processor seconds of one command. Stops when it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [str(Path(sys.executable).with_name("vitadapt")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-500:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def best(repeats: int, *arguments: str) -> tuple[float, float]:
    walls, busy = zip(*(timed(*arguments) for _ in range(repeats)), strict=True)
    return min(walls), min(busy)


def shown(name: str, seconds: tuple[float, float]) -> tuple[float, float]:
    print(f"{name:34s} {seconds[0]:8.2f} {seconds[1]:8.2f} {TARGETS.get(name, ''):>8}", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[1000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{'':34s} {'wall s':>8s} {'cpu s':>8s} {'target':>8s}", flush=True)
    found = {"--help": shown("--help", best(arguments.repeats, "--help"))}
    found["list methods"] = shown("list methods", best(arguments.repeats, "list", "methods"))
    for count in arguments.records:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder) / "runs", count)
            first, again = (f"results, {count:,} records, {when}" for when in ("first", "again"))
            found[first] = shown(first, timed("results", f"{folder}/runs"))
            found[again] = shown(again, best(arguments.repeats, "results", f"{folder}/runs"))
            index = Path(folder) / "runs" / "index"
            if index.exists():
                print(f"{'':34s} its index takes {index.stat().st_size / 1e6:.1f} MB", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
