"""Small benchmarks for the tests of fan-out, and what must be equal however they were run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.sweep import expand

METHODS = ("linear-probe", "lora", "kadaptation")
FAST = {"epochs": 2, "batch_size": 2}


def make_photos(root: Path) -> Path:
    rng = np.random.default_rng(1)
    for label, level in {"dark": 60, "light": 190}.items():
        for part, count in (("train", 6), ("test", 5)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 40, (33, 35, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def axes(photos: Path, seeds: int = 2, methods: tuple[str, ...] = METHODS) -> dict[str, object]:
    named = {"backbone": "random:tiny", "dataset": str(photos), "shots": 3}
    return {**named, "method": list(methods), "seed": list(range(seeds))}


def cells(photos: Path, seeds: int = 2, methods: tuple[str, ...] = METHODS, **recipe: object) -> list[RunConfig]:
    return expand(axes(photos, seeds, methods), {**FAST, **recipe})


def recipe_file(path: Path, photos: Path, seeds: int = 2, **recipe: object) -> Path:
    lines = [f"{name} = {json.dumps(value)}" for name, value in axes(photos, seeds).items()]
    changes = [f"{name} = {json.dumps(value)}" for name, value in {**FAST, **recipe}.items()]
    path.write_text("\n".join(["[bench]", *lines, "[recipe]", *changes]) + "\n")
    return path


def results(store: Store) -> dict[str, bytes]:
    """Name -> bytes of what must not depend on who ran a cell, where, or how often it was tried."""
    return {
        path.name: path.read_bytes() for kind in ("predictions", "adapters") for path in (store.root / kind).iterdir()
    }


def leftovers(store: Store) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.name.endswith(".tmp") or path.parent.name == "failures"]
