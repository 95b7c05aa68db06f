"""The plan of the house, kept by reading the source: who may import whom, who prints, and what never appears."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import vitadapt
from vitadapt.methods import METHODS

ROOT = Path(vitadapt.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"timm", "open_clip", "transformers", "huggingface_hub", "onnx", "mlxtend", "matplotlib", "peft", "ray", "nltk"}
SPEAKING = {"cli", "__main__"}  # and nobody else
GENERIC = {"adapter", "attention", "layernorm"}  # method names that are also plain words

# The folders of the package. A folder imports only folders to its left.
FOLDERS = (
    *("utils", "nn", "methods", "data", "metrics", "weights", "text"),
    *("training", "benchmark", "report", "classifier", "serving", "cli"),
)
NARROW = {  # what some folders are limited to, besides themselves
    "nn": {"utils"},
    "methods": {"utils", "nn"},
    "data": {"utils"},
    "weights": {"utils", "nn"},
    "report": set(FOLDERS[: FOLDERS.index("report")]) - {"training", "nn"},
}


def module_of(path: Path) -> str:
    """src/vitadapt/data/images.py -> "data.images"; the package itself is ""."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def package_of(path: Path) -> list[str]:
    """The package in which a file's relative imports start, as parts below the package's root."""
    parts = [part for part in module_of(path).split(".") if part]
    return parts if path.name == "__init__.py" else parts[:-1]


def imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Every module of this package that is imported, wherever in a file: its name without "vitadapt."."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            whole = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["vitadapt", *package[: len(package) - node.level + 1]] if node.level else []
            stem = [*base, *filter(None, (node.module or "").split("."))]
            whole = [[*stem, alias.name] for alias in node.names]
            whole = [parts if ".".join(parts[1:]) in MODULES else stem for parts in whole]
        else:
            continue
        yield from (".".join(parts[1:]) for parts in whole if parts[0] == "vitadapt")


def imports_of(path: Path) -> Iterator[str]:
    return imports(tree(path), package_of(path))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..nn.vit import ViT", ["nn.vit"]),
        ("from ..nn import surgery, head", ["nn.surgery", "nn.head"]),
        ("from .registry import METHODS", ["methods.registry"]),
        ("from . import lora", ["methods.lora"]),
        ("def f():\n  from vitadapt.data.pixels.pixels import Pixels", ["data.pixels.pixels"]),
        ("import vitadapt.cli.main", ["cli.main"]),
        ("from vitadapt import ViT", [""]),
        ("import torch\nfrom numpy import array", []),
    ],
)
def test_the_reading_of_imports_is_right(source: str, expected: list[str]) -> None:
    assert list(imports(ast.parse(source), ["methods"])) == expected


def below(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import: not those in functions, nor under `if TYPE_CHECKING`."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from top_level(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from top_level(getattr(node, part, []))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name of what is called, the call)."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def folder_of(name: str) -> str:
    return name.partition(".")[0]


def allowed(folder: str) -> set[str]:
    """The folders that a folder may import."""
    return {folder, *NARROW.get(folder, FOLDERS[: FOLDERS.index(folder)])}


def test_the_package_holds_these_folders_the_public_door_and_nothing_else() -> None:
    found = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert found == {*FOLDERS, "__init__.py", "__init__.pyi", "__main__.py", "py.typed"}


def test_a_folder_imports_only_folders_to_its_left() -> None:
    for path in FILES:
        folder = folder_of(module_of(path))
        if folder in FOLDERS:
            others = {folder_of(name) for name in imports_of(path)} - {"", "__main__"}
            assert others <= allowed(folder), named(path)


def test_no_two_files_import_one_another() -> None:
    graph = {name: set(imports_of(path)) - {name, ""} for name, path in MODULES.items() if name}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == MODULES.keys() - {""}


def test_the_tests_are_laid_out_like_the_package() -> None:
    own = {"faults", "fixtures", "fuzz", "golden", "project", "support"}
    found = {path.name for path in Path(__file__).parents[1].iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert found <= {*FOLDERS, *own}


PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_page_of_the_architecture_names_every_folder_in_order_and_files_that_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert tuple(folder for folder, _ in rows) == FOLDERS
    named_files = [ROOT / folder / name for folder, text in rows for name in re.findall(r"`(\w+(?:\.py|/))`", text)]
    assert [path for path in named_files if not path.exists()] == [] and len(named_files) > 8


SILENT = [path for path in FILES if not below(module_of(path), SPEAKING)]
SPOKEN = ("print", "pprint", "echo", "secho", "stdout.write", "stderr.write")


def test_nothing_imports_the_command_line() -> None:
    assert [(named(path), name) for path in SILENT for name in imports_of(path) if below(name, SPEAKING)] == []


def test_only_the_command_line_prints() -> None:
    ends = tuple(f".{word}" for word in SPOKEN)
    called = [(named(path), name) for path in SILENT for name, _ in calls(path)]
    assert [(file, name) for file, name in called if name in SPOKEN or name.endswith(ends)] == []


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    for path in FILES:
        names = []
        for node in top_level(tree(path).body):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
        assert not {name.split(".")[0] for name in names} & HEAVY, named(path)


def test_opening_the_package_loads_nothing_heavy() -> None:
    program = "import sys, vitadapt; print(sorted({'torch', 'numpy', 'pandas'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def strings(node: ast.expr) -> set[str]:
    """The string constants of a comparison's operand, those in a tuple, list or set included."""
    parts = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def compared_with_methods(tree: ast.AST) -> list[str]:
    """Comparisons (and match cases) that decide by the name of a registered method."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            text, constants = ast.unparse(node), set().union(*map(strings, [node.left, *node.comparators]))
        elif isinstance(node, ast.MatchValue):
            text, constants = ast.unparse(node), strings(node.value)
        else:
            continue
        names = constants & METHODS.keys()
        if names - GENERIC or (names and "method" in text):
            found.append(f"line {node.lineno}: {text}")
    return found


def test_no_branch_asks_for_the_name_of_a_method() -> None:
    files = [path for path in FILES if not below(module_of(path), {"methods"})]
    assert [(named(path), line) for path in files for line in compared_with_methods(tree(path))] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("if name == 'lora': pass", 1),
        ("x = method in ('adapter', 'bitfit')", 1),
        ("match kind:\n  case 'kadaptation': pass", 1),
        ("if method_name != 'attention': pass", 1),
        ("if place == 'attention': pass", 0),
        ("if name == 'lora-ish': pass", 0),
    ],
)
def test_the_search_for_such_branches_finds_them(source: str, expected: int) -> None:
    assert len(compared_with_methods(ast.parse(source))) == expected


def test_every_public_name_exists() -> None:
    for name in MODULES.keys() - {"__main__"}:  # importing that starts the program
        module = importlib.import_module(f"vitadapt.{name}" if name else "vitadapt")
        names = getattr(module, "__all__", [])
        assert len(set(names)) == len(names), name
        assert [missing for missing in names if not hasattr(module, missing)] == [], name
