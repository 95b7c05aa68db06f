"""Opening a dataset, whatever it is given as: a name of the table catalog.toml, a folder, a CSV file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..utils.errors import ConfigError, DataError
from ..utils.files import expanded, shipped_table
from ..utils.registry import Registry, unknown
from .examples import Dataset, Examples
from .readers.annotations import SUFFIXES, read_annotations
from .readers.csv_table import read_table
from .readers.hf_datasets import PREFIX, read_hub
from .readers.image_folder import read_folder
from .readers.reader import READERS, CatalogRow, Contents, Options
from .sampling.splits import Complain, refuse

_TABLE = ".csv"
_LISTS = (_TABLE, *SUFFIXES)


def open_dataset(
    spec: str | Path | Dataset,
    root: Path | None = None,
    complain: Complain = refuse,
    whole: bool = False,
    separator: str | None = None,
) -> Dataset:
    """The dataset that `spec` names: a registered name (its files are looked for below `root`), a folder of class
    folders, a CSV file, an export of an annotation tool (`read_annotations`), or hf:USER/NAME. A name wins over a
    folder of the same name; write ./name for the folder. The leaderboard's and other names of a registered dataset are
    understood too, where no such file or folder exists.

    Where no test part is given, one is held out of the training images; with `whole` all images stay together, and one
    class or one image is enough. separator: between several labels in one cell of a CSV file. Raises UnknownName for a
    misspelt name, ConfigError for a separator of anything else than a CSV file, and DataError for data that is missing
    or cannot be used as it is. Defects of a folder that leave something to work with go to `complain`, which raises
    them unless another one is given.
    """
    if isinstance(spec, Dataset):
        return spec
    if separator is not None and (not separator or expanded(spec).suffix.lower() != _TABLE):
        raise ConfigError(f"--label-separator is for the labels in a CSV file; leave it out for {spec}")
    known = catalog()
    if isinstance(spec, str) and spec.startswith(PREFIX):
        return read_hub(spec, whole)
    if isinstance(spec, str) and spec in known:
        return read_copy(known[spec], root)
    path = expanded(spec)
    if os.path.isdir(path):  # which takes impossible names for absent
        return read_folder(path, complain, whole)
    if os.path.isfile(path):
        suffix = path.suffix.lower()
        if suffix not in _LISTS:
            raise DataError(f"{path} is a file; give a folder of class folders, or a list ({', '.join(_LISTS)})")
        return read_table(path, whole, separator) if suffix == _TABLE else read_annotations(path, whole)
    if isinstance(spec, str):
        if row := resolve(spec):
            return read_copy(row, root)
        check_spec(spec)
    raise DataError(f"{path}: no such file or folder")


def check_spec(spec: str) -> None:
    """Raises UnknownName, with the near ones, when `spec` is neither a registered name nor looks like a path."""
    path = expanded(spec)
    if (
        spec.startswith(PREFIX)
        or os.sep in spec
        or path.suffix.lower() in _LISTS
        or os.path.exists(path)
        or resolve(spec)
    ):
        return
    if spec not in catalog():
        raise unknown("dataset", spec, catalog(), "(and there is no folder or file of that name)")


def list_datasets(root: Path | None = None) -> list[dict[str, object]]:
    """One row per registered dataset: what it is, and where it was found (None: nowhere; `get` says how to get it)."""
    rows: list[dict[str, object]] = []
    for row in catalog().values():
        found = find_copy(row, root)
        rows.append(
            {
                "name": row.name,
                "classes": len(row.classes),
                **{split: row.sizes.get(split) for split in ("train", "val", "test")},
                "metric": row.metric,
                "leaderboard": row.leaderboard or None,
                "split": "published" if row.rebuildable else "published in the hub's copy only",
                "licence": row.licence,
                "home": row.home,
                "get": row.get,
                "fetchable": row.fetchable,
                "found": None if found is None else found[1],
            }
        )
    return rows


@cache
def catalog() -> Registry[CatalogRow]:
    """The named datasets, built-in ones first. Others are added by `catalog().register(name)(CatalogRow(...))`."""
    rows: Registry[CatalogRow] = Registry("dataset")
    tables = dict(shipped_table(__package__, "catalog.toml"))
    editions = tables.pop("editions")
    for name, table in tables.items():
        fields = dict(table)
        lines = fields.pop("classes", None) or _lines_of(name, fields.get("edition_of", ""))
        classes, spellings = _spellings(lines)
        fields |= {key: tuple(fields.get(key, ())) for key in ("sources", "also")}
        rows.register(name)(CatalogRow(name=name, classes=classes, spellings=spellings, **fields))
    for edition, table in editions.items():
        for name, facts in table["sets"].items():
            rows.register(f"{edition}-{name}")(_of_edition(rows[name], f"{edition}-{name}", table, facts))
    return rows


def _lines_of(name: str, other: str) -> list[str]:
    folder = files(__package__).joinpath("classes")
    own = folder.joinpath(f"{name}.txt")
    found = own if own.is_file() else folder.joinpath(f"{other}.txt")
    return found.read_text(encoding="utf-8").splitlines()


def _of_edition(row: CatalogRow, name: str, table: Mapping[str, Any], facts: Mapping[str, Any]) -> CatalogRow:
    """`row` as an edition publishes it: `table` is what the edition says of all its sets, `facts` of this one."""
    left_out = {row.spellings.get(label, label) for label in facts.get("without", ())}
    classes = tuple(label for label in row.classes if label not in left_out)
    own = {key: value for key, value in table.items() if key != "sets"}
    sources = tuple({**_filled(source, facts), **facts.get("options", {})} for source in own.pop("sources"))
    return replace(
        row,
        name=name,
        classes=tuple(sorted(classes)) if facts.get("alphabetical") else classes,
        spellings={other: label for other, label in row.spellings.items() if label not in left_out},
        sizes={split: facts[split] for split in ("train", "val", "test") if split in facts},
        sources=sources,
        leaderboard="",
        also=(),
        torchvision={},
        edition_of=row.name,
        **{**own, "get": own["get"].format(**facts)},
    )


def _filled(value: Any, words: Mapping[str, Any]) -> Any:
    """`value`, in depth, with the words in braces put in."""
    if isinstance(value, str):
        return value.format(**words)
    if isinstance(value, Mapping):
        return {key: _filled(one, words) for key, one in value.items()}
    return [_filled(one, words) for one in value] if isinstance(value, list) else value


def _spellings(lines: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Class names, and the class name of every other spelling, from lines `name | other | other`."""
    parts = [line.split(" | ") for line in lines]
    return tuple(name for name, *_ in parts), {other: name for name, *others in parts for other in others}


