"""`recipes/elevater-kadaptation.toml` from download to leaderboard without a download: generated files, random weights.

    python tests/support/dry_run.py [--search] [--folder FOLDER]

The 20 data sets are written twice. As their publishers pack them, with a few images. And as the leaderboard's own
copies, with all their classes, three training images per class and as many test images as the real ones have. The
file's cells of all shots with CLIP ViT-B/32 are run on both, on the second kind with --search as the file says, which
takes much longer, otherwise with one epoch by the protocol `fixed`; then the second ones are submitted, checked
and scored. The backbone is called clip-vit-b32, and its file lies where a download would put it; it is a random CLIP of
one block and width 96, at 32 pixels. What is proven is that every step goes through; the scores mean nothing. Every
step is a command of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from elevater_cases import Copy, write_hub
from native_cases import CASES

from vitadapt.benchmark.leaderboard.suite import required, suite
from vitadapt.benchmark.sweep import read_bench, shipped_benchmark_files
from vitadapt.data.datasets import catalog
from vitadapt.nn.head_spec import head_text
from vitadapt.nn.surgery import seeded

SIZE, EACH = 32, 3
VISION = {"image_size": 224, "layers": 1, "width": 96, "head_width": 8, "patch_size": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
BACKBONE = "clip-vit-b32"
NAMES = [suite()[name].name for name in required()]


def write_weights(hub: Path) -> None:
    """The small CLIP under the name of the real one, in the layout of the hub's cache."""
    import open_clip
    from safetensors.torch import save_file

    repository = open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", "openai")["hf_hub"].rstrip("/")
    with seeded(0):
        model = open_clip.CLIP(64, VISION, TEXT, quick_gelu=True)
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items() if torch.is_floating_point(tensor)}
    save_file(tensors, snapshot / "open_clip_model.safetensors")


def official(name: str) -> Copy:
    """All classes, EACH training images and one for validation of each, and as many test images as the real set."""
    row, number, copy = catalog()[name], 0, Copy(catalog()[name])
    count = len(row.classes)
    sizes = {"train": EACH * count, "val": count, "test": row.sizes["test"]}
    for split, size in sizes.items():
        order = np.random.default_rng(number).permutation(size)
        copy.splits[split] = [(number + 1 + i, (int(i) % count,)) for i in order.tolist()]
        number += size
    return copy


def benchmark(path: Path, search: bool) -> Path:
    """The shipped file's cells of all shots for this backbone, at SIZE pixels."""
    cells = [c for c in read_bench(shipped_benchmark_files()["elevater-kadaptation"]) if c.backbone == BACKBONE]
    cells = [c for c in cells if c.shots is None]
    axes = {"method": "kadaptation", "protocol": cells[0].protocol, "head": head_text(cells[0].head_spec)}
    axes |= {"dataset": [c.dataset for c in cells], "backbone": BACKBONE, "image_size": SIZE, "shots": "all"}
    axes |= {"seed": cells[0].seed} | ({} if search else {"protocol": "fixed"})
    lines = [f"{key} = {json.dumps(value)}" for key, value in axes.items()]
    more = [] if search else ["[recipe]", "epochs = 1"]
    path.write_text("\n".join(['title = "A dry run"', "[bench]", *lines, *more]) + "\n")
    return path


class Steps:
    """Commands of vitadapt, one after another, with the small CLIP in the place of the download."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}

    def run(self, *arguments: str | Path) -> str:
        """What it prints; one line about it is printed here. Raises SystemExit where it fails."""
        start, shown = time.perf_counter(), " ".join(map(str, arguments))
        command = [sys.executable, "-m", "vitadapt", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        print(f"{time.perf_counter() - start:7.1f} s  status {done.returncode}  vitadapt {shown}", flush=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout


def dry_run(folder: Path, search: bool) -> None:
    write_weights(folder / "hf" / "hub")
    for name in NAMES:
        write_hub(folder / "hub", official(name))
        CASES[name](folder / "native")
    steps = Steps(folder)
    images = sum(catalog()[name].sizes["test"] for name in NAMES)
    print(f"{len(NAMES)} data sets, {images:,} test images", flush=True)
    native = benchmark(folder / "native.toml", search=False)
    steps.run("bench", native, "--data-root", "native", "-o", "runs/native", "--cache", "cache")
    whole = benchmark(folder / "whole.toml", search)
    steps.run("bench", whole, "--data-root", "hub", "-o", "runs/hub", "--cache", "cache")
    steps.run("submit", "runs/hub", "-o", "mine.zip", "--model-name", "dry run", "--data-root", "hub")
    steps.run("submit", "--check", "mine.zip", "--data-root", "hub")
    print(steps.run("score", "mine.zip", "--data-root", "hub"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="the published search")
    parser.add_argument("--folder", type=Path, help="an empty one, which stays (default: one that goes)")
    given = parser.parse_args()
    if given.folder is not None:
        given.folder.mkdir(parents=True)
        return dry_run(given.folder.resolve(), given.search)
    with tempfile.TemporaryDirectory(prefix="vitadapt-dry-run-") as folder:
        dry_run(Path(folder), given.search)


if __name__ == "__main__":
    main()
