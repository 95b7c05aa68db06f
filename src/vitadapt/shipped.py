"""The benchmarks that come with the package: the files of recipes/, found by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .registry import unknown


@cache
def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every benchmark that comes with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.toml"))}


def find_recipe(path: Path) -> Path:
    """`path` itself when it is a file or looks like one (a folder before it, .toml behind it), else the shipped recipe
    of that name. Raises UnknownName.
    """
    if path.is_file() or len(path.parts) != 1 or path.suffix == ".toml":
        return path
    known = shipped_recipes()
    if str(path) not in known:
        raise unknown("recipe", str(path), known, "A recipe of your own is named by its file.")
    return known[str(path)]
