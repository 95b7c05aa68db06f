"""docs/dependencies.md is true: every dependency with bound, extra and reason, under a licence that goes with ours."""

from __future__ import annotations

import ast
import re
import sys
from email.message import Message
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vitadapt.cli.installation import extras
from vitadapt.utils.files import parse_toml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
PROJECT = parse_toml((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FOR_DEVELOPERS = ("all", "dev", "docs", "fuzz", "release")
OPTIONAL = {n: lines for n, lines in PROJECT["optional-dependencies"].items() if n not in FOR_DEVELOPERS}
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if re.match(r"\| [a-z]", line)
]
ROWS = [row for row in ROWS if row[0] != "package"]
ALWAYS = {row[0]: row for row in ROWS if len(row) == 4}
EXTRA = {row[0]: row for row in ROWS if len(row) == 5}

COMPATIBLE = {  # permissive licences, which put no condition on work under Apache-2.0 that it does not put itself
    *("Apache-2.0", "MIT", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Zlib", "CC0-1.0", "BSL-1.0"),
    *("PSF-2.0", "Python-2.0", "LLVM-exception", "HPND"),
}
SPELT = {  # how packages without an SPDX expression say it
    r"Apache(?: Software License| 2\.0.*| License,? Version 2\.0|-2\.0|$)": "Apache-2.0",
    r"MIT(?: License)?\b": "MIT",
    r"BSD(?:[ -]3-Clause)?(?: License)?\b": "BSD-3-Clause",
    r"(?:Python Software Foundation License|PSF)": "PSF-2.0",
}


def licences(about: PackageMetadata) -> set[str]:
    """The SPDX identifiers of what a package declares: by its expression, else its classifiers, else its first line."""
    if expression := about.get("License-Expression"):
        return {word for word in re.split(r"[\s()]+", expression) if word not in ("", "AND", "OR", "WITH")}
    stated = [
        text.rpartition("::")[2].strip() for text in about.get_all("Classifier", []) if text.startswith("License")
    ]
    stated = stated or [(about.get("License") or "undeclared").strip().splitlines()[0]]
    return {next((spdx for spelt, spdx in SPELT.items() if re.match(spelt, text)), text) for text in stated}


def bound(requirement: Requirement) -> str:
    """The only lower bound of a requirement."""
    (version,) = [part.version for part in requirement.specifier if part.operator in (">=", "==", "~=")]
    return version


def test_every_package_is_listed_with_its_bound_and_extras() -> None:
    always = [Requirement(line) for line in PROJECT["dependencies"]]
    assert {one.name: bound(one) for one in always} == {name: row[1] for name, row in ALWAYS.items()}
    asked = {(one.name, bound(one)): set() for lines in OPTIONAL.values() for one in map(Requirement, lines)}
    for extra, lines in OPTIONAL.items():
        for one in map(Requirement, lines):
            asked[one.name, bound(one)].add(extra)
    assert asked == {(name, row[1]): set(row[3].split(", ")) for name, row in EXTRA.items()}


def test_every_package_has_a_reason_and_a_licence() -> None:
    assert all(len(row[-1]) > 10 and row[2] for row in ROWS)


@pytest.mark.parametrize("name", [row[0] for row in ROWS])
def test_its_licence_is_compatible_and_the_one_on_the_page(name: str) -> None:
    try:
        declared = licences(metadata(name))
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert declared <= COMPATIBLE
    words = set(re.findall(r"[A-Za-z0-9]+(?:-[A-Za-z0-9.]+)+|MIT|PSF", (ALWAYS | EXTRA)[name][2]))
    assert {word.replace("PSF-based", "PSF-2.0") for word in words} & declared


@pytest.mark.parametrize("expression", ["GPL-3.0-only", "LGPL-2.1-or-later", "AGPL-3.0", "Proprietary", "undeclared"])
def test_another_licence_would_be_noticed(expression: str) -> None:
    about = Message()
    about["License"] = expression
    assert not licences(about) <= COMPATIBLE  # type: ignore[arg-type]
    about["License-Expression"] = f"MIT AND {expression}"
    assert not licences(about) <= COMPATIBLE  # type: ignore[arg-type]


def test_what_is_imported_is_declared() -> None:
    """Every library that the source imports is a dependency or belongs to an extra."""
    known = {module for extra in extras().values() for module in extra.modules.values()}
    known |= {name.replace("-", "_") for name in ALWAYS} | {"PIL", "sklearn", "vitadapt"}
    brought = {"markupsafe": "jinja2", "yaml": "huggingface_hub", "httpx": "huggingface_hub", "starlette": "fastapi"}
    used: dict[str, str] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            used |= {name.partition(".")[0]: path.name for name in names}
    foreign = {
        name: file for name, file in used.items() if name not in sys.stdlib_module_names | known | brought.keys()
    }
    assert foreign == {}
