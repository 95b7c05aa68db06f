"""Does it work with the oldest and with the newest that it says it works with? One environment per corner.

    make test-matrix                              four corners: oldest and newest Python, lowest and highest versions
    make test-matrix ARGS="--corner 3.10:lowest"  one of them
    make test-matrix ARGS="--list"                which Pythons are here, and which corners that makes

`lowest` takes of everything that pyproject.toml names the version of its lower bound, or, where that has no binary for
the Python in question, the next one that has; every such case is told. `highest` takes the newest of everything. Both
are resolved by uv for all extras. An environment takes some gigabytes and is deleted when its tests have run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from project import extras, python_bounds, requirements

ROOT = Path(__file__).parents[1]

NEEDED_BY_TESTS = ("pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "httpx>=0.27", "jsonschema>=4.20")
TESTS = (  # every library that one of the bounds is about is used by one of these
    "training/test_adapter_file",
    "serving/test_bank",
    "cli/test_main",
    "classifier/test_fit",
    "benchmark/test_config",
    "data/readers/test_image_folder",
    "data/test_images",
    "data/pixels/test_pixels",
    "data/readers/test_shared_storages",
    "data/readers/test_csv_table",
    "cli/test_doctor",
    "classifier/test_estimator",
    "classifier/export/test_export",
    "classifier/export/test_commands",
    "classifier/export/test_hub",
    "cli/test_extras",
    "benchmark/parallel/test_workers",
    "benchmark/parallel/test_ray",
    "benchmark/results/test_index",
    "weights/test_adapt_external",
    "methods/test_methods",
    "metrics/test_scores",
    "data/checks/test_near_duplicates",
    "data/readers/test_hf_datasets",
    "methods/test_peft",
    "nn/test_matmul",
    "benchmark/protocols/test_protocols",
    "report/test_commands",
    "report/test_figures",
    "benchmark/results/test_store",
    "serving/test_server",
    "serving/test_server_faults",
    "metrics/test_significance",
    "nn/test_surgery",
    "text/test_knowledge",
    "text/test_towers",
    "training/test_loop",
    "nn/test_vit",
    "weights/test_checkpoint_files",
    "training/test_adapter_copies",
    "training/test_accelerator",
    "text/test_parity",
    "text/test_text_head",
    "text/test_features",
    "weights/test_other_networks",
    "weights/test_preprocess",
    "weights/test_feature_extractor",
    "weights/test_load",
    "classifier/export/test_smaller",
    "classifier/export/test_elsewhere",
    "classifier/export/test_peft_import",
    "benchmark/post_hoc/test_interpolation",
    "weights/test_parity",
)
RESOLUTIONS = {"lowest": "lowest-direct", "highest": "highest"}


@dataclass(frozen=True)
class Corner:
    """One environment: an interpreter, and which end of the versions."""

    python: str
    interpreter: Path
    end: str

    @property
    def name(self) -> str:
        return f"{self.python}:{self.end}"


def interpreters() -> dict[str, Path]:
    """ "3.10" -> an interpreter, of every version that this project supports and this machine has, oldest first."""
    places = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    places += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found: dict[str, Path] = {}
    for place in places:
        for file in sorted(place.glob("python3.[0-9]*")):
            if not file.name.removeprefix("python3.").isdigit():
                continue
            version = file.name.removeprefix("python")
            if version not in found and version in python_bounds() and _runs(file, version):
                found[version] = file
    return dict(sorted(found.items(), key=lambda item: Version(item[0])))


def _runs(file: Path, version: str) -> bool:
    """A launcher without an interpreter behind it (as pyenv leaves them) does not."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([file, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == version


def corners(found: dict[str, Path]) -> list[Corner]:
    """Oldest and newest Python, lowest and highest versions."""
    ends = dict.fromkeys([min(found, key=Version), max(found, key=Version)])
    return [Corner(python, found[python], end) for python in ends for end in RESOLUTIONS]


