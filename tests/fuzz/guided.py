"""Damage files where it changes what the readers do: atheris mutates, and keeps what reaches lines not seen before.

    make fuzz-guided                                           a minute for each of the readers below
    make fuzz-guided FUZZ="--seconds 600 --only torchscript"

One process per target, a copy of this one. Only this package's own lines guide the search: those of Pillow, zlib and
torch are compiled. It sees what is compared with what, so that it finds out checksums: what is behind them is tried,
too. Whatever breaks the law of law.py ends a target; its file is written to --keep. The counts are added to --counts,
which tally.py sums up.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import resource
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

import atheris  # noqa: E402

with atheris.instrument_imports(include=["vitadapt"]):
    from law import Target, outcome
    from targets import TARGETS

import torch  # noqa: E402
from run import IN_MEMORY  # noqa: E402
from tally import add_counts  # noqa: E402

GUIDED = (
    *("option method", "option methods", "option head", "option fields", "option hints", "option backbone", "json"),
    *("toml", "pickle", "pickle of protocol 4"),
    *("class names", "class names json", "own knowledge", "knowledge", "csv table", "prior", "certificate", "failures"),
    *("fit record sealed", "trials", "features .npz", "features .parquet", "request image"),
    *("request json", "request form", "subset", "bench toml", "submission", "submission zip", "statistics of a model"),
    *("safetensors", "adapter", "adapter lora", "adapter maple", "fitted model", "timm folder"),
    *(
        "open_clip folder",
        "torch zip",
        "torch zip members",
        "torch legacy",
        "torchscript",
        "torchscript members",
        "zip",
    ),
    *("tar", "tar pax", "idx gzipped", "hub mnist", "webdataset mnist", "native cifar-10", "native patch-camelyon"),
    *("native smallnorb-azimuth", "native mnist", "native dmlab", "native voc-2007", "native hateful-memes"),
    *("image ycbcr.tif", "image moving.gif", "image rgb.jp2", "image deep.png", "image a.dcm"),
)
LARGEST = 1 << 20  # bytes of a mutated file
SLOW = 20  # seconds of one example
MEMORY = 6 << 10  # megabytes


def guide(target: Target, seconds: int, keep: Path, place: Path) -> None:
    """Never returns: the fuzzer ends the process, with status 0 when its time is over."""
    torch.set_num_threads(1)
    folder, corpus = place / "files", place / "corpus"
    folder.mkdir()
    corpus.mkdir()
    files = {path: path.read_bytes() for path in target.prepare(folder)}
    paths = list(files)
    target.read(folder)  # sound files are read, and what that imports takes no time of an example
    for number, data in enumerate(files.values()):
        (corpus / str(number)).write_bytes(bytes([number % len(paths)]) + data)
    last = paths[0]

    def one(data: bytes) -> None:
        nonlocal last
        path = paths[data[0] % len(paths)] if data else paths[0]
        if path != last:
            last.write_bytes(files[last])
        last = path
        path.write_bytes(data[1:])
        outcome(target, folder, path)

    keep.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-timeout={SLOW}", f"-rss_limit_mb={MEMORY}", f"-max_len={LARGEST}"]
    options = [*limits, f"-artifact_prefix={keep}/{target.name.replace(' ', '_')}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(corpus)], one)
    atheris.Fuzz()


def in_a_copy(target: Target, seconds: int, keep: Path) -> tuple[int, str]:
    """`guide` in a copy of this process, which has imported everything -> its status, and what it wrote."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as place:
        log = Path(place) / "log"
        child = os.fork()
        if not child:
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            try:
                guide(target, seconds, keep, Path(place))
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        return status, log.read_bytes().decode("utf-8", "replace")


def figure(log: str, name: str) -> int:
    """A number of the fuzzer's last lines, `stat::NAME: 17`; 0 when it did not come so far."""
    return next((int(line.split()[-1]) for line in log.splitlines() if line.startswith(f"stat::{name}")), 0)


def main(targets: Mapping[str, Target] = TARGETS) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=60, help="for each target")
    options.add_argument("--only", default="", help="targets whose names match this pattern")
    options.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    options.add_argument("--counts", type=Path, default=Path("runs/fuzz/counts.jsonl"))
    given = options.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()
    broken = 0
    for name in (name for name in GUIDED if re.search(given.only, name)):
        status, log = in_a_copy(targets[name], given.seconds, given.keep)
        count = figure(log, "number_of_executed_units")
        add_counts(given.counts, "guided", {name: {"broken": 1} if status else {"other": count}})
        print(f"{name:24} {count:>8} examples, {f'BROKEN, status {status}' if status else 'nothing broke'}", flush=True)
        if status:
            broken += 1
            print("    " + "\n    ".join(log.splitlines()[-25:]), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
