"""Which folders and files a hyper-parameter passes through, from where a user gives it to where it acts.

Two walks of `rank` are made with a tiny network and drawn images, and every function of the package that is given the
text, the method or a configuration that holds it counts. Run it: python tests/support/parameter_walk.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from fanout_cases import make_photos

import vitadapt
from vitadapt.benchmark.config import RunConfig
from vitadapt.classifier.estimator import ImageClassifier
from vitadapt.cli import main
from vitadapt.methods import LoRA
from vitadapt.training.config import TrainConfig

SOURCES = Path(vitadapt.__file__).parent
METHOD = "lora:rank=2"


def carries(value: Any) -> bool:
    if isinstance(value, (RunConfig, TrainConfig, ImageClassifier, LoRA)):
        return True
    return METHOD in value if isinstance(value, (str, list, dict)) else False


def walk(work: Callable[[], object]) -> list[str]:
    """The files, below the package, of all functions that `work` calls with the parameter, by first call."""
    files: dict[str, None] = {}

    def look(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(SOURCES)) or "<" in code.co_name:
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(carries(frame.f_locals.get(name)) for name in names):
            files.setdefault(str(Path(code.co_filename).relative_to(SOURCES)))

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return list(files)


def show(title: str, files: list[str]) -> None:
    folders = list(dict.fromkeys(name.split("/")[0] for name in files))
    print(f"{title}: {len(folders)} folders ({', '.join(folders)}), {len(files)} files", *files, sep="\n  ")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder) / "photos")
        line = ["run", "-d", str(photos), "-b", "random:tiny", "-m", METHOD, "--shots", "2", "--recipe", "epochs=1"]
        line += ["--out", f"{folder}/runs", "--no-cache", "--device", "cpu"]
        show("vitadapt run", walk(lambda: main.app(line, standalone_mode=False)))
        images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
        classifier = ImageClassifier("random:tiny", METHOD)
        show("ImageClassifier.fit", walk(lambda: classifier.fit(images, ["a", "b"] * 2)))
