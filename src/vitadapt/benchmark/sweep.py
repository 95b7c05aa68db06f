"""A benchmark as data: a TOML file whose lists are multiplied into cells, and the loop that runs what is missing."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from ..data.datasets import check_spec
from ..methods.spec import method_text, parse_method
from ..nn.head_spec import head_text, parse_head
from ..text import Prompts, read_class_names
from ..text.prompts import build_prompts
from ..training import data_parallel
from ..training.features import Environment
from ..training.recipe import Recipe, recipe_for
from ..utils.errors import ConfigError, VitadaptError
from ..utils.fields import build
from ..utils.files import expanded
from ..utils.registry import unknown
from ..weights.load import check_name
from .config import RunConfig, read_toml
from .parallel.executor import Executor, in_process, together
from .parallel.watch import Outcome, Watch
from .results.record import RecordSummary
from .results.store import Store
from .transfer import parts_of

Of = TypeVar("Of")
Found = TypeVar("Found", bound=RecordSummary)

MOST = 100_000  # cells of one part of a benchmark file
_INNER = ("shots", "seed", "backbone", "image_size", "protocol", "precision", "head", "method")
AXES = ("dataset", "test", "subset", *_INNER)
"""The keys of [bench], outermost first."""


def read_bench(path: Path) -> list[RunConfig]:
    """The cells of a benchmark file, or of the shipped one of that name (`find_benchmark_file`).

    Every [[bench.part]] is multiplied by itself, with the keys that it lacks taken from [bench]; the parts follow one
    another. Raises ConfigError or UnknownName naming the file.
    """
    path = find_benchmark_file(path)
    plain = read_toml(path)
    for section in plain:
        if section not in ("title", "bench", "recipe", "prompts"):
            raise unknown(f"section of {path}", section, ("bench", "recipe", "prompts"))
    if "bench" not in plain:
        raise ConfigError(f"{path}: has no [bench] section")
    if not isinstance(plain["bench"], dict):
        raise ConfigError(f"{path}: write [bench], with one bracket, and the keys below it")
    common = dict(plain["bench"])
    parts = common.pop("part", [{}])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ConfigError(f"{path}: write [[bench.part]], with two brackets, for every part")
    recipe, prompts = plain.get("recipe", {}), plain.get("prompts", {})
    return [cell for part in parts for cell in expand({**common, **part}, recipe, prompts)]


def select(configs: Iterable[RunConfig], wanted: Sequence[str]) -> list[RunConfig]:
    """The cells that fit every key of `wanted`, "key=value" as in [bench]; several values of a key are alternatives.

    Raises UnknownName for a key or for a value that no cell has, ConfigError when no cell has all of them.
    """
    return _select(list(configs), wanted, _axis_text)


def select_records(records: Iterable[Found], wanted: Sequence[str]) -> list[Found]:
    """As `select`, of finished runs, also imported ones and those of a method that is not installed here."""
    return _select(list(records), wanted, _recorded_text)


def _select(cells: list[Of], wanted: Sequence[str], text_of: Callable[[Of, str], str]) -> list[Of]:
    asked: dict[str, set[str]] = {}
    for text in wanted:
        name, _, value = text.partition("=")
        if name not in AXES:
            raise unknown("key of --only", name, AXES, "Write key=value.")
        there = {text_of(cell, name) for cell in cells}
        if value not in there:
            raise unknown(f"{name} of these cells", value, there)
        asked.setdefault(name, set()).add(value)
    fitting = [cell for cell in cells if all(text_of(cell, name) in values for name, values in asked.items())]
    if not fitting:
        raise ConfigError(f"--only {' '.join(wanted)}: no cell fits all of these")
    return fitting


def _recorded_text(record: RecordSummary, axis: str) -> str:
    try:
        return _axis_text(RunConfig.from_dict(record.config), axis)
    except VitadaptError:  # not a configuration that can be run here
        value = record.label.partition(" +")[0] if axis == "method" else record.config.get(axis)
        return "all" if axis == "shots" and value is None else str(value)


def _axis_text(cell: RunConfig, axis: str) -> str:
    """What a benchmark file would say for this axis of a cell."""
    value = getattr(cell, axis)
    if axis == "method":
        return method_text(value)
    if axis == "head":
        return head_text(cell.head_spec)
    return "all" if axis == "shots" and value is None else str(value)


def shard(configs: Sequence[RunConfig], text: str) -> list[RunConfig]:
    """Part i of n, written "i/n": the parts are disjoint, together they are all cells, and they differ in size by one
    at most. Cells of one dataset and backbone stay side by side, so that few parts decode the same images.

    Depends on the cells alone, never on what is recorded. Raises ConfigError for anything else than i/n, 1 <= i <= n.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"--shard takes i/n with i from 1 to n, such as 2/8, not {text!r}")
    groups: dict[object, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault((config.dataset, config.backbone, config.image_size), []).append(config)
    ordered = [config for group in groups.values() for config in group]
    first, last = (len(ordered) * i // int(parts) for i in (int(part) - 1, int(part)))
    return ordered[first:last]


def expand(
    axes: Mapping[str, Any], recipe: Mapping[str, Any] | None = None, prompts: Mapping[str, Any] | None = None
) -> list[RunConfig]:
    """Every combination of the lists in `axes`; `recipe` changes fields of what the protocol prescribes, and `prompts`
    (fields of `Prompts`, where class_names may be a file) replace the built-in ones.

    Order: dataset, shots, seed and backbone outermost, methods innermost, so that images and weights are shared.
    """
    for name in axes:
        if name not in AXES:
            raise unknown("key of [bench]", name, AXES)
    lists = {name: value if isinstance(value, list) else [value] for name, value in axes.items()}
    for name in ("backbone", "dataset", "method"):
        if not lists.get(name):
            raise ConfigError(f"[bench] needs {name}")
    names = [name for name in AXES if name in lists]
    if (count := math.prod(len(lists[name]) for name in names)) > MOST:
        raise ConfigError(f"[bench] multiplies into {count:,} cells, more than {MOST:,}; split it into several files")
    products = itertools.product(*(lists[name] for name in names))
    given = read_prompts(prompts) if prompts else None
    cells = [_cell(dict(zip(names, values, strict=True)), recipe or {}, given) for values in products]
    if given:
        check_prompts(cells)
    return cells


def read_prompts(values: Mapping[str, Any]) -> Prompts:
    """Prompts from plain values, where class_names may be a file. Raises UnknownName or ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"prompts: {values!r} is no table of fields; write name = value below [prompts]")
    fields = dict(values)
    if isinstance(fields.get("class_names"), str):
        fields["class_names"] = read_class_names(expanded(fields["class_names"]))
    return build_prompts(fields)


def _cell(values: dict[str, Any], recipe: Mapping[str, Any], prompts: Prompts | None) -> RunConfig:
    for name in ("method", "head", "backbone", "dataset"):
        if not isinstance(values.get(name, ""), str):
            raise ConfigError(f"[bench] {name} = {values[name]!r} is no text; put it into quotes")
    method = parse_method(values.pop("method"))
    head = parse_head(values.pop("head")) if "head" in values else None
    if values.get("shots") == "all":
        values["shots"] = None
    config = build(RunConfig, values, "[bench]", method=method, head=head, prompts=prompts)
    changed = None
    if recipe:
        build(Recipe, recipe, "recipe")  # names and types first
        prescribed = dataclasses.asdict(recipe_for(config.protocol, method))
        changed = build(Recipe, {**prescribed, **recipe}, "recipe")
    return dataclasses.replace(config, recipe=changed).resolved()


def check_names(configs: Iterable[RunConfig]) -> None:
    """Raises UnknownName for a backbone or dataset that cannot exist: before the first cell, not after hours."""
    cells = list(configs)
    for backbone in dict.fromkeys(config.backbone for config in cells):
        check_name(backbone)
    for dataset in dict.fromkeys(name for config in cells for name in (config.dataset, *parts_of(config.test))):
        check_spec(dataset)


def executor_for(
    workers: int = 1,
    threads: int | None = None,
    ray: str = "",
    gpus_per_cell: float | None = None,
    device: str = "cpu",
) -> Executor:
    """An executor of `workers` processes, of a Ray cluster, of the processes of torchrun, or of this process alone.

    threads: per cell; None shares out the cores of this machine, and is 1 on a cluster. gpus_per_cell: on a cluster,
    None for one when `device` is a GPU. Raises ConfigError for what does not go together.
    """
    if data_parallel.asked():
        if ray or workers != 1:
            raise ConfigError("the processes of torchrun train one cell together; leave --workers and --ray out")
        return together
    if ray:
        if workers != 1:
            raise ConfigError("--ray and --workers exclude each other: a cluster runs as many cells as it has room for")
        from .parallel.ray_cluster import Share, on_cluster

        gpus = float(device.startswith("cuda")) if gpus_per_cell is None else gpus_per_cell
        return partial(on_cluster, address=ray, share=Share(1 if threads is None else threads, gpus))
    if gpus_per_cell is not None:
        raise ConfigError("--gpus-per-cell goes with --ray; on one machine --workers are spread over the visible GPUs")
    from .parallel.worker import gpus_of, places

    shares = places(workers, threads, gpus_of(device) if workers > 1 else ())
    if workers == 1:
        return partial(in_process, threads=threads)
    from .parallel.processes import in_workers

    return partial(in_workers, places=shares)


def run_bench(
    configs: Iterable[RunConfig],
    store: Store,
    environment: Environment,
    watch: Watch | None = None,
    executor: Executor = in_process,
) -> list[Outcome]:
    """Run every cell that is not recorded yet; an error in one leaves its trace in the store and the others go on.

    `executor` says where (see `executor_for`); the default runs one after the other in this process. Cells that are
    given twice run once. The outcomes are in the order of `configs`. Raises WorkerError when cells can run nowhere.
    """
    watch = watch or Watch()
    cells = [(config.digest(), config) for config in configs]
    outcomes = {}
    for digest, config in dict(cells).items():
        record = store.get(digest)
        if record is not None:
            outcomes[digest] = Outcome(config, record, fresh=False)
    missing = {digest: config for digest, config in cells if digest not in outcomes}
    watch.surveyed(len(dict(cells)), len(missing))
    if missing:
        with closing(executor(list(missing.values()), store, environment, watch)) as running:
            for outcome in running:
                watch.finished(outcome)
                outcomes[outcome.config.digest()] = outcome
    return [outcomes[digest] for digest, _ in cells]


def check_prompts(configs: list[RunConfig]) -> None:
    """Raises ConfigError when prompts were given and no cell makes a head of them."""
    if configs and not any(config.head_spec.start == "text" for config in configs):
        raise ConfigError("class names, templates and knowledge are for heads made of text; add --head text")


@cache
def shipped_benchmark_files() -> dict[str, Path]:
    """Name -> file of every benchmark that comes with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.toml"))}


def find_benchmark_file(path: Path) -> Path:
    """`path` itself when it is a file or looks like one (a folder before it, .toml behind it), else the shipped recipe
    of that name. Raises UnknownName.
    """
    if path.is_file() or len(path.parts) != 1 or path.suffix == ".toml":
        return path
    known = shipped_benchmark_files()
    if str(path) not in known:
        raise unknown("recipe", str(path), known, "A recipe of your own is named by its file.")
    return known[str(path)]
