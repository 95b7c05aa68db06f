"""`vitadapt list` and `count`: what can be named, and what methods train."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from ..utils.errors import ConfigError
from . import options as opt
from .output import echo, echo_json, print_columns

app = typer.Typer()
Listing = list[dict[str, Any]]
Kind = Literal["methods", "backbones", "datasets", "protocols", "recipes"]


@opt.command(app, opt.LOOK_UP, "vitadapt list methods", "list")
def list_names(
    what: Annotated[Kind, Argument(help="What to list.")],
    name: Annotated[str, Argument(help="Backbones: a part of a name, here, in timm, in open_clip or at the hub.")] = "",
    like: Annotated[str, Option(help="The same as an option.")] = "",
    max_params: Annotated[str, Option(help="Backbones of at most so many parameters, e.g. 30M.")] = "",
    licence: Annotated[str, Option(help="Backbones of this licence; permissive: those that allow every use.")] = "",
    text: Annotated[bool, Option("--text", help="Backbones with a text tower.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """List what can be named: methods, backbones, datasets, protocols or recipes."""
    asked = {"like": like or name, "max_params": _millions(max_params), "licence": licence, "text": text}
    asked = {field: value for field, value in asked.items() if value}
    if asked and what != "backbones":
        raise ConfigError(f"{', '.join(asked)}: backbones alone can be chosen by this; use vitadapt list {what}")
    rows = list_rows(what, **asked)
    if not rows:
        raise ConfigError("no named backbone is like this; see vitadapt list backbones")
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
            counts = ["does not apply", "", ""]
            if row.trained is not None:
                counts = [f"{row.trained:,}", f"{int(row.trained + row.head):,}", f"{row.pe_factor:.4f}"]
            scores = [f"{value:.2f}" if value else "" for value in (row.score, row.pe)]
            body.append([row.method, *counts, f"{row.published:,}" if row.published else "", *scores])
        heads = ["method", "without head", "with mean head (513 x 57.55)", "PE / score", "published", "score", "its PE"]
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


def _millions(text: str) -> float | None:
    """30M, 0.3B or 30000000 -> millions. Raises ConfigError."""
    factor = {"M": 1.0, "B": 1000.0}.get(text[-1:].upper(), 1e-6)
    try:
        return float(text.rstrip("mMbB")) * factor if text else None
    except ValueError as error:
        raise ConfigError(f"--max-params {text!r} is no number of parameters; use 30M") from error


def list_rows(what: Kind, **asked: Any) -> Listing:
    """The rows of `vitadapt list`; backbones can be chosen (see `list_backbones`)."""
    if what == "backbones":
        from ..weights.catalog import general_names, list_backbones

        found = list_backbones(**asked) or (general_names(asked["like"]) if list(asked) == ["like"] else [])
        return [dict(row) for row in found]
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
