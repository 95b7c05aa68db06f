"""What the documentation tells people to type is typed here, in this process, in a newcomer's folder.

The networks are tiny and the trainings short: SMALLER and SHORTER are all that every page is changed by; what one block
needs besides stands in a comment before it (`docsite.blocks`).
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from docsite.blocks import ROOT, Block, steps
from docsite.commands import commands, program
from vitadapt.benchmark.results.store import Store
from vitadapt.benchmark.sweep import check_names, read_bench
from vitadapt.cli.main import main
from vitadapt.data.datasets import catalog
from vitadapt.methods import METHODS
from vitadapt.utils.files import parse_toml

SMALLER = {
    "dinov2-s14-offline": "random:tiny",
    "random:clip-vit-b32": "random:tiny",
    "clip-vit-b16": "random:tiny-clip",
    "image_size=70": "image_size=32",
    "image_size=112": "image_size=32",
    "image_size = 70": "image_size = 32",
    "--image-size 70": "--image-size 32",
    "epochs=20": "epochs=2",  # the first step moves the head alone: it is zero before
    "epochs = 20": "epochs = 1",
}
_TINY, _CLIP = ["--backbone", "random:tiny"], ["--backbone", "random:tiny-clip"]
_SHORT = ["--recipe", "epochs=1,probe_epochs=1", "--no-cache"]
SHORTER = {
    "run": [*_SHORT, *_TINY],
    "fit": [*_SHORT, *_TINY],
    "bench": ["--no-cache"],
    "count": _TINY,
    "embed": _TINY,
    "similar": _TINY,
    "search": _CLIP,
    "zero-shot": _CLIP,
}
SHORT_BENCH = "[recipe]\nepochs = 1\nprobe_epochs = 1\n"  # of a benchmark file that has no [recipe] itself
FEW = 12  # cells; a benchmark with more is expanded and its names are checked, and a part of it runs
PICTURES = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NAMES: dict[str, dict[str, Any]] = {  # page -> what its Python takes for granted
    "README.md": {"images": PICTURES, "labels": torch.tensor([0, 1, 2] * 2)},
    "docs/own-images.md": {
        "paths": [f"photos/{kind}/{i}.jpg" for i in range(3) for kind in ("cats", "dogs")],
        "labels": ["cats", "dogs"] * 3,
        "new_paths": ["photos/cats/9.jpg"],
    },
}


def smaller(text: str) -> str:
    for long, short in SMALLER.items():
        text = text.replace(long, short)
    return text


def make_photos(folder: Path) -> None:
    """Two classes of ten photos (of a sort) each, as README supposes them, three without a class, a list of names."""
    (folder / "names.txt").write_text("cat\ndog\n")
    rng = np.random.default_rng(0)
    for place, (level, count) in {"photos/cats": (60, 10), "photos/dogs": (190, 10), "more-photos": (120, 3)}.items():
        (folder / place).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(level, 40, (33, 35, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{i}.jpg")


def make_handwriting(folder: Path) -> None:
    """The folder of the tutorial, with noise for digits."""
    rng = np.random.default_rng(1)
    for split, count in {"train": 20, "test": 40}.items():
        for level, label in zip((50, 120, 190), ("3", "5", "8"), strict=True):
            (folder / "handwriting" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 50, (28, 28)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "handwriting" / split / label / f"{i}.png")


def take_adapter(folder: Path) -> None:
    """`adapted.safetensors`: what KAdaptation learnt in the runs of README."""
    records, _ = Store(folder / "runs" / "photos").records()
    digest, *_ = sorted(record.digest for record in records if record.config["method"]["name"] == "kadaptation")
    shutil.copyfile(folder / "runs" / "photos" / "adapters" / f"{digest}.safetensors", folder / "adapted.safetensors")


def play(blocks: Iterable[Block], folder: Path) -> str:
    """Type all blocks of a page, in their order, in `folder`; returns what was printed. Raises AssertionError."""
    output = io.StringIO()
    names: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
        for registry in (METHODS, catalog()):  # a page may register one of its own
            patch.setattr(registry, "_things", dict(registry))
        for block in blocks:
            names = {**NAMES.get(block.page, {}), **names}
            if block.reason:
                _read(block)
            elif block.kind == "python":
                _python(block, names)
            elif block.kind == "toml":
                _toml(block)
            else:
                for step in steps(block, _filled(block.swapped, names)):
                    _type(step.words, block.place, patch)
    return output.getvalue()


def _filled(text: str, names: dict[str, Any]) -> str:
    """{name} is the value of that name, as in a notebook."""
    return re.sub(r"\{(\w+)\}", lambda match: str(names.get(match[1], match[0])), text)


def _read(block: Block) -> None:
    """What is not run is at least right: its commands and options exist, its Python and TOML parse."""
    if block.kind == "python":
        compile(block.text, block.place, "exec")
    elif block.kind == "toml":
        parse_toml(block.text)
    else:
        for step in steps(block):
            check_words(step.words, block.place)


def _python(block: Block, names: dict[str, Any]) -> None:
    text = smaller(block.swapped)
    if block.title:  # a file, which later blocks import or run
        Path(block.title).write_text(text, "utf-8")
    else:
        exec(compile(text, block.place, "exec"), names)  # noqa: S102 - our own page


def _toml(block: Block) -> None:
    """A benchmark is expanded, a dataset's row becomes a row; anything else parses. A titled block is also a file."""
    from vitadapt.data.readers.reader import CatalogRow

    text = smaller(block.swapped)
    table = parse_toml(text)
    if "bench" in table and "recipe" not in table:
        text += SHORT_BENCH
    Path(block.title or "block.toml").write_text(text, "utf-8")
    if "bench" in table:
        assert read_bench(Path(block.title or "block.toml")), block.place
    for name, fields in table.items():
        if isinstance(fields, dict) and "sources" in fields:
            CatalogRow(name=name, **fields)


