"""`vitadapt doctor`: what is installed, what is missing, and whether it works here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..utils.errors import ConfigError
from .options import Cache

app = typer.Typer()


@app.command()
def doctor(
    cache: Cache = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the files of named datasets.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text or json.")] = "text",
) -> None:
    """Tell what is installed and what each missing extra would bring, and try whether it works. Status 1 if not."""
    if format not in ("text", "json"):
        raise ConfigError(f"unknown format {format!r}; choose text or json")
    from ..data import default_cache
    from .self_check import Places, examine

    places = Places(cache or default_cache(), data_root)
    told = _told(places.cache, data_root)
    findings = examine(places)
    told["checks"] = [asdict(finding) for finding in findings]
    told["healthy"] = all(finding.status != "broken" for finding in findings)
    if format == "json":
        print(json.dumps(told, indent=1))
    else:
        _print(told)
    if not told["healthy"]:
        raise typer.Exit(1)


def _told(cache: Path, data_root: Path | None) -> dict[str, Any]:
    """Everything but the checks, as plain values."""
    from . import installation

    extras = [
        {"name": extra.name, "missing": extra.missing(), "brings": extra.brings, "install": extra.install}
        for extra in installation.extras().values()
    ]
    places = [{**asdict(folder), "path": str(folder.path)} for folder in installation.folders(cache, data_root)]
    return {
        "versions": installation.versions(),
        "machine": installation.machine(),
        "folders": places,
        "extras": extras,
    }


def _print(told: dict[str, Any]) -> None:
    from .installation import size
    from .tables import print_columns

    pairs = [*told["versions"].items(), *told["machine"].items()]
    print_columns(["what", "version"], pairs, left=("what", "version"))
    print()
    body = [[folder["purpose"], folder["path"], *_state(folder, size)] for folder in told["folders"]]
    print_columns(["folder", "where", "state", "free"], body, left=("folder", "where", "state"))
    print()
    body = [[e["name"], ", ".join(e["missing"]) or "installed", e["brings"]] for e in told["extras"]]
    print_columns(["extra", "missing", "brings"], body, left=("extra", "missing", "brings"), whole=("extra",))
    if lacking := [extra["name"] for extra in told["extras"] if extra["missing"]]:
        print(f'\nTo get all that is missing: pip install "vitadapt[{",".join(lacking)}]"')
    print()
    body = [[check["check"], check["status"], check["message"]] for check in told["checks"]]
    print_columns(["check", "status", "finding"], body, left=("check", "status", "finding"), whole=("check", "status"))
    print(f"\n{'everything works' if told['healthy'] else 'something is broken: see the remedies above'}")


def _state(folder: dict[str, Any], size: Any) -> tuple[str, str]:
    state = "" if folder["exists"] else "not made yet, "
    return state + ("writable" if folder["writable"] else "read-only"), "" if folder["free"] is None else size(
        folder["free"]
    )
