"""What pyproject.toml says about the project, for the scripts beside this file and for the tests."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOR_DEVELOPERS = ("dev", "release", "docs", "fuzz")  # extras that bring nothing to a user
_PYTHON = "Programming Language :: Python :: "


@cache
def project() -> dict[str, Any]:
    """The table [project]."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def extras() -> list[str]:
    """The extras that bring a user something, without the sum of them."""
    return [name for name in project()["optional-dependencies"] if name not in (*FOR_DEVELOPERS, "all")]


def python_bounds() -> list[str]:
    """The versions of Python that the classifiers name, oldest first: ["3.10", "3.11", ...]."""
    names = [text.removeprefix(_PYTHON) for text in project()["classifiers"] if text.startswith(_PYTHON)]
    return [name for name in names if re.fullmatch(r"3\.\d+", name)]


def requirements(python: str | None = None, of: Iterable[str] | None = None) -> list[Requirement]:
    """What the package and its extras `of` (default: those for users) need; only what applies to `python`."""
    optional = project()["optional-dependencies"]
    added = [line for name in (extras() if of is None else of) for line in optional[name]]
    lines = [*project()["dependencies"], *added]
    parsed = [Requirement(line) for line in dict.fromkeys(lines)]
    where = {"python_version": python} if python else {}
    return [one for one in parsed if one.marker is None or one.marker.evaluate(where)]
