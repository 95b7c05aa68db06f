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
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "src" / "vitadapt", ROOT / "tests"
GOLDEN = "benchmark/test_golden_table.py"  # what a short training with every method gave
LAWS = "methods/test_methods.py"  # every method keeps every law: of these only the ones of the changed file are tried
SOME = "not test_methods or every_law and (kadaptation or lora or bitfit or fine-tune or linear-probe)"
TOWERS = "training/test_two_towers.py"
PROTOCOLS = ("benchmark/protocols/test_protocols.py", "benchmark/protocols/test_search.py")
CORE = {  # folder or file -> tests besides those of the same path, and those of its folder that import it
    "methods": (LAWS, "methods/test_formulas.py", GOLDEN),
    "methods/both_towers.py": (LAWS, "methods/test_formulas.py", TOWERS),
    "methods/class_statistics.py": (
        "methods/test_discriminant.py",
        LAWS,
        "classifier/test_update.py",
        "classifier/test_unknown.py",
    ),
    "methods/coop.py": (LAWS, TOWERS),
    "methods/kgcoop.py": (LAWS, TOWERS),
    "methods/maple.py": (LAWS, TOWERS),
    "methods/released.py": ("benchmark/protocols/test_released.py", LAWS),
    "methods/together.py": (LAWS, TOWERS),
    "nn": ("nn/test_vit.py", "nn/test_surgery.py", LAWS),
    "nn/block.py": ("nn/test_vit.py", "nn/test_surgery.py", "training/test_ingredients.py", LAWS),
    "nn/changes.py": ("methods/test_depth.py", LAWS),
    "nn/class_texts.py": (TOWERS,),
    "nn/head.py": ("classifier/test_prior.py", "methods/test_few_shot.py", "text/test_text_head.py"),
    "nn/head_spec.py": ("training/test_adapter_file.py", "text/test_text_head.py"),
    "nn/novelty.py": ("classifier/test_unknown.py",),
    "nn/perturbation.py": ("training/test_ingredients.py",),
    "nn/support.py": ("methods/test_few_shot.py",),
    "nn/surgery.py": ("nn/test_surgery.py", "training/test_adapter_file.py", LAWS),
    "nn/text_transformer.py": (TOWERS, "text/test_towers.py"),
    "metrics": (),
    "data/sampling": ("data/sampling/test_few_shot.py", "benchmark/protocols/test_protocols.py"),
    "data/sampling/folds.py": ("classifier/test_several_labels.py", "classifier/test_fit.py"),
    "data/sampling/splits.py": ("data/test_catalog.py", "data/readers/test_image_folder.py"),
    "data/sampling/manifests.py": ("benchmark/test_runner.py",),
    "training/augmentation.py": (),
    "training/cross_validation.py": PROTOCOLS,
    "training/features.py": PROTOCOLS,
    "training/ingredients.py": (),
    "training/loop.py": ("benchmark/protocols/test_protocols.py", "utils/test_tracking.py"),
    "training/recipe.py": ("training/test_config.py", "training/test_loop.py", "benchmark/test_recipes.py"),
    "training/task.py": (*PROTOCOLS, "benchmark/test_runner.py"),
    "training/views.py": (),
    "text/class_features.py": (),
    "text/features.py": (),
    "benchmark/protocols": PROTOCOLS,
    "benchmark/protocols/best_on_test.py": ("benchmark/test_transfer.py",),
    "benchmark/protocols/few_shot_clip.py": ("benchmark/test_few_shot_clip.py",),
    "benchmark/analysis": ("metrics/test_significance.py",),
    "benchmark/analysis/groups.py": ("report/test_table.py",),
    "benchmark/post_hoc": (),
    "benchmark/leaderboard/score.py": ("benchmark/leaderboard/test_submission.py",),
    "benchmark/parameter_counts.py": (TOWERS, "cli/test_main.py"),
    "classifier/closed_form.py": ("classifier/test_update.py", "classifier/test_fit.py"),
    "classifier/model_selection.py": (),
    "classifier/novelty.py": ("classifier/test_unknown.py",),
    "classifier/prior.py": (),
    "classifier/suggest.py": (),
}
EARLY = ("peft", "pydantic", "safetensors.torch", "sklearn.metrics", "torch")  # imported once, and not in every fork
TALK = {"methods/explain.py"}  # texts for people: nobody computes with them
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
OPERATORS |= {ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Add}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARISONS |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
PATIENCE = 60  # seconds of computing after which a test is in a loop without end
WAITING = 1800  # seconds on the clock after which the tests of a file wait for something that never comes


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    what: str
    source: str


