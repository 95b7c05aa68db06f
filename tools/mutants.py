"""Do the tests notice? Small changes of the core, one at a time; each should turn a test red.

    make mutants                            a sample from every file of the core, the same every time
    make mutants ARGS="--count 40 --seed 1 --only search metrics"
    make mutants ARGS="--minutes 10"        as many of the sample as fit

A comparison, an operator, a constant or a condition is changed, or a statement is left out. The changed file lies in a
copy of the package in a folder of its own; the tests of that file run against the copy, up to the first that fails.
What survives is printed with its line: it is equivalent, or harmless, or a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import copy
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydantic  # noqa: F401 - what tests import is imported once, and not in every fork
import pytest
import safetensors.torch  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch  # noqa: F401

ROOT = Path(__file__).parents[1]
METHODS = ("methods/test_methods.py", "-k")
DELTAS = (
    "nn/test_surgery.py",
    *METHODS,
    "kadaptation or lora or bitfit or fine-tune or not test_a_method_keeps_every_law",
)
CORE = {  # file -> what pytest is given
    "benchmark/protocols/search.py": ("benchmark/protocols/test_search.py",),
    "metrics/scores.py": ("metrics/test_scores.py",),
    "data/sampling/few_shot.py": ("data/sampling/test_few_shot.py",),
    "data/sampling/folds.py": ("data/sampling/test_few_shot.py", "benchmark/protocols/test_protocols.py"),
    "nn/matmul.py": ("nn/test_matmul.py",),
    "nn/deltas.py": DELTAS,
    "nn/surgery.py": DELTAS,
    "methods/kadaptation.py": (*METHODS, "kadaptation or not test_a_method_keeps_every_law"),
    "methods/lora.py": (*METHODS, "lora or not test_a_method_keeps_every_law"),
    "methods/compacter.py": (*METHODS, "compacter or phm-adapter or not test_a_method_keeps_every_law"),
    "methods/adapter.py": (*METHODS, "adapter or compacter or not test_a_method_keeps_every_law"),
    "methods/selective.py": (
        *METHODS,
        "bitfit or layernorm or attention or fine-tune or not test_a_method_keeps_every_law",
    ),
    "methods/released.py": ("benchmark/protocols/test_released.py",),
}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
OPERATORS |= {ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Add}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARISONS |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
PATIENCE = 4  # times what the tests take without a change: then the clock has noticed a loop without end


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    what: str
    source: str


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Every change of a module, one at a time."""
    tree = ast.parse(source)
    quiet = set(map(id, _unread(tree)))
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in quiet:
            continue
        for choice in range(_choices(node)):
            changed = copy.deepcopy(tree)
            target = next(other for i, other in enumerate(ast.walk(changed)) if i == number)
            before = ast.unparse(node).splitlines()[0]
            what = _change(target, choice)
            text = ast.unparse(ast.fix_missing_locations(changed))
            yield Mutant(file, getattr(node, "lineno", 0), f"{before}  ->  {what}", text)


def _unread(tree: ast.Module) -> Iterator[ast.AST]:
    """Docstrings, annotations, names of types and the texts of errors: nobody computes with them."""
    for node in ast.walk(tree):
        roots: list[ast.AST | None] = []
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            roots = [node]
        elif isinstance(node, (ast.AnnAssign, ast.arg)):
            roots = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            roots = [node.returns, *node.decorator_list]
        elif isinstance(node, ast.Module):
            roots = [one for one in node.body if isinstance(one, ast.Assign) and _names_a_type(one.value)]
        for root in filter(None, roots):
            yield from ast.walk(root)


def _names_a_type(value: ast.AST) -> bool:
    """Is it like `dict[str, int]` or `TypeVar("T")`?"""
    return isinstance(value, ast.Subscript) or (isinstance(value, ast.Call) and ast.unparse(value.func) == "TypeVar")


def _choices(node: ast.AST) -> int:
    """How many ways there are to change this node."""
    if isinstance(node, ast.BinOp):
        return int(type(node.op) in OPERATORS)
    if isinstance(node, ast.Compare):
        return int(len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS)
    if isinstance(node, ast.Constant):
        return int(isinstance(node.value, (bool, int, float)))
    if isinstance(node, (ast.BoolOp, ast.IfExp)):
        return 1
    if isinstance(node, ast.UnaryOp):
        return int(isinstance(node.op, (ast.Not, ast.USub)))
    if isinstance(node, ast.Return):
        return int(node.value is not None and ast.unparse(node.value) != "None")
    return int(isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign, ast.Continue, ast.If)))


