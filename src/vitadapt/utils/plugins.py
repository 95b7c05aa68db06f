"""Methods, backbone sources, dataset readers and trackers from outside this package, loaded when a name is first
looked up.

They come from installed packages (entry points of the groups `vitadapt.methods`, `vitadapt.backbones`,
`vitadapt.readers` and `vitadapt.trackers`) and from Python files that the user names with `--plugin` or in the
environment variable VITADAPT_PLUGINS. Their code runs like any code that the user installs or starts: name only files
that you trust.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from .errors import ConfigError, describe

FILES = "VITADAPT_PLUGINS"
"""The environment variable with the plugin files, separated as in PATH."""


def load_plugins(files: Iterable[str | Path] = ()) -> None:
    """Load the plugin `files`, and those that VITADAPT_PLUGINS names, once per process.

    Processes that this one starts load the same files. Raises ConfigError naming the file and the reason.
    """
    named = [*os.environ.get(FILES, "").split(os.pathsep), *(os.path.abspath(file) for file in files)]
    paths = list(dict.fromkeys(filter(None, named)))
    if paths:
        os.environ[FILES] = os.pathsep.join(paths)
    for path in paths:
        _load_file(os.path.realpath(path))


def installed(group: str) -> tuple[tuple[str, Any], ...]:
    """(name, object) of each entry point of `group`, loaded. Raises ConfigError naming the package and the reason."""
    return tuple((point.name, _load_entry(point)) for point in entry_points(group=group))


def _load_entry(point: EntryPoint) -> Any:
    package = point.dist.name if point.dist else "unknown"
    with _failing(f"the installed package {package} (entry point {point.name} = {point.value})"):
        return point.load()


@cache
def _load_file(path: str) -> None:
    with _failing(f"the plugin {path}"):
        if any(getattr(module, "__file__", None) == path for module in list(sys.modules.values())):
            return  # the program has imported it already, or is this very file
        name = Path(path).stem
        if not name.isidentifier() or name in sys.modules or importlib.util.find_spec(name) is not None:
            name = f"vitadapt_plugin_{name}"  # a module of this name exists: leave it alone
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ConfigError("it is not a Python file (.py)")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Whatever stops a plugin becomes one line."""
    try:
        with redirect_stdout(sys.stderr):  # stdout is for the answer of the command
            yield
    except (Exception, SystemExit) as error:
        reason = describe(error).partition("\n")[0]
        raise ConfigError(f"{what} cannot be loaded: {reason}") from error
