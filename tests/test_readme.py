"""What README.md tells people to type is typed here: on a tiny random network, for one epoch, in its order."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitadapt
from vitadapt.bench import check_names, read_bench
from vitadapt.cli import main
from vitadapt.files import parse_toml
from vitadapt.shipped import shipped_recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
SMALLER = {
    "dinov2-s14-offline": "random:tiny",
    "random:clip-vit-b32": "random:tiny",
    "image_size=70": "image_size=32",
    "epochs=20": "epochs=1",
}
SHORTER = {
    "run": ["--backbone", "random:tiny", "--recipe", "epochs=1,probe_epochs=1", "--no-cache"],
    "bench": ["--no-cache"],
    "fit": ["--backbone", "random:tiny", "--recipe", "epochs=1,probe_epochs=1", "--no-cache"],
    "count": ["--backbone", "random:tiny"],
}
LONG = set(shipped_recipes()) - {"smoke"}  # hours: they are read, not run


def smaller(text: str) -> str:
    for long, short in SMALLER.items():
        text = text.replace(long, short)
    return text


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A folder like a newcomer's: two classes of photos (of a sort), and the benchmark that README shows."""
    rng = np.random.default_rng(0)
    for label, level in {"cats": 60, "dogs": 190}.items():
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(10):
            pixels = np.clip(rng.normal(level, 40, (33, 35, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.jpg")
    (toml,) = [block for kind, block in BLOCKS if kind == "toml"]
    (tmp_path / "my.toml").write_text(smaller(toml) + "[recipe]\nepochs = 1\nprobe_epochs = 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_command(line: str, monkeypatch) -> None:
    """Run one line, shortened. A whole benchmark is expanded and its names are checked; a part of it and smoke run."""
    words = shlex.split(smaller(line), comments=True)
    whole = words[1] == "bench" and "--only" not in words
    if whole and words[2] != "smoke":
        assert words[2] in LONG or words[2] == "my.toml"
        return check_names(read_bench(Path(words[2])))
    monkeypatch.setattr(sys, "argv", [*words, *SHORTER.get(words[1], [])])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code, line
    return None


def test_every_command_and_every_line_of_python_works(newcomer, monkeypatch, capsys):
    commands = [line for line in LINES if line.startswith("vitadapt ")]
    assert len(commands) >= 8
    for line in commands:
        type_command(line, monkeypatch)
    assert "kadaptation" in capsys.readouterr().out
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    names = {"images": images, "labels": torch.tensor([0, 1, 2] * 2)}
    python = [block for kind, block in BLOCKS if kind == "python"]
    assert len(python) >= 2
    for block in python:
        exec(compile(smaller(block), "README.md", "exec"), names)  # noqa: S102 - our own page
    assert set(names["model"].state_dict())


def test_every_other_command_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    extras = parse_toml((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for line in LINES:
        program, *words = shlex.split(line, comments=True) or [""]
        assert program in ("", "vitadapt", "make", "pip"), line
        if program == "make":
            assert set(words) <= targets
        if program == "pip":
            asked = [name for word in words for group in re.findall(r"\[(.*)\]", word) for name in group.split(",")]
            assert asked and set(asked) <= set(extras)


def test_what_readme_links_to_is_there():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links and all((ROOT / link).exists() for link in links)


def test_the_package_has_the_names_that_readme_uses():
    used = set(re.findall(r"\bva\.(\w+)", README))
    assert used and all(hasattr(vitadapt, name) for name in used)
