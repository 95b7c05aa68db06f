"""No way leads from a file, a name or a word of a user to running it: the source is searched for all that would.

A finding must be in ALLOWED with its reason. What is allowed is as much part of the test as what is not: an entry that
no longer finds anything turns it red.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import vitadapt

ROOT = Path(vitadapt.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Called by this name, it runs or rebuilds whatever its argument says.
CALLS = {
    *("eval", "exec", "compile", "__import__", "execfile", "input", "breakpoint"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.execve", "os.spawnv", "os.spawnl", "os.startfile"),
    *("pty.spawn", "runpy.run_path", "runpy.run_module", "code.interact", "ctypes.CDLL", "ctypes.cdll.LoadLibrary"),
    *(
        "torch.jit.load",
        "torch.hub.load",
        "torch.package.PackageImporter",
        "torch.ops.load_library",
        "torch.classes.load_library",
    ),
    *("torch.export.load", "torch.compile"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("pandas.read_pickle", "pd.read_pickle", "pd.read_hdf", "pd.eval", "joblib.load", "dill.load", "dill.loads"),
    *("importlib.util.spec_from_file_location", "importlib.machinery.SourceFileLoader", "imp.load_source"),
    *("logging.config.dictConfig", "logging.config.fileConfig", "logging.config.listen", "random.setstate"),
    *("onnx.load_model_from_string",),
}
MODULES = {  # an import of one of these is a finding, whatever is called afterwards
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "imp", "code"),
    *("subprocess", "pty", "ctypes", "jsonpickle", "multiprocessing.managers", "xmlrpc", "telnetlib", "ftplib"),
}
METHODS = {
    "extractall",
    "extract",
    "read_pickle",
    "unpack_archive",
    "eval_js",
    "query_string",
    "exec_module",
}  # of any object
FLAGS = {"shell", "trust_remote_code", "allow_pickle", "unsafe", "custom_ops_library"}  # given as anything but False
IMPORTERS = {"import_module", "importlib.import_module"}

Finding = tuple[str, str]  # the file, what was found

ALLOWED: dict[Finding, str] = {
    (
        "data/readers/restricted_pickle.py",
        "pickle.Unpickler",
    ): "find_class gives arrays, bytes and nothing else; CIFAR is so",
    (
        "weights/torchscript.py",
        "pickle.Unpickler",
    ): "find_class gives tensors, containers and placeholders; OpenAI's CLIP is so",
    (
        "weights/offline.py",
        "onnx.load_model_from_string",
    ): "a protobuf, whose bytes have a pinned digest; nothing in it is run",
    (
        "classifier/export/transformers_js.py",
        "import subprocess",
    ): "runs node with a program of ours, to certify what was exported; the folder of packages is the user's choice",
    (
        "classifier/export/graphs.py",
        "torch.export.load",
    ): "opens what the line before has written, to certify it; never a user's file",
    **dict.fromkeys(
        [("classifier/export/graphs.py", "import runpy"), ("classifier/export/graphs.py", "runpy.run_path")],
        "runs the example of the package that the line before has copied, to certify it; never a user's file",
    ),
    **dict.fromkeys(
        [("utils/plugins.py", "importlib.util.spec_from_file_location"), ("utils/plugins.py", ".exec_module")],
        "runs the plugin files that the user names himself with --plugin or VITADAPT_PLUGINS, and no other",
    ),
    (
        "data/readers/matlab.py",
        "import subprocess",
    ): "starts Python on a file of ours, so that scipy's crash is not ours",
    ("utils/optional.py", "import_module of a variable"): "every call names a library in the source (tested below)",
}


def findings(tree: ast.AST) -> Iterator[str]:
    """Everything in a file that could execute, import by name, or unpickle."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {ast.unparse(alias)}" for alias in node.names if _suspect(alias))
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module in MODULES:
            yield f"import {node.module}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and node.attr != "UnpicklingError":
            yield f"pickle.{node.attr}"
        elif isinstance(node, ast.Call):
            yield from _called(node)
        elif isinstance(node, ast.Name) and node.id in ("eval", "exec", "__import__", "__builtins__"):
            yield node.id


def _suspect(alias: ast.alias) -> bool:
    """pickle under its own name is no finding, because every use of it is one."""
    return alias.name in MODULES and (alias.name != "pickle" or alias.asname is not None)


def _called(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in CALLS and name not in ("eval", "exec", "__import__"):  # those are found as names, called or not
        yield name
    if name.rpartition(".")[2] in METHODS and isinstance(call.func, ast.Attribute):
        yield f".{name.rpartition('.')[2]}"
    if name.endswith("torch.load") and given.get("weights_only") != "True":
        yield "torch.load"
    if name in IMPORTERS and not (call.args and isinstance(call.args[0], ast.Constant)):
        yield "import_module of a variable"
    yield from (f"{flag}={given[flag]}" for flag in FLAGS & given.keys() if given[flag] != "False")


@cache
def found() -> Counter[Finding]:
    """Every finding in the package, with how often it occurs."""
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in FILES}
    return Counter((file, what) for file, tree in trees.items() for what in findings(tree))


def test_nothing_executes_or_unpickles_but_what_is_allowed() -> None:
    assert [place for place in found() if place not in ALLOWED] == []


def test_what_is_allowed_is_still_there() -> None:
    assert [place for place in ALLOWED if place not in found()] == []
    assert all(len(reason) > 20 for reason in ALLOWED.values())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("eval(text)", ["eval"]),
        ("run = eval", ["eval"]),
        ("model.eval()", []),
        ("pattern = re.compile(text)", []),
        ("compile(text, 'x', 'exec')", ["compile"]),
        ("import pickle\nload = pickle.loads", ["pickle.loads"]),
        ("import pickle as p", ["import pickle as p"]),
        ("try:\n    f()\nexcept pickle.UnpicklingError:\n    pass", []),
        ("def f():\n    from pickle import Unpickler", ["import pickle"]),
        ("torch.load(path)", ["torch.load"]),
        ("torch.load(path, weights_only=flag)", ["torch.load"]),
        ("torch.load(path, weights_only=True)", []),
        ("np.load(path, allow_pickle=True)", ["allow_pickle=True"]),
        ("np.load(path, allow_pickle=False)", []),
        ("AutoModel.from_pretrained(name, trust_remote_code=remote)", ["trust_remote_code=remote"]),
        ("archive.extractall(folder)", [".extractall"]),
        ("zipfile.ZipFile(p).extract(n, folder)", [".extract"]),
        ("shutil.unpack_archive(path)", [".unpack_archive"]),
        ("import_module(name)", ["import_module of a variable"]),
        ("import_module('timm')", []),
        ("subprocess_like.run(words, shell=True)", ["shell=True"]),
        ("import subprocess", ["import subprocess"]),
        ("yaml.load(text)", ["yaml.load"]),
        ("yaml.safe_load(text)", []),
        ("os.system(text)", ["os.system"]),
        ("import marshal, shelve", ["import marshal", "import shelve"]),
        ("torch.jit.load(path)", ["torch.jit.load"]),
        ("pd.read_pickle(path)", ["pd.read_pickle", ".read_pickle"]),
    ],
)
def test_the_search_finds_them(source: str, expected: list[str]) -> None:
    assert list(findings(ast.parse(source))) == expected


def test_optional_libraries_are_named_in_the_source() -> None:
    """`package(NAME, EXTRA)` imports by name: no call of it takes the name from anywhere else."""
    called = [
        (path.name, ast.unparse(node))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("package", "optional.package")
        and not all(isinstance(argument, ast.Constant) for argument in node.args)
    ]  # fmt: skip
    assert called == []
