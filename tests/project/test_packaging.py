"""What is shipped: the same bytes whoever builds them, all that is needed, nothing else; and it works where it lands.

The wheel is built once, installed into a folder whose path has blanks and letters of other alphabets, and used from
there, far from the sources. `make test-wheel` does the same in an environment of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from unpack import unpack

from vitadapt.cli.installation import extras
from vitadapt.data import default_cache
from vitadapt.utils.errors import StorageError
from vitadapt.utils.files import bytes_digest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "vitadapt"
SHIPPED = {".py", ".pyi", ".toml", ".json", ".txt", ".html", ".css", ".js", ".csv"}  # and py.typed
SCORES = (
    "run",
    "-d",
    "digits",
    "-m",
    "lora",
    "-b",
    "random:tiny",
    "--shots",
    "1",
    "--recipe",
    "epochs=1,probe_epochs=1",
)
Program = Callable[..., "subprocess.CompletedProcess[str]"]


def build(tree: Path, out: Path, *what: str, umask: int = 0o022) -> Path:
    """The one archive that building `what` leaves in `out`."""
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, umask=umask)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = out.iterdir()
    return archive


def copy_of(tree: Path, place: Path) -> Path:
    """What a build reads, without what lies about in a used tree."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "recipes", "tests", "docs", "benchmarks", "tools"):
        shutil.copytree(tree / name, place / name, ignore=ignored, symlinks=True, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile", "CHANGELOG.md", ".gitignore"):
        shutil.copyfile(tree / name, place / name)
    return place


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of the tree, an archive of sources, and a wheel of the latter, made by another person's settings."""
    tree = copy_of(ROOT, tmp_path_factory.mktemp("tree"))
    wheel = build(tree, tmp_path_factory.mktemp("wheel"), "--wheel")
    sources = build(tree, tmp_path_factory.mktemp("sdist"), "--sdist")
    unpacked = tmp_path_factory.mktemp("unpacked")
    unpack(sources, unpacked)
    (inside,) = unpacked.iterdir()
    for file in inside.rglob("*"):
        os.utime(file, (10**9, 10**9))
        file.chmod(0o700 if file.is_dir() else 0o600)
    again = build(inside, tmp_path_factory.mktemp("again"), "--wheel", umask=0o077)
    return {"wheel": wheel, "sources": sources, "again": again}


def test_the_wheel_is_the_same_bytes_from_the_tree_and_from_the_archive_of_sources(archives) -> None:
    assert archives["wheel"].name == archives["again"].name
    assert bytes_digest(archives["wheel"].read_bytes()) == bytes_digest(archives["again"].read_bytes())


def test_the_wheel_holds_the_package_and_nothing_else(archives) -> None:
    files = [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files += [
        SOURCE / "benchmark" / "recipes" / path.name for path in (ROOT / "recipes").iterdir()
    ]  # rglob does not follow the link
    assert [path.name for path in files if path.suffix not in SHIPPED and path.name != "py.typed"] == []
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        names = wheel.namelist()
    inside = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert len(names) == len(set(names))
    assert inside == {f"vitadapt/{path.relative_to(SOURCE).as_posix()}" for path in files}
    assert {"vitadapt/py.typed", "vitadapt/benchmark/recipes/smoke.toml", "vitadapt/report/page/page.js"} <= inside


def test_the_wheel_says_what_it_is(archives) -> None:
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        about = Parser().parsestr(wheel.read(name).decode())
        licences = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
    assert about["License-Expression"] == "Apache-2.0" and len(licences) == 1
    assert "all" in about.get_all("Provides-Extra") and about["Requires-Python"] == ">=3.10"


def test_the_archive_of_sources_can_be_tested(archives) -> None:
    with tarfile.open(archives["sources"]) as archive:
        files = {member.name.partition("/")[2]: member for member in archive}
    needed = (
        "tests/conftest.py",
        "docs/methods.md",
        "tests/golden",
        "src/vitadapt/benchmark/recipes/smoke.toml",
        "Makefile",
        "LICENSE",
    )
    assert all(any(name.startswith(part) for name in files) for part in needed)
    assert {(member.uid, member.gid, member.uname) for member in files.values()} == {(0, 0, "")}


@pytest.fixture(scope="session")
def place(archives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, without what it needs: that is there already."""
    folder = tmp_path_factory.mktemp("Zoë's 模型 folder") / "lib"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*command, str(archives["wheel"])], check=True)
    return folder


@pytest.fixture
def program(place: Path, tmp_path: Path) -> Program:
    """The installed program, run in an empty folder with an environment of hardly anything."""

    def call(*arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        plain = {"PATH": os.environ["PATH"], "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
        plain |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "160"} | changes
        environment = {name: value for name, value in plain.items() if value is not None}
        command = [sys.executable, *(() if arguments[0] == "-c" else ("-m", "vitadapt")), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, encoding="utf-8")

    return call


def files_below(place: Path) -> dict[Path, tuple[int, int]]:
    files = (path for path in place.rglob("*") if "__pycache__" not in path.parts)
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.fixture
def sealed(place: Path) -> Iterator[None]:
    """The installation is read-only (which root may ignore), and nothing in it has changed in the end."""
    before = files_below(place)
    modes = {path: path.stat().st_mode for path in [place, *before]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    yield
    for path, mode in modes.items():
        path.chmod(mode)
    assert files_below(place) == before


def test_it_is_the_installed_package_that_runs(program: Program, place: Path) -> None:
    done = program("-c", "import vitadapt; print(vitadapt.__file__)")
    assert done.stdout.strip() == str(place / "vitadapt" / "__init__.py")


HIDING = """import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {modules!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


TURNS = """
import sys
from vitadapt.cli.main import main

for words in {turns!r}:
    sys.argv = ["vitadapt", *words]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


def test_a_read_only_installation_trains_without_optional_libraries_home_locale_or_terminal(
    program: Program, sealed, place: Path, tmp_path: Path
) -> None:
    """From the wheel, in a Python that can import no package of an extra."""
    modules = sorted({module for extra in extras().values() for module in extra.modules.values()})
    (tmp_path / "sitecustomize.py").write_text(HIDING.format(modules=modules), "utf-8")
    turns = [(*SCORES, "--out", "Läufe 1/結果"), ("results", "Läufe 1/結果"), ("results", "Läufe 1/結果", "-f", "md")]
    turns += [("--help",), *(("list", what) for what in ("methods", "recipes", "backbones"))]
    where = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(place)]), "XDG_CACHE_HOME": str(tmp_path / "Zwischen ö")}
    done = program("-c", TURNS.format(turns=turns), LC_ALL="C", HOME=None, **where)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert all(word in done.stdout for word in ("| lora", "Usage: vitadapt", "kadaptation", "smoke", "random:tiny"))
    assert len(list((tmp_path / "Läufe 1" / "結果" / "records").glob("*.json"))) == 1
    assert list((tmp_path / "Zwischen ö").rglob("*.pixels"))


def test_an_encoding_without_the_letters_gets_escapes(program: Program) -> None:
    done = program("count", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii()


LISTS = "import sys; sys.argv = ['vitadapt', 'list', 'datasets', *{more}]; from vitadapt.cli.main import main; main()"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_leaves_is_no_mistake(more: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LISTS.format(more=more)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # type: ignore[union-attr]
    _, output = process.communicate()
    assert (process.returncode, output) == (141, "")


def test_a_full_disk_behind_the_output_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", LISTS.format(more=[])]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("vitadapt: writing: No space left on device;") and done.stderr.count("\n") == 1


def test_a_user_without_a_home_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user that no table knows
    with pytest.raises(StorageError, match="--cache"):
        default_cache()