def _change(node: ast.AST, choice: int) -> str:
    """Changes the node where it stands -> how it reads now."""
    if isinstance(node, ast.BinOp):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops = [COMPARISONS[type(node.ops[0])]()]
    elif isinstance(node, ast.Constant):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1  # type: ignore[operator]
    elif isinstance(node, ast.BoolOp):
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    elif isinstance(node, ast.UnaryOp):
        return _become(node, node.operand)
    elif isinstance(node, ast.If):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return):
        node.value = ast.Constant(None)
    else:
        return _become(node, ast.Pass())
    return ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]


def _become(node: ast.AST, other: ast.AST) -> str:
    """Makes the node what the other is."""
    node.__class__ = other.__class__  # type: ignore[assignment]
    node.__dict__.clear()
    node.__dict__.update(other.__dict__)
    return "pass" if isinstance(other, ast.Pass) else ast.unparse(other)


def fate(mutant: Mutant, folder: Path, seconds: int) -> str:
    """What the tests of its file make of the change: "survived", "noticed", or "stopped" when they came to no end.

    They run in a fork: torch and pytest are there, the package is not yet.
    """
    path = folder / "vitadapt" / mutant.file
    original = path.read_text("utf-8")
    path.write_text(mutant.source, "utf-8")
    child = os.fork()
    if child == 0:
        os._exit(_tested(mutant.file, folder, seconds))
    try:
        _, status = os.waitpid(child, 0)
        return "survived" if status == 0 else "stopped" if os.WIFSIGNALED(status) else "noticed"
    finally:
        path.write_text(original, "utf-8")


def _tested(file: str, folder: Path, seconds: int) -> int:
    """The exit status of the tests against the package in `folder`, up to the first that fails."""
    signal.alarm(seconds)
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    sys.path.insert(0, str(folder))
    os.chdir(ROOT / "tests")
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *CORE[file]]))


def unchanged(files: Iterable[str], folder: Path) -> dict[tuple[str, ...], int]:
    """Tests -> seconds that they may take. Exits naming a file whose tests fail as it is: they notice nothing."""
    limits: dict[tuple[str, ...], int] = {}
    for file in files:
        if CORE[file] in limits:
            continue
        source, start = (folder / "vitadapt" / file).read_text("utf-8"), time.monotonic()
        if fate(Mutant(file, 0, "", f"{source}\n"), folder, 0) != "survived":
            sys.exit(f"{file}: its tests fail without any change")
        limits[CORE[file]] = PATIENCE * math.ceil(time.monotonic() - start)
    return limits


def sample(files: list[str], count: int, seed: int) -> list[Mutant]:
    """So many changes in all, at random, files in proportion to what can be changed in them; mixed."""
    every = [one for file in files for one in mutants(file, (ROOT / "src" / "vitadapt" / file).read_text("utf-8"))]
    return random.Random(seed).sample(every, min(count, len(every)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--only", nargs="+", default=[""], help="parts of file names")
    options = parser.parse_args()
    files = [file for file in CORE if any(part in file for part in options.only)]
    end, fates = time.monotonic() + 60 * options.minutes, Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(
            ROOT / "src" / "vitadapt", Path(name) / "vitadapt", ignore=shutil.ignore_patterns("__pycache__")
        )
        chosen = sample(files, options.count, options.seed)
        limits = unchanged(sorted({mutant.file for mutant in chosen}), Path(name))
        for mutant in chosen:
            if time.monotonic() > end:
                break
            found = fate(mutant, Path(name), limits[CORE[mutant.file]])
            fates[found] += 1
            print(f"\r{fates.total()}", end="", file=sys.stderr, flush=True)
            if found == "survived":
                print(f"survived: {mutant.file}:{mutant.line}: {mutant.what}", flush=True)
    noticed = f"{fates['noticed']} noticed, {fates['stopped']} stopped without an end"
    print(f"{fates.total()} changes: {noticed}, {fates['survived']} survived")


if __name__ == "__main__":
    main()