def core() -> list[str]:
    """The files whose numbers people rely on, as paths in the package."""
    found = {path for name in CORE for path in (PACKAGE / name).rglob("*.py")} | {PACKAGE / name for name in CORE}
    names = (path.relative_to(PACKAGE).as_posix() for path in found if path.is_file() and path.stem != "__init__")
    return sorted(set(names) - TALK)


@cache
def tests_of(file: str) -> tuple[str, ...]:
    """What pytest is given for a file of the core; the nearest tests first."""
    path = Path(file)
    nearest = [(path.parent / f"test_{path.name}").as_posix()]
    beside = [name for name in sorted(_imported()) if name.split("/")[0] == path.parts[0] and file in _imported()[name]]
    more = CORE.get(file) or next((CORE[str(folder)] for folder in path.parents if str(folder) in CORE), ())
    tests = [name for name in dict.fromkeys([*nearest, *beside, *more]) if (TESTS / name).exists()]
    whole = (Path(name).stem for name in tests if not name.startswith("methods/") and name != GOLDEN)
    chosen = " or ".join([_about(file), *whole])
    return *tests, "-k", chosen if path.parts[0] == "methods" else SOME


def _about(file: str) -> str:
    """A file of methods -> what is in the names of tests of the methods in it, and in those that import it."""
    stem = Path(file).stem
    sources = [path.read_text("utf-8") for path in sorted((PACKAGE / "methods").glob("[!_]*.py"))]
    users = [(PACKAGE / file).read_text("utf-8"), *(text for text in sources if f"from .{stem} import" in text)]
    names = [name for text in users for name in re.findall(r'METHODS\.register\("([^"]+)"', text)]
    spelt = [name.replace("-", between) for name in names for between in ("-", "_", "")]
    return " or ".join(dict.fromkeys([stem, *spelt, "small_and_as_large", "initial_sizes"] if spelt else [stem, SOME]))


@cache
def _imported() -> dict[str, set[str]]:
    """Test file -> the files of the package that it imports, or whose names it imports."""
    public = {}  # name -> its file
    for node in _imports(PACKAGE / "methods" / "__init__.py"):
        if node.level == 1:
            public |= {alias.name: f"methods/{node.module}.py" for alias in node.names}
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        files = found[path.relative_to(TESTS).as_posix()] = set()
        for node in _imports(path):
            module = (node.module or "").removeprefix("vitadapt").strip(".").replace(".", "/")
            if module == "methods":
                files |= {public[alias.name] for alias in node.names if alias.name in public}
            files |= {f"{module}.py", *(f"{module}/{alias.name}.py" for alias in node.names)}
    return found


def _imports(path: Path) -> Iterator[ast.ImportFrom]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node


def places(file: str) -> list[tuple[str, int]]:
    """Every change of a file: the number of a node in the order of `ast.walk`."""
    tree = ast.parse((PACKAGE / file).read_text("utf-8"))
    quiet = set(map(id, _unread(tree)))
    return [
        (file, number) for number, node in enumerate(ast.walk(tree)) if id(node) not in quiet and _is_changeable(node)
    ]


