"""`recipes/elevater-kadaptation.toml` from download to leaderboard without a download: generated files, random weights.

    python tests/support/dry_run.py [--shots 5] [--folder FOLDER]

The 20 data sets are written twice. As their publishers pack them, with a few images: one short cell each is run. And as
the leaderboard's own copies, with all their classes, three training images per class (six where shots are drawn) and as
many test images as the real ones have: the cells of the shipped file for CLIP ViT-B/32 are run on them, published
search included, then submitted, checked and scored. That are the 20 cells of all shots, or with --shots 5 the 60 of
five shots and three seeds. The backbone is called clip-vit-b32, and its file lies where a download would put it; it is
a random CLIP of one block and width 96, at 32 pixels. What is proven is that every step goes through; the scores mean
nothing. Every step is a command of its own.
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

SIZE = 32
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


def official(name: str, each: int) -> Copy:
    """All classes, `each` training images and one for validation of each, and as many test images as the real set."""
    row, number, copy = catalog()[name], 0, Copy(catalog()[name])
    count = len(row.classes)
    sizes = {"train": each * count, "val": count, "test": row.sizes["test"]}
    for split, size in sizes.items():
        order = np.random.default_rng(number).permutation(size)
        copy.splits[split] = [(number + 1 + i, (int(i) % count,)) for i in order.tolist()]
        number += size
    return copy


def benchmark(path: Path, shots: int | None) -> Path:
    """The cells of the shipped file for this backbone and number of shots; None: a short one per set."""
    cells = [c for c in read_bench(shipped_benchmark_files()["elevater-kadaptation"]) if c.backbone == BACKBONE]
    cells = [c for c in cells if shots is None or c.shots == (shots or None)]
    axes = {"method": "kadaptation", "protocol": cells[0].protocol, "head": head_text(cells[0].head_spec)}
    axes |= {"dataset": list(dict.fromkeys(c.dataset for c in cells)), "backbone": BACKBONE, "image_size": SIZE}
    axes |= {"shots": shots or "all", "seed": sorted({c.seed for c in cells})}
    more = []
    if shots is None:
        axes |= {"protocol": "fixed", "shots": 1, "seed": 0}
        more = ["[recipe]", "epochs = 1"]
    lines = [f"{key} = {json.dumps(value)}" for key, value in axes.items()]
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


def dry_run(folder: Path, shots: int) -> None:
    """shots: 0 for all."""
    write_weights(folder / "hf" / "hub")
    for name in NAMES:
        write_hub(folder / "hub", official(name, 6 if shots else 3))
        CASES[name](folder / "native")
    steps = Steps(folder)
    images = sum(catalog()[name].sizes["test"] for name in NAMES)
    print(f"{len(NAMES)} data sets, {images:,} test images", flush=True)
    native = benchmark(folder / "native.toml", None)
    steps.run("bench", native, "--data-root", "native", "-o", "runs/native", "--cache", "cache")
    whole = benchmark(folder / "whole.toml", shots)
    steps.run("bench", whole, "--data-root", "hub", "-o", "runs/hub", "--cache", "cache")
    steps.run("submit", "runs/hub", "-o", "mine.zip", "--model-name", "dry run", "--data-root", "hub")
    steps.run("submit", "--check", "mine.zip", "--data-root", "hub")
    print(steps.run("score", "mine.zip", "--data-root", "hub"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=0, choices=(0, 5, 20, 50), help="0, the default: all")
    parser.add_argument("--folder", type=Path, help="an empty one, which stays (default: one that goes)")
    given = parser.parse_args()
    if given.folder is not None:
        given.folder.mkdir(parents=True)
        return dry_run(given.folder.resolve(), given.shots)
    with tempfile.TemporaryDirectory(prefix="vitadapt-dry-run-") as folder:
        dry_run(Path(folder), given.shots)


if __name__ == "__main__":
    main()
