"""What people read as the name of a method and of a head: from values, and from records without importing torch.

A name holds only the fields that differ from the defaults. Those of the built-in methods are read from their source,
because importing a method imports torch, which takes longer than printing a thousand records. A method that stands
elsewhere, or a value that its source does not explain, is asked in person.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from .headspec import HEADS


def changes_text(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """ "rank=8,targets=q+k+v": the values that are not the default ones, in the order of the defaults."""
    changed = [(name, values[name]) for name in defaults if name in values and values[name] != defaults[name]]
    return ",".join(f"{name}={'+'.join(value) if isinstance(value, tuple) else value}" for name, value in changed)


def named(name: str, changes: str) -> str:
    """ "lora" or "lora:rank=8"."""
    return f"{name}:{changes}" if changes else name


def recorded_name(config: Mapping[str, Any]) -> str:
    """The method of a record's configuration, and the head if unusual. Raises UnknownName or ConfigError."""
    head = config.get("head")
    return _method_name(repr(config["method"])) + (f" +{_head_name(repr(head))}" if head else "")


@lru_cache(maxsize=1024)
def _method_name(plain: str) -> str:
    values = ast.literal_eval(plain)
    name = values.pop("name")
    defaults = declared().get(name)
    if defaults is None or not values.keys() <= defaults.keys():
        return _asked(name, values)
    return named(name, changes_text(_typed(values, defaults), defaults))


def _asked(name: str, values: Mapping[str, Any]) -> str:
    from .config import build, method_text
    from .methods import METHODS

    return method_text(build(METHODS[name], values, "method"))


@lru_cache(maxsize=1024)
def _head_name(plain: str) -> str:
    values = ast.literal_eval(plain)
    defaults = dataclasses.asdict(HEADS[values["start"]])
    return named(values["start"], changes_text(_typed(values, defaults), defaults))


def _typed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples, and one may write a whole number where a float belongs."""
    typed = {}
    for name, value in values.items():
        if isinstance(value, list):
            value = tuple(value)
        elif type(value) is int and isinstance(defaults[name], float):
            value = float(value)
        typed[name] = value
    return typed


@cache
def declared() -> dict[str, dict[str, Any]]:
    """Method name -> field -> default, as the files of the built-in methods say; one with other defaults is absent."""
    folder = resources.files("vitadapt").joinpath("methods")
    sources = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".py")]
    return dict(found for source in sources for found in _methods_in(source))


def _methods_in(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        names = [_registered(decorator) for decorator in node.decorator_list]
        try:
            fields = {field: ast.literal_eval(value) for field, value in _fields_of(node)}
        except ValueError:  # a default that must be computed
            continue
        yield from ((name, fields) for name in names if name)


def _registered(decorator: ast.expr) -> str | None:
    """The name in `METHODS.register("name")`."""
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "METHODS.register":
        return str(ast.literal_eval(decorator.args[0]))
    return None


def _fields_of(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and line.value and not ast.unparse(line.annotation).startswith("ClassVar"):
            yield ast.unparse(line.target), line.value