def resolve(corner: Corner, place: Path) -> Path:
    """The file of exact versions for this corner."""
    pins = place / f"constraints-{corner.python}-{corner.end}.txt"
    extra = [word for name in extras() for word in ("--extra", name)]
    uv("pip", "compile", ROOT / "pyproject.toml", *extra, "--resolution", RESOLUTIONS[corner.end], "--python-version",
       corner.python, "--only-binary", ":all:", "--no-header", "--no-annotate", "--output-file", pins)  # fmt: skip
    return pins


def departures(pins: Path, python: str) -> Iterator[str]:
    """Where the lowest version that can be had differs from the bound: these bounds are not tested here."""
    found = {canonicalize_name(line.split("==")[0]): line.split("==")[1].split()[0] for line in _pinned(pins)}
    for requirement in requirements(python):
        bound = lower_bound(requirement)
        have = found.get(canonicalize_name(requirement.name))
        if bound and have and Version(have) != bound:
            yield f"{requirement.name}: {have} instead of {bound}"


def _pinned(pins: Path) -> list[str]:
    return [line for line in pins.read_text().splitlines() if "==" in line and not line.startswith((" ", "#"))]


def lower_bound(requirement: Requirement) -> Version | None:
    """1.24 of "numpy>=1.24"."""
    bounds = [part.version for part in requirement.specifier if part.operator in (">=", "==", "~=")]
    return max(map(Version, bounds), default=None)


def uv(*arguments: object) -> None:
    """Raises SystemExit telling what uv said when it fails."""
    command = [sys.executable, "-m", "uv", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def run(corner: Corner, place: Path, tests: tuple[str, ...]) -> dict[str, object]:
    """Makes the environment, runs the tests against the installed package, deletes the environment."""
    pins = resolve(corner, place)
    gaps = list(departures(pins, corner.python)) if corner.end == "lowest" else []
    for line in gaps:
        say(f"{corner.name}  no binary of the bound: {line}")
    environment = place / f"venv-{corner.python}-{corner.end}"
    try:
        uv("venv", "--clear", "--python", corner.interpreter, environment)
        python = environment / "bin" / "python"
        uv("pip", "install", "--python", python, "--requirements", pins, *NEEDED_BY_TESTS, "--constraints", pins)
        uv("pip", "install", "--python", python, "--no-deps", ROOT)
        files = [str(ROOT / "tests" / f"{name}.py") for name in tests]
        options = ["--rootdir", str(ROOT), "-p", "no:cacheprovider", "-rf", "-n", "2", "--maxfail", "40"]
        options += ["-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]  # each release warns of others
        done = subprocess.run(
            [python, "-m", "pytest", *options, *files],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
    finally:
        shutil.rmtree(environment, ignore_errors=True)
    return {
        "corner": corner.name,
        "passed": done.returncode == 0,
        "torch": _version(pins, "torch"),
        "departures": gaps,
    }


def _version(pins: Path, name: str) -> str:
    return next(line.split("==")[1].split()[0] for line in _pinned(pins) if line.startswith(f"{name}=="))


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a part of the tests with the oldest and the newest versions.")
    parser.add_argument("--corner", action="append", help="e.g. 3.10:lowest; repeatable. Default: all four.")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="test files below tests/, without .py")
    parser.add_argument("--list", action="store_true", help="tell the corners and stop")
    parser.add_argument("--json", type=Path, help="write the outcome to this file")
    options = parser.parse_args()
    found = interpreters()
    say(f"Pythons found: {', '.join(f'{version} ({path})' for version, path in found.items())}")
    if missing := sorted(set(python_bounds()) - set(found), key=Version):
        say(f"declared in pyproject.toml but not on this machine, so not tested: {', '.join(missing)}")
    chosen = [corner for corner in corners(found) if corner.name in (options.corner or [corner.name])]
    say(f"corners: {', '.join(corner.name for corner in chosen)}")
    if options.list:
        return 0
    with tempfile.TemporaryDirectory(prefix="matrix-") as place:
        outcomes = [run(corner, Path(place), tuple(options.tests)) for corner in chosen]
    for outcome in outcomes:
        say(f"{outcome['corner']:14} torch {outcome['torch']:8} {'passed' if outcome['passed'] else 'FAILED'}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(outcomes, indent=1) + "\n")
    return 0 if chosen and all(outcome["passed"] for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
