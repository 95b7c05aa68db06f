"""`vitadapt submit`, `score` and `import`: the files of the ELEVATER leaderboard and of its toolkit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .leaderboard.files import Entry
    from .leaderboard.score import Score, Total
    from .leaderboard.suite import Truths

    Entries = Callable[[], Iterator[Entry]]

app = typer.Typer()

Root = Annotated[Path | None, typer.Option("--data-root", help="Folder that holds your copies of the data sets.")]


@app.command()
def submit(
    source: Annotated[Path, typer.Argument(help="A folder of records, or one of JSON files per seed; or see --check.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The zip to write; another name: a folder of one JSON per seed.")
    ] = Path("submission.zip"),
    check: Annotated[bool, typer.Option("--check", help="Only look for problems in what was written.")] = False,
    partial: Annotated[bool, typer.Option(help="Write although data sets are missing.")] = False,
    candidate: Annotated[str, typer.Option(help="Which runs: a key from the list that is shown when unclear.")] = "",
    method: Annotated[str | None, typer.Option("--method", "-m")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", "-b")] = None,
    shots: Annotated[str | None, typer.Option(help="Images per class, or 'all'.")] = None,
    protocol: Annotated[str | None, typer.Option()] = None,
    model_name: Annotated[str, typer.Option(help="The name on the leaderboard (default: the backbone's).")] = "",
    data_root: Root = None,
) -> None:
    """Write the leaderboard's zip from the records of one method, or check a zip: one line per problem, status 1."""
    if check:
        _check(source, data_root)
        return
    if not (source / "records").is_dir():
        _write(partial, out, _truths(data_root), lambda: _entries(source))
        return
    from .leaderboard.collect import Collection, candidates, choose
    from .results import Store

    records, damaged = Store(source).records()
    _complain(damaged)
    wanted = {"method": method, "backbone": backbone, "shots": shots, "protocol": protocol}
    chosen = choose(candidates(records), candidate, **wanted)
    truths = _truths(data_root)
    collection = Collection(Store(source), chosen, truths, model_name)
    _write(partial, out, truths, collection.entries, collection.seed_entries)
    if collection.unverified:
        _complain(
            [f"order of test images not compared with the leaderboard's own copy: {_some(collection.unverified)}"]
        )


@app.command()
def score(
    source: Annotated[Path, typer.Argument(help="A zip or JSON file of predictions, or a folder of one per seed.")],
    data_root: Root = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Score a submission as the leaderboard does, by the labels of your own copies of the data sets."""
    from .leaderboard.score import score as scores_of
    from .leaderboard.score import total

    scores = list(scores_of(_entries(source), _truths(data_root)))
    whole = total(scores)
    if as_json:
        print(json.dumps({"datasets": [asdict(score) for score in scores], **asdict(whole)}, indent=1))
    else:
        _print_scores(scores, whole)
    _complain([f"{score.dataset}: {score.problem or score.note}" for score in scores if score.problem or score.note])
    if any(score.problem for score in scores):
        raise typer.Exit(1)


def _check(source: Path, root: Path | None) -> None:
    from .leaderboard.check import check

    problems = [str(problem) for problem in check(_entries(source), _truths(root))]
    for line in problems:
        print(line)
    print(f"{source}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    if problems:
        raise typer.Exit(1)


def _write(partial: bool, out: Path, truths: Truths, entries: Entries, seed_entries: Entries | None = None) -> None:
    """Look for problems first, and write only what has none. Raises typer.Exit with status 1 otherwise."""
    from .leaderboard.check import check
    from .leaderboard.files import write_seed, write_zip

    problems = list(check(entries(), truths))
    _complain([str(problem) for problem in problems])
    if not all(partial and problem.absent for problem in problems):
        advice = "; --partial writes what there is" if all(problem.absent for problem in problems) else ""
        _complain([f"{len(problems)} problem{'s'[: len(problems) - 1]}, nothing was written{advice}"])
        raise typer.Exit(1)
    if out.suffix == ".zip":
        write_zip(out, entries())
        print(out)
        return
    written = [write_seed(out, entry) for entry in (seed_entries or entries)()]
    print(f"{out}: {len(written)} files")


def _entries(source: Path) -> Iterator[Entry]:
    from .leaderboard.files import read_entries, read_folder

    return read_folder(source) if source.is_dir() else read_entries(source)


def _truths(root: Path | None) -> Truths:
    from .leaderboard.suite import truth_of

    return lru_cache(maxsize=1)(lambda row: truth_of(row, root))


def _print_scores(scores: list[Score], whole: Total) -> None:
    from .console import print_columns

    body = []
    for score in scores:
        mean = "-" if score.mean is None else f"{score.mean:.2f}"
        spread = "" if score.sd is None else f"{score.sd:.2f}"
        trained = "-" if score.trained is None else f"{score.trained:,.0f}"
        body.append([score.dataset, score.metric, str(len(score.scores) or "-"), mean, spread, trained])
    print_columns(["data set", "metric", "seeds", "score", "sd", "trained"], body, left=("data set", "metric"))
    if whole.average is None:
        return
    pe = "" if whole.pe is None else f", PE {whole.pe:.2f} ({whole.trained:,.0f} trained parameters on average)"
    kind = "average" if whole.complete else f"partial, {whole.count} of 20 data sets, no leaderboard average: mean"
    print(f"\n{kind} {whole.average:.2f}{pe}")


def _some(names: list[str]) -> str:
    return "all" if len(names) == 20 else ", ".join(names)


def _complain(lines: list[str]) -> None:
    for line in lines:
        print(f"vitadapt: {line}", file=sys.stderr)
