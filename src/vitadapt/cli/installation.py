"""What is installed here: versions, extras, the machine, the folders that are used.

Nothing of it is imported to find out, torch excepted (`machine`).
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..utils.errors import StorageError
from ..utils.files import shipped_table

NAME = "vitadapt"


@dataclass(frozen=True)
class Extra:
    """One row of extras.toml. `modules`: PyPI package -> what Python imports of it."""

    name: str
    brings: str
    modules: Mapping[str, str]

    @property
    def install(self) -> str:
        """The line that installs it."""
        return f'pip install "{NAME}[{self.name}]"'

    def missing(self) -> list[str]:
        """Its packages that are absent or too old."""
        lacking = {name for name, _ in unmet(self.name)}
        return [package for package in self.modules if canonicalize_name(package) in lacking or not installed(package)]


@cache
def extras() -> dict[str, Extra]:
    """Name -> extra, in the order of the table."""
    return {name: Extra(name, **row) for name, row in shipped_table(__package__, "extras.toml").items()}


def unmet(extra: str = "") -> Iterator[tuple[str, str]]:
    """(package, what to give pip) for each requirement that is not met: of what is always needed, or of `extra`.

    Raises StorageError when the metadata of the installed package are lost.
    """
    try:
        lines = metadata(NAME).get_all("Requires-Dist") or []
    except PackageNotFoundError as error:
        raise StorageError(f"{NAME} is not installed, only found; pip install {NAME}") from error
    for one in map(Requirement, lines):
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        have = installed(one.name)
        if have is None or not one.specifier.contains(have, prereleases=True):
            yield canonicalize_name(one.name), f"{one.name}{one.specifier}"


def installed(package: str) -> str | None:
    """Its version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Of this package, of Python, and of all that is installed of what any part of it may use."""
    names = [Requirement(line).name for line in metadata(NAME).get_all("Requires-Dist") or [] if "extra ==" not in line]
    names += [name for extra in extras().values() for name in extra.modules]
    found = {name: have for name in dict.fromkeys(names) if (have := installed(name))}
    return {NAME: version(NAME), "python": f"{platform.python_version()} ({sys.executable})", **found}


def size(count: int | None) -> str:
    """1536 * 2**20 -> "1.5 GiB"."""
    return "" if count is None else f"{count / 2**30:.1f} GiB"


def machine() -> dict[str, str]:
    """Operating system, cores and threads, memory, and the graphics processors that torch can use."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cuda = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = [f"cuda:{i} {about.name} with {size(about.total_memory)}" for i, about in enumerate(cuda)]
    gpus += ["mps"] if torch.backends.mps.is_available() else []
    pages = {"SC_PHYS_PAGES": "in all", "SC_AVPHYS_PAGES": "free"}
    known = [name for name in pages if name in getattr(os, "sysconf_names", ())]
    memory = [f"{size(os.sysconf(name) * os.sysconf('SC_PAGE_SIZE'))} {pages[name]}" for name in known]
    return {
        "system": platform.platform(),
        "cores": f"{cores} usable of {os.cpu_count()}, {torch.get_num_threads()} threads",
        "memory": ", ".join(memory) or "unknown",
        "gpu": ", ".join(gpus) or f"none that torch {torch.__version__} can use",
    }


def folders(cache_folder: Path, data_root: Path | None) -> Iterator[dict[str, Any]]:
    """Where this program keeps and looks for things; `free`: bytes left on the disk."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    hub = Path(os.environ.get("HF_HOME") or home / "huggingface")
    torch_home = Path(os.environ.get("TORCH_HOME") or home / "torch")
    named = {
        "the program": Path(__file__).parents[1],
        "cache of pixels and features (--cache)": cache_folder,
        "weights of the Hugging Face hub (HF_HOME)": Path(os.environ.get("HF_HUB_CACHE") or hub / "hub"),
        "weights from elsewhere (TORCH_HOME)": torch_home / "hub" / "checkpoints",
        "results (--out), by default": Path.cwd() / "runs",
        **({} if data_root is None else {"named data sets (--data-root)": data_root}),
    }
    for purpose, path in named.items():
        above = next((place for place in (path, *path.parents) if place.exists()), None)  # judged by what exists of it
        writable = above is not None and above.is_dir() and os.access(above, os.W_OK | os.X_OK)
        free = None if above is None else shutil.disk_usage(above).free
        yield {"purpose": purpose, "path": str(path), "exists": path.exists(), "writable": writable, "free": free}
