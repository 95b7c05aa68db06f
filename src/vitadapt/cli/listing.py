"""What can be named on the command line, as rows of plain values."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, cast

Row = dict[str, Any]


def methods() -> list[Row]:
    """Name, fields with their defaults, and the first line of the documentation."""
    from ..methods import METHODS

    return [{"name": name, "fields": _fields(kind), "description": _first_line(kind)} for name, kind in METHODS.items()]


def _fields(kind: type) -> str:
    shown = []
    for field in dataclasses.fields(cast(Any, kind)):
        value = "+".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        shown.append(f"{field.name}={value}")
    return " ".join(shown)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def backbones() -> list[Row]:
    """Name, source, licence and description of every named backbone."""
    from ..weights.catalog import list_backbones

    return [dict(row) for row in list_backbones()]


def datasets() -> list[Row]:
    """Name, classes, sizes, licence, and whether the files were found."""
    from ..data import list_datasets

    return [dict(row) for row in list_datasets()]


def protocols() -> list[Row]:
    """Name and description of every protocol, those that see the test set last."""
    from ..benchmark.protocols.registry import PROTOCOLS

    return [{"name": name, "description": _first_line(protocol)} for name, protocol in PROTOCOLS.items()]


def recipes() -> list[Row]:
    """Name, number of cells and title of every benchmark that comes with the package."""
    from ..benchmark.config import read_toml
    from ..benchmark.sweep import read_bench, shipped_recipes

    files = shipped_recipes()
    return [{"name": n, "cells": len(read_bench(f)), "title": read_toml(f).get("title")} for n, f in files.items()]


LISTINGS: dict[str, Callable[[], list[Row]]] = {
    "methods": methods,
    "backbones": backbones,
    "datasets": datasets,
    "protocols": protocols,
    "recipes": recipes,
}
