"""Damage files where it changes what the readers do: atheris mutates, and keeps what reaches lines not seen before.

    make fuzz-guided                                           a minute for each of the binary readers
    make fuzz-guided FUZZ="--seconds 600 --only torchscript"

One process per target. Only this package's own lines guide the search: those of Pillow, zlib and torch are compiled.
Whatever breaks the law of law.py ends a target; its file is written to --keep.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

BINARY = (
    *("zip", "tar", "tar pax", "hub mnist", "webdataset mnist", "idx gzipped", "safetensors", "torch zip"),
    *("torch legacy", "torchscript", "adapter", "native cifar-10", "native patch-camelyon", "native stanford-cars"),
    *("submission zip", "image ycbcr.tif", "image moving.gif", "image rgb.jp2"),
)
LARGEST = 1 << 20  # bytes of a mutated file
SLOW = 20  # seconds of one example
MEMORY = 6 << 10  # megabytes


def guide(name: str, seconds: int, keep: Path) -> None:
    """Never returns: the fuzzer ends the process, with status 0 when its time is over."""
    import atheris

    with atheris.instrument_imports(include=["vitadapt"]):
        from law import outcome
        from targets import TARGETS

    import torch

    torch.set_num_threads(1)
    target, place = TARGETS[name], Path(tempfile.mkdtemp())
    folder, corpus = place / "files", place / "corpus"
    folder.mkdir()
    corpus.mkdir()
    files = {path: path.read_bytes() for path in target.prepare(folder)}
    paths = list(files)
    for number, data in enumerate(files.values()):
        (corpus / str(number)).write_bytes(bytes([number % len(paths)]) + data)

    def one(data: bytes) -> None:
        path = paths[data[0] % len(paths)] if data else paths[0]
        path.write_bytes(data[1:])
        try:
            with contextlib.redirect_stderr(None):
                outcome(target, folder, path)
        finally:
            path.write_bytes(files[path])

    keep.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-timeout={SLOW}", f"-rss_limit_mb={MEMORY}", f"-max_len={LARGEST}"]
    options = [*limits, f"-artifact_prefix={keep}/{name.replace(' ', '_')}-", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def figure(log: str, name: str) -> str:
    """A number of the fuzzer's last lines, `stat::NAME: 17`; ? when it did not come so far."""
    return next((line.split()[-1] for line in log.splitlines() if line.startswith(f"stat::{name}")), "?")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=60, help="for each target")
    options.add_argument("--only", default="", help="targets whose names hold this text")
    options.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    options.add_argument("--target", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.target:
        guide(given.target, given.seconds, given.keep)
    broken = 0
    for name in (name for name in BINARY if given.only in name):
        line = [sys.executable, "-W", "ignore", __file__, "--target", name, "--seconds", str(given.seconds)]
        done = subprocess.run([*line, "--keep", str(given.keep)], capture_output=True, check=False, env=os.environ)
        log = done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
        outcome = "nothing broke" if done.returncode == 0 else f"BROKEN, status {done.returncode}"
        print(f"{name:24} {figure(log, 'number_of_executed_units'):>8} examples, {outcome}", flush=True)
        if done.returncode:
            broken += 1
            print("    " + "\n    ".join(log.splitlines()[-25:]), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