def resolve(spec: str) -> CatalogRow | None:
    """The row that `spec` names: by its own name, its leaderboard's or another one."""
    rows = catalog()
    if spec in rows:
        return rows[spec]
    return next((row for row in rows.values() if spec in (row.leaderboard, *row.also)), None)


def names_of(spec: str) -> tuple[str, ...]:
    """Every name of the dataset that `spec` names and of what it is an edition of; of a folder or a table its own."""
    row = resolve(spec)
    if row is None:
        path = Path(spec)
        return (path.stem if path.suffix.lower() in _LISTS else path.name,)
    edited = names_of(row.edition_of) if row.edition_of else ()
    return (row.name, *filter(None, (row.leaderboard, *row.also, *edited)))


def find_copy(row: CatalogRow, root: Path | None) -> tuple[Options, str] | None:
    """The first source of `row` that is there, with its place."""
    for options in row.sources:
        reader = READERS[options["reader"]]
        for place in reader.places(options, root):
            if reader.has(options, place):
                return options, place
    return None


def read_copy(row: CatalogRow, root: Path | None) -> Dataset:
    """Read the dataset of `row`. Raises DataError naming where it was looked for and how to get it."""
    found = find_copy(row, root)
    if found is None:
        places = [place for options in row.sources for place in READERS[options["reader"]].places(options, root)]
        where = f"in {', '.join(dict.fromkeys(places))}" if places else "(no data root was given: --data-root FOLDER)"
        raise DataError(f"{row.name} was not found {where}; to get it: {row.how_to_get}")
    options, place = found
    found_here = READERS[options["reader"]].read(row, options, place)
    contents = found_here if isinstance(found_here, Contents) else Contents(found_here)
    notes = (*contents.notes, *contents.doubts, *size_notes(row, contents.splits))
    rule = contents.split or row.split
    try:
        return Dataset(
            *(row.name, row.classes, contents.splits, row.metric, row.squash, notes, contents.order, rule),
            doubts=contents.doubts,
        )
    except DataError as error:
        raise DataError(f"{place}: {error}; get the data again") from error


def size_notes(row: CatalogRow, splits: Mapping[str, Examples]) -> tuple[str, ...]:
    """What a copy's numbers of images say when they are not the published ones."""
    sizes = ((split, len(splits[split]), size) for split, size in row.sizes.items() if split in splits)
    return tuple(f"{split} has {got} images, {size} were published" for split, got, size in sizes if got != size)
