"""What is installed here: versions, the extras and what each would bring, the machine, the folders that are used.

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

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..utils.errors import StorageError
from ..utils.files import shipped_table

OURSELVES = "vitadapt"


@dataclass(frozen=True)
class Extra:
    """One row of extras.toml. `modules`: PyPI package -> what Python imports of it."""

    name: str
    brings: str
    modules: Mapping[str, str]

    @property
    def install(self) -> str:
        """The line that installs it."""
        return f'pip install "vitadapt[{self.name}]"'

    def missing(self) -> list[str]:
        """Its packages that are absent or too old."""
        bounds = _bounds(self.name)
        return [package for package in self.modules if not _fits(package, bounds.get(canonicalize_name(package)))]


@dataclass(frozen=True)
class Folder:
    """A folder that this program uses; `free`: bytes left on its disk."""

    purpose: str
    path: Path
    exists: bool
    writable: bool
    free: int | None


@cache
def extras() -> dict[str, Extra]:
    """Name -> extra, in the order of the table."""
    return {name: Extra(name, **row) for name, row in shipped_table(__package__, "extras.toml").items()}


def requirements() -> list[Requirement]:
    """What the installed package declares, its extras' requirements included. Raises StorageError when that is lost."""
    try:
        lines = metadata(OURSELVES).get_all("Requires-Dist") or []
    except PackageNotFoundError as error:
        raise StorageError("vitadapt is not installed, only found; pip install vitadapt") from error
    return [Requirement(line) for line in lines]


def _bounds(extra: str = "") -> dict[str, Requirement]:
    """Package -> what is asked of it here: always, or by `extra` alone."""
    found: dict[str, Requirement] = {}
    for one in requirements():
        always = one.marker is None or one.marker.evaluate({"extra": ""})
        asked = one.marker is not None and one.marker.evaluate({"extra": extra})
        if always if not extra else asked and not always:
            found[canonicalize_name(one.name)] = one
    return found


def installed(package: str) -> str | None:
    """Its version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _fits(package: str, bound: Requirement | None) -> bool:
    have = installed(package)
    return have is not None and (bound is None or bound.specifier.contains(have, prereleases=True))


def wanting() -> list[str]:
    """The requirements that are not met, as pip would be asked for them: ["numpy>=1.24"]."""
    return [f"{one.name}{one.specifier}" for one in _bounds().values() if not _fits(one.name, one)]


def versions() -> dict[str, str]:
    """Of this package, of Python, and of all that is installed of what any part of it may use."""
    names = [
        *(one.name for one in _bounds().values()),
        *(name for extra in extras().values() for name in extra.modules),
    ]
    found = {name: installed(name) for name in dict.fromkeys([OURSELVES, *names])}
    here = {"python": f"{platform.python_version()} ({sys.executable})"}
    return {OURSELVES: found.pop(OURSELVES) or "?"} | here | {name: have for name, have in found.items() if have}


def machine() -> dict[str, str]:
    """Operating system, cores and threads, memory, and the graphics processors that torch can use."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "system": platform.platform(),
        "cores": f"{cores} usable of {os.cpu_count()}, {torch.get_num_threads()} threads",
        "memory": ", ".join(_memory()) or "unknown",
        "gpu": ", ".join(_gpus()) or f"none that torch {torch.__version__} can use",
    }


def _memory() -> Iterator[str]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield f"{size(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))} in all"
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        yield f"{size(int(lines['MemAvailable'].split()[0]) * 1024)} free"
    except (OSError, KeyError, ValueError):  # another system than Linux
        return


def _gpus() -> Iterator[str]:
    import torch

    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        yield f"cuda:{i} {about.name} with {size(about.total_memory)}"
    if torch.backends.mps.is_available():
        yield "mps"


def folders(cache_folder: Path, data_root: Path | None) -> list[Folder]:
    """Where this program keeps and looks for things."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    hub = Path(os.environ.get("HF_HOME") or home / "huggingface")
    torch_home = Path(os.environ.get("TORCH_HOME") or home / "torch")
    named = {
        "the program": Path(__file__).parents[1],
        "cache of pixels and features (--cache)": cache_folder,
        "weights of the Hugging Face hub (HF_HOME)": Path(os.environ.get("HF_HUB_CACHE") or hub / "hub"),
        "weights from elsewhere (TORCH_HOME)": torch_home / "hub" / "checkpoints",
        "results (--out), unless told otherwise": Path.cwd() / "runs",
    }
    if data_root is not None:
        named["named data sets (--data-root)"] = data_root
    return [_folder(purpose, path) for purpose, path in named.items()]


def _folder(purpose: str, path: Path) -> Folder:
    """A folder that does not exist yet is judged by the nearest one above it that does."""
    above = next((place for place in (path, *path.parents) if place.exists()), None)
    if above is None:
        return Folder(purpose, path, False, False, None)
    free = shutil.disk_usage(above).free
    return Folder(purpose, path, path.exists(), above.is_dir() and os.access(above, os.W_OK | os.X_OK), free)


def size(count: int) -> str:
    """1536 * 2**20 -> "1.5 GiB"."""
    return f"{count / 2**30:.1f} GiB"
