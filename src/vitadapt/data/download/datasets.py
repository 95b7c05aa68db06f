"""Getting a named data set from the network, only when asked to: torchvision's downloader or the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...utils.errors import ConfigError, DataError, damaged
from ...utils.files import read_text
from ...utils.limits import NUMBER_DIGITS
from ...utils.progress import Progress
from ..datasets import catalog, find_copy, resolve
from ..readers.reader import CatalogRow
from ..readers.webdataset import missing_shards
from .files import download, require_network

_HUB = "https://huggingface.co"
_SOURCES = ("auto", "torchvision", "hub")


def fetch(name: str, root: Path, progress: Progress | None = None, source: str = "auto") -> Path:
    """Download the data set `name` below `root` and return the folder it is in; complete files are not fetched again.

    `source`: torchvision (the original archives), hub (tar shards of the Hugging Face hub), or auto: the first that
    the catalog knows. HF_ENDPOINT names another hub. Raises UnknownName, ConfigError for an unknown source, and
    DataError when there is nothing to fetch, the network is forbidden or fails, or a file is damaged.
    """
    if source not in _SOURCES:
        raise ConfigError(f"unknown source {source!r}; choose {', '.join(_SOURCES)}")
    row = resolve(name) or catalog()[name]
    if row.torchvision and source != "hub":
        require_network(row.name)
        return _from_torchvision(row, root)
    if row.repo and source != "torchvision":
        require_network(row.name)
        return _from_hub(row.repo, root, progress)
    raise DataError(
        f"{row.name} cannot be fetched{'' if source == 'auto' else f' from {source}'}; get it so: {row.get}"
    )


def fetch_missing(specs: Iterable[str], root: Path | None, progress: Progress | None = None) -> list[Path]:
    """Fetch the named data sets among `specs` that are not there yet, or only in part, and say where they are now.

    Folders and tables are left alone. Raises ConfigError without a `root` to put them in, and as `fetch` does.
    """
    missing = [(row, source) for spec in dict.fromkeys(specs) if (row := _named(spec)) and (source := _lack(row, root))]
    if missing and root is None:
        names = ", ".join(row.name for row, _ in missing)
        raise ConfigError(f"{names} must be fetched; say where to: --data-root FOLDER")
    return [fetch(row.name, root, progress, source) for row, source in missing if root is not None]


def _named(spec: str) -> CatalogRow | None:
    """The row that `open_dataset` would take for `spec`: a folder wins over another name, not over the own one."""
    row = resolve(spec)
    return row if row and (spec == row.name or not Path(spec).expanduser().exists()) else None


def _lack(row: CatalogRow, root: Path | None) -> str:
    """The source from which `row` has to be fetched; empty when it is there."""
    found = find_copy(row, root)
    if found is None:
        return "auto"
    options, place = found
    return "hub" if "repo" in options and missing_shards(place) else ""


def _from_hub(repo: str, root: Path, progress: Progress | None) -> Path:
    base = f"{os.environ.get('HF_ENDPOINT', _HUB).rstrip('/')}/datasets/{repo}/resolve/main"
    folder = root / repo.rpartition("/")[2]
    download(f"{base}/classnames.txt", folder / "classnames.txt", progress=progress)
    for split in ("train", "test"):
        listed = download(f"{base}/{split}/nshards.txt", folder / split / "nshards.txt", progress=progress)
        with damaged(listed, "remove it and fetch again"):
            count = read_text(listed).strip()
        if not (count.isascii() and count.isdigit() and len(count) <= NUMBER_DIGITS):
            raise DataError(f"{listed} does not hold a number; remove it and fetch again")
        for shard in range(int(count)):
            download(f"{base}/{split}/{shard}.tar", folder / split / f"{shard}.tar", progress=progress)
    return folder


def _from_torchvision(row: CatalogRow, root: Path) -> Path:
    """Whatever the constructor of its class downloads, for every set of arguments that the catalog gives."""
    import torchvision.datasets

    options: Mapping[str, Any] = row.torchvision
    kind = getattr(torchvision.datasets, options["name"])
    try:
        root.mkdir(parents=True, exist_ok=True)
        for arguments in options.get("calls", ({},)):
            kind(str(root), download=True, **arguments)
    except (OSError, RuntimeError, ValueError, ImportError) as error:  # what torchvision raises when a download fails
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{row.name} cannot be fetched by torchvision ({reason}); try --from hub, or: {row.get}"
        ) from error
    found = find_copy(row, root)
    return Path(found[1]) if found else root
