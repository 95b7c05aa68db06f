"""`vitadapt submit`, `score` and `import`: the files of the ELEVATER leaderboard and of its toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from ..utils.errors import ConfigError
from . import options as opt
from .output import complain, echo, echo_json, echo_result, number, print_columns

if TYPE_CHECKING:
    from ..benchmark.leaderboard.score import Score, Total
    from ..benchmark.leaderboard.submission import SubmissionEntry

    Entries = Callable[[], Iterator[SubmissionEntry]]

app = typer.Typer()


@opt.command(app, opt.LEADERBOARD, "vitadapt submit runs/elevater --out submission.zip")
def submit(
    source: Annotated[Path, Argument(help="Records, or a folder with a JSON per seed; with --check also a zip.")],
    out: Annotated[Path, Option("--out", "-o", help="A zip, or a folder for one JSON per seed.")] = Path(
        "submission.zip"
    ),
    check: Annotated[bool, Option("--check", help="Only look for problems, in a zip, JSON or folder.")] = False,
    partial: Annotated[bool, Option("--partial", help="Write although data sets are missing.")] = False,
    candidate: Annotated[str, Option(help="Which runs: a key from the list that is shown when unclear.")] = "",
    method: Annotated[str | None, Option("--method", "-m", help="Only runs of this method.")] = None,
    backbone: Annotated[str | None, Option("--backbone", "-b", help="Only runs on this backbone.")] = None,
    shots: Annotated[str | None, Option(help="Images per class, or 'all'.")] = None,
    protocol: Annotated[str | None, Option(help="Only runs by this protocol.")] = None,
    model_name: Annotated[str, Option(help="The name on the leaderboard (default: the backbone's).")] = "",
    data_root: opt.DataRoot = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write the leaderboard's zip from the records of one method, or check a zip: one line per problem, status 1."""
    if check:
        _check(source, as_json)
        return
    from ..benchmark.leaderboard.collect import Collection, candidates, choose
    from ..benchmark.leaderboard.suite import truths_below
    from ..benchmark.results.store import Store

    if not (source / "records").is_dir():
        if out.suffix != ".zip":
            raise ConfigError(f"{source} holds one JSON per seed already; give --out a name that ends in .zip")
        _write(partial, out, lambda: _entries(source), lambda: _entries(source), as_json)
        return
    wanted = {"method": method, "backbone": backbone, "shots": shots, "protocol": protocol}
    chosen = choose(candidates(opt.records_of(source)), candidate, **wanted)
    collection = Collection(Store(source), chosen, truths_below(data_root), model_name)
    _write(partial, out, collection.entries, collection.seed_entries, as_json)
    if collection.unverified:
        which = _some(collection.unverified)
        complain(f"the order of test images was not compared with the leaderboard's own copy: {which}")


@opt.command(app, opt.LEADERBOARD, "vitadapt score submission.zip --data-root data")
def score(
    source: Annotated[Path, Argument(help="A zip or JSON file of predictions, or a folder of one per seed.")],
    data_root: opt.DataRoot = None,
    as_json: opt.AsJson = False,
) -> None:
    """Score a submission as the leaderboard does, by the labels of your own copies of the data sets."""
    from ..benchmark.leaderboard.score import score as scores_of
    from ..benchmark.leaderboard.score import total
    from ..benchmark.leaderboard.suite import truths_below

    scores = list(scores_of(_entries(source), truths_below(data_root)))
    whole = total(scores)
    if as_json:
        echo_json({"datasets": [asdict(each) for each in scores], **asdict(whole)})
    else:
        _print_scores(scores, whole)
    for each in scores:
        if each.problem or each.note:
            complain(f"{each.dataset}: {each.problem or each.note}")
    if any(each.problem for each in scores):
        raise typer.Exit(1)


@opt.command(app, opt.LEADERBOARD, "vitadapt import toolkit-output/ --out runs/imported", "import")
def import_(
    folder: Annotated[Path, Argument(help="A folder with results of the published toolkit, at any depth.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder for the records.")] = Path("runs/imported"),
    method: Annotated[str, Option("--method", "-m", help="What was trained (default: the folder's name).")] = "",
    data_root: opt.DataRoot = None,
    as_json: opt.AsJson = False,
) -> None:
    """Read the logs, result lines and predictions of the published toolkit into records, marked as imported."""
    from ..benchmark.leaderboard.import_results import import_results
    from ..benchmark.leaderboard.suite import truths_below
    from ..benchmark.results.store import Store

    done = import_results(folder, Store(out), method, truths_below(data_root) if data_root else None)
    for line in (*done.skipped, *done.problems):
        complain(line)
    text = f"{out}: {len(done.records)} runs imported; 'vitadapt results {out}' shows them"
    echo_result(text, {"path": str(out), "imported": len(done.records), "problems": done.problems}, as_json)
    if done.problems or not done.records:
        raise typer.Exit(1)


def _check(source: Path, as_json: bool) -> None:
    from ..benchmark.leaderboard.check import check

    problems = [str(problem) for problem in check(_entries(source))]
    if as_json:
        echo_json({"source": str(source), "problems": problems})
    else:
        echo(*problems, f"{source}: {_count(problems)}")
    if problems:
        raise typer.Exit(1)


def _write(partial: bool, out: Path, entries: Entries, seed_entries: Entries, as_json: bool) -> None:
    """Look for problems first, and write only what has none. Raises typer.Exit with status 1 otherwise."""
    from ..benchmark.leaderboard.check import check
    from ..benchmark.leaderboard.submission import write_seed, write_zip

    problems = list(check(entries()))
    if out.suffix != ".zip":  # each of the files is complete
        problems = [problem for problem in problems if not problem.absent]
    for problem in problems:
        complain(str(problem))
    if not all(partial and problem.absent for problem in problems):
        advice = "; --partial writes what there is" if all(problem.absent for problem in problems) else ""
        complain(f"{_count(problems)}, nothing was written{advice}")
        raise typer.Exit(1)
    if out.suffix == ".zip":
        write_zip(out, entries())
        text, files = str(out), [out]
    else:
        files = [write_seed(out, entry) for entry in seed_entries()]
        text = f"{out}: {len(files)} files"
    echo_result(text, {"path": str(out), "files": list(map(str, files))}, as_json)


def _entries(source: Path) -> Iterator[SubmissionEntry]:
    from ..benchmark.leaderboard.submission import read_entries, read_folder

    return read_folder(source) if source.is_dir() else read_entries(source)


def _print_scores(scores: list[Score], whole: Total) -> None:
    body = []
    for score in scores:
        spread, seeds = "" if score.sd is None else number(score.sd), str(len(score.scores) or "-")
        body.append([score.dataset, score.metric, seeds, number(score.mean), spread, number(score.trained, ",.0f")])
    print_columns(["data set", "metric", "seeds", "score", "sd", "trained"], body, left=("data set", "metric"))
    if whole.average is None:
        return
    pe = "" if whole.pe is None else f", PE {whole.pe:.2f} ({whole.trained:,.0f} trained parameters on average)"
    kind = "average" if whole.complete else f"partial, {whole.count} of 20 data sets, no leaderboard average: mean"
    echo("", f"{kind} {whole.average:.2f}{pe}")


def _count(problems: Sequence[object]) -> str:
    return f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"


def _some(names: list[str]) -> str:
    return "all" if len(names) == 20 else ", ".join(names)
