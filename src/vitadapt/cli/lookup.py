"""`vitadapt list` and `count`: what can be named, and what methods train."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from . import options as opt
from .output import echo, echo_json, print_columns

app = typer.Typer()
Listing = list[dict[str, Any]]
Kind = Literal["methods", "backbones", "datasets", "protocols", "recipes"]


@opt.command(app, opt.LOOK_UP, "vitadapt list methods", "list")
def list_names(what: Annotated[Kind, Argument(help="What to list.")], as_json: opt.AsJson = False) -> None:
    """List what can be named: methods, backbones, datasets, protocols or recipes."""
    rows = list_rows(what)
    if as_json:
        echo_json(rows)
        return
    heads = list(dict.fromkeys(key for row in rows for key in row))
    body = [["" if row.get(head) is None else str(row[head]) for head in heads] for row in rows]
    print_columns(heads, body, left=tuple(heads))


@opt.command(app, opt.LOOK_UP, "vitadapt count --method lora:rank=8")
def count(
    backbone: opt.Backbone = "random:clip-vit-b32",
    method: Annotated[list[str] | None, Option("--method", "-m", help="Repeatable (default: all).")] = None,
    audit: Annotated[bool, Option(help="Class every trainable tensor as live, dead, stuck or shared.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Count what each method trains on a backbone, next to the published figures."""
    from ..benchmark.parameter_counts import count_methods

    rows = count_methods(backbone, method or [], audit)
    if as_json:
        echo_json([dataclasses.asdict(row) for row in rows])
    else:
        body = []
        for row in rows:
            counts = ["does not apply", ""]
            if row.trained is not None:
                counts = [f"{row.trained:,}", f"{int(row.trained + row.head):,}"]
            body.append([row.method, *counts, f"{row.published:,}" if row.published else ""])
        heads = ["method", "without head", "with mean head (513 x 57.55)", "published"]
        print_columns(heads, body, left=("method",))
        for row in (row for row in rows if audit and row.trained is not None):
            lines = [[t.name, "x".join(map(str, t.shape)), t.status, "shared" if t.shared else ""] for t in row.tensors]
            echo("", row.method)
            print_columns(["tensor", "shape", "status", ""], lines, left=("tensor", "status", ""))
    if not all(row.sound for row in rows):
        raise typer.Exit(1)


@opt.command(app, opt.LOOK_UP, "vitadapt methods lora:rank=8", "methods")
def explain_method(
    name: Annotated[str, Argument(metavar="NAME", help="A method, as with --method; several joined by +.")],
    backbone: opt.Backbone = "random:clip-vit-b32",
    as_json: opt.AsJson = False,
) -> None:
    """Explain a method: its formula, paper and size, when to use it, and a drawing of where it acts."""
    from ..benchmark.parameter_counts import count_methods
    from ..methods.explain import about
    from ..methods.spec import parse_method

    method = parse_method(name)
    parts = [about(part) for part in getattr(method, "methods", (method,))]
    whole = about(method)
    (row,) = count_methods(backbone, [name])
    counted = None if row.trained is None else f"{row.trained:,} without the head"
    if as_json:
        echo_json(
            {"methods": [dataclasses.asdict(part) for part in parts], "drawing": whole.drawing, "trained": row.trained}
        )
        return
    for part in parts:
        shown = {"": part.formula, "paper": part.paper, "use it for": part.when}
        echo(part.name, *(f"  {key}: {text}" if key else f"  {text}" for key, text in shown.items() if text))
    echo(f"parameters on {backbone}: {counted or 'does not apply'}", "", *whole.drawing.splitlines())


def list_rows(what: Kind) -> Listing:
    """The rows of `vitadapt list`."""
    if what == "backbones":
        from ..weights.catalog import list_backbones

        return [dict(row) for row in list_backbones()]
    if what == "datasets":
        from ..data import list_datasets

        return [dict(row) for row in list_datasets()]
    if what == "recipes":
        from ..benchmark.config import read_toml
        from ..benchmark.sweep import read_bench, shipped_benchmark_files

        files = shipped_benchmark_files()
        return [{"name": n, "cells": len(read_bench(f)), "title": read_toml(f).get("title")} for n, f in files.items()]
    if what == "protocols":
        from ..benchmark.protocols.registry import PROTOCOLS

        return [{"name": name, "description": _first_line(protocol)} for name, protocol in PROTOCOLS.items()]
    from ..methods import METHODS

    return [{"name": name, "fields": _fields(kind), "description": _first_line(kind)} for name, kind in METHODS.items()]


def _fields(kind: Any) -> str:
    shown = []
    for field in sorted(dataclasses.fields(kind), key=lambda field: bool(field.kw_only)):
        value = "+".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
        shown.append(f"{field.name}={value}")
    return " ".join(shown)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]