def _type(words: list[str], place: str, patch: pytest.MonkeyPatch) -> None:
    """Run one command; installations, make and the scripts of benchmarks/ are checked instead."""
    if "2>" in words:  # progress, into a file
        words = [word for i, word in enumerate(words) if "2>" not in words[max(0, i - 1) : i + 1]]
    check_words(words, place)
    if "|" in words:  # what follows only shortens the output
        assert words[words.index("|") + 1] in ("head", "tail"), place
        words = words[: words.index("|")]
    words = shlex.split(smaller(shlex.join(words)))
    if words[0] == "python" and not words[1].startswith(("benchmarks/", "tools/")):
        runpy.run_path(words[1], run_name="__main__")
    if words[0] != "vitadapt" or not _short(words):
        return
    named = {"-b", "--backbone"} & set(words)
    shorter = [word for word in SHORTER.get(words[1], []) if not (named and word in _TINY)]
    patch.setattr(sys, "argv", [*words, *shorter])
    output = io.StringIO()
    with contextlib.redirect_stderr(output), pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code, (
        f"{place}: {shlex.join(words)} ended with {stop.value.code}: {output.getvalue()[-2000:]}"
    )


def _short(words: list[str]) -> bool:
    """Is this no benchmark, or one of few cells? The names in a long one are checked."""
    if words[1] not in ("bench", "plan") or "--only" in words or words[2] == "smoke":
        return True
    cells = read_bench(Path(words[2]))
    check_names(cells)
    return len(cells) <= FEW


def check_words(words: list[str], place: str) -> None:
    """The program is known, and what it is asked for exists. Raises AssertionError naming the place."""
    if "vitadapt" in words:
        check_vitadapt(words[words.index("vitadapt") :], place)
    elif words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        asked = {word for word in words[1:] if "=" not in word and "..." not in word}
        assert asked <= targets, f"{place}: make has no such target"
    elif words[0] == "pip":
        extras = parse_toml((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        asked = [name for word in words for group in re.findall(r"\[(.*)\]", word) for name in group.split(",")]
        wrong = {name for name in asked if not name.isupper()} - set(extras)  # NAME stands for any
        assert not wrong, f"{place}: no such extra"
    elif words[0] == "python" and len(words) > 1 and words[1].startswith(("benchmarks/", "tools/")):
        source = (ROOT / words[1]).read_text("utf-8")
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert all(f'"{flag}"' in source for flag in flags), f"{place}: {words[1]} knows not all of {flags}"


@cache
def _commands() -> dict[str, Any]:
    return dict(commands(program()))


def check_vitadapt(words: list[str], place: str) -> None:
    """The command exists and has these options; a pipe ends it."""
    words = words[: words.index("|")] if "|" in words else words
    words = [words[0], *words[3:]] if words[1:2] in (["--plugin"], ["--threads"]) else words
    known = _commands()
    name = next((name for name in (" ".join(words[:3]), " ".join(words[:2])) if name in known), None)
    if name is None:
        assert words[1:] in ([], ["--help"], ["--version"], ["COMMAND", "--help"], ["COMMAND", "..."]), (
            f"{place}: no command {' '.join(words[:2])!r}"
        )
        return
    flags = {flag for param in known[name].params for flag in param.opts} | {"--help", "--plugin", "--threads"}
    unknown = [word for word in words[1:] if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in flags]
    assert not unknown, f"{place}: {name} has no {unknown}"


def notebook_blocks(path: Path) -> list[Block]:
    """The cells of a notebook as blocks: first its Python, then its lines that begin with ! or %, which are commands.

    Metadata of a cell, {"docs": {"not run": REASON}} or {"docs": {"with": {old: new}}}, do what comments do in a page.
    """
    cells = json.loads(path.read_text("utf-8"))["cells"]
    found = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        table = cell["metadata"].get("docs", {})
        text, place = "".join(cell["source"]), path.relative_to(ROOT).as_posix()
        swaps = tuple(table.get("with", {}).items())
        for kind, mark in (("python", False), ("bash", True)):
            lines = [line for line in text.splitlines() if line.startswith(("!", "%")) is mark]
            part = "\n".join(line.lstrip("!%") for line in lines)
            if part.strip():
                found.append(Block(place, number, kind, part, reason=table.get("not run", ""), swaps=swaps))
    return found
