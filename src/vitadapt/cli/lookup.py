"""`vitadapt list` and `count`: what can be named, and what methods train."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
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
    rows = LISTINGS[what]()
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
    from ..benchmark import parameter_counts

    rows = parameter_counts.count_methods(backbone, method or [])
    reports = parameter_counts.audit_methods(backbone, [row.method for row in rows if row.applies]) if audit else {}
    if as_json:
        echo_json(parameter_counts.plain(rows, reports))
    else:
        body = [[r.method, r.shown, r.with_head, f"{r.published:,}" if r.published else ""] for r in rows]
        heads = ["method", "without head", "with mean head (513 x 57.55)", "published"]
        print_columns(heads, body, left=("method",))
        for name, tensors in reports.items():
            lines = [[t.name, "x".join(map(str, t.shape)), t.status, "shared" if t.shared else ""] for t in tensors]
            echo("", name)
            print_columns(["tensor", "shape", "status", ""], lines, left=("tensor", "status", ""))
    if parameter_counts.unsound(reports):
        raise typer.Exit(1)


def _methods() -> Listing:
    from ..methods import METHODS

    return [{"name": name, "fields": _fields(kind), "description": _first_line(kind)} for name, kind in METHODS.items()]


def _fields(kind: Any) -> str:
    shown = []
    for field in dataclasses.fields(kind):
        value = "+".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        shown.append(f"{field.name}={value}")
    return " ".join(shown)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _backbones() -> Listing:
    from ..weights.catalog import list_backbones

    return [dict(row) for row in list_backbones()]


def _datasets() -> Listing:
    from ..data import list_datasets

    return [dict(row) for row in list_datasets()]


def _protocols() -> Listing:
    """Those that see the test set come last."""
    from ..benchmark.protocols.registry import PROTOCOLS

    return [{"name": name, "description": _first_line(protocol)} for name, protocol in PROTOCOLS.items()]


def _recipes() -> Listing:
    from ..benchmark.config import read_toml
    from ..benchmark.sweep import read_bench, shipped_benchmark_files

    files = shipped_benchmark_files()
    return [{"name": n, "cells": len(read_bench(f)), "title": read_toml(f).get("title")} for n, f in files.items()]


LISTINGS: dict[Kind, Callable[[], Listing]] = {
    "methods": _methods,
    "backbones": _backbones,
    "datasets": _datasets,
    "protocols": _protocols,
    "recipes": _recipes,
}