def mutant(file: str, number: int) -> Mutant:
    tree = ast.parse((PACKAGE / file).read_text("utf-8"))
    node = next(node for i, node in enumerate(ast.walk(tree)) if i == number)
    line, before = getattr(node, "lineno", 0), ast.unparse(node).splitlines()[0]
    what = _change(node)
    return Mutant(file, line, f"{before}  ->  {what}", ast.unparse(ast.fix_missing_locations(tree)))


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


def _is_changeable(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in OPERATORS
    if isinstance(node, ast.Compare):
        return len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (bool, int, float))
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.Not, ast.USub))
    if isinstance(node, ast.Return):
        return node.value is not None and ast.unparse(node.value) != "None"
    return isinstance(node, (ast.BoolOp, ast.IfExp, ast.Expr, ast.Assign, ast.AugAssign, ast.Continue, ast.If))


def _change(node: ast.AST) -> str:
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


def fate(mutant: Mutant, folder: Path) -> str:
    """What the tests of its file make of the change: "survived", "noticed", or "stopped" when they came to no end.

    "unclear" when the test that noticed it fails without the change, too.
    """
    path = folder / "vitadapt" / mutant.file
    original = path.read_text("utf-8")
    path.write_text(mutant.source, "utf-8")
    try:
        found, failed = _tested(tests_of(mutant.file), folder)
    finally:
        path.write_text(original, "utf-8")
    return "unclear" if found == "noticed" and not _passes(failed, folder) else found


@cache
def _passes(test: str, folder: Path) -> bool:
    """Does one test, or the collection of a file, succeed without any change?"""
    return _tested((test,) if "::" in test else (test, "--collect-only"), folder)[0] == "survived"


def _tested(arguments: tuple[str, ...], folder: Path) -> tuple[str, str]:
    """Tests against the package in `folder`, up to the first that fails -> what came of it, and which that is.

    They run in a fork: torch and pytest are there, the package is not yet.
    """
    note = folder / "failed"
    note.write_text("", "utf-8")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(WAITING)
            for number in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            sys.path.insert(0, str(folder))
            os.chdir(TESTS)
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments], [Notes(note)]))
        finally:
            os._exit(status)  # whatever it was: the child cleans nothing up
    _, status = os.waitpid(child, 0)
    found = "survived" if status == 0 else "stopped" if os.WIFSIGNALED(status) else "noticed"
    return found, note.read_text("utf-8")


@dataclass(frozen=True)
class Notes:
    """A plugin of pytest: the first test that fails is written to a file; none computes for ever."""

    path: Path

    def pytest_runtest_setup(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, PATIENCE)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.path.read_text("utf-8"):
            self.path.write_text(str(ROOT / report.nodeid), "utf-8")


def sample(files: list[str], count: int, seed: int) -> list[Mutant]:
    """So many changes in all, at random, files in proportion to what can be changed in them; mixed."""
    every = [place for file in files for place in places(file)]
    print(f"{len(every)} changes are possible in {len(files)} files", flush=True)
    return [mutant(*place) for place in random.Random(seed).sample(every, min(count, len(every)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--only", nargs="+", default=[""], help="parts of file names")
    options = parser.parse_args()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # some plugins would complain that they are imported already
    for module in EARLY:
        importlib.import_module(module)
    files = [file for file in core() if any(part in file for part in options.only)]
    end, fates = time.monotonic() + 60 * options.minutes, Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(PACKAGE, Path(name) / "vitadapt", ignore=shutil.ignore_patterns("__pycache__"))
        chosen = sample(files, options.count, options.seed)
        for mutant in chosen:
            if time.monotonic() > end:
                break
            found = fate(mutant, Path(name))
            fates[found] += 1
            print(f"\r{fates.total()}", end="", file=sys.stderr, flush=True)
            if found in ("survived", "unclear"):
                print(f"{found}: {mutant.file}:{mutant.line}: {mutant.what}", flush=True)
    noticed = f"{fates['noticed']} noticed, {fates['stopped']} stopped without an end"
    print(f"{fates.total()} changes: {noticed}, {fates['survived']} survived")


if __name__ == "__main__":
    main()
