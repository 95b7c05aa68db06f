"""Plugins: files and installed packages that register methods, backbones and readers of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from vitadapt.utils.errors import ConfigError, UnknownName
from vitadapt.utils.plugins import FILES, load_plugins
from vitadapt.utils.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "new-method.md"
GROUP = "vitadapt.tests"


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILES, "")


def install(folder: Path, name: str, modules: dict[str, str], points: dict[str, dict[str, str]]) -> Path:
    """What `pip install` leaves of a package: its modules and its metadata."""
    for module, source in modules.items():
        (folder / module).write_text(source)
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


def test_a_file_is_loaded_once_and_child_processes_are_told(tmp_path: Path) -> None:
    file, log = tmp_path / "once_loaded.py", tmp_path / "log"
    file.write_text(f"with open({str(log)!r}, 'a') as log: log.write('x')")
    load_plugins([file])
    load_plugins([os.path.relpath(file)])
    load_plugins()
    assert log.read_text() == "x" and os.environ[FILES] == str(file)
    import once_loaded  # type: ignore[import-not-found]  # by name it is the same module

    assert once_loaded.__file__ == str(file)


def test_files_are_found_by_the_environment_when_a_name_is_first_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry: Registry[object] = Registry("thing", GROUP)
    registry.register("known")(int)
    monkeypatch.setitem(sys.modules, "things", registry)  # type: ignore[arg-type]
    files = [tmp_path / "first-thing.py", tmp_path / "json.py"]  # no identifier, and the name of another module
    for file in files:
        file.write_text(f"import things\nthings.register({file.stem!r})(str if 'first' in {file.stem!r} else list)")
    monkeypatch.setenv(FILES, os.pathsep.join(map(str, files)))
    assert registry["known"] is int and len(registry._things) == 1
    assert registry["json"] is list and list(registry) == ["known", "first-thing", "json"]
    import json

    assert hasattr(json, "dumps")


def test_installed_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "class Thing: pass"
    monkeypatch.syspath_prepend(
        install(tmp_path, "things-of-mine", {"mine.py": source}, {GROUP: {"mine": "mine:Thing"}})
    )
    registry: Registry[type] = Registry("thing", GROUP)
    assert registry["mine"].__name__ == "Thing" and len(registry) == 1
    with pytest.raises(UnknownName, match="did you mean mine"):
        registry["mime"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(:", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first$"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_the_reason_in_one_line(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "broken_plugin.py"
    file.write_text(source)
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"^the plugin {re.escape(str(file))} cannot be loaded: {reason}"):
            load_plugins([file])
    monkeypatch.setenv(FILES, "")
    name = f"broken_{len(source)}"
    entry = {GROUP + name: {"x": name}}
    monkeypatch.syspath_prepend(install(tmp_path, "broken-package", {f"{name}.py": source}, entry))
    registry: Registry[type] = Registry("thing", GROUP + name)
    registry.register("known")(int)
    assert registry["known"] is int
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"installed package broken-package \(.*cannot be loaded: {reason}"):
            registry["x"]


@pytest.mark.parametrize(("name", "reason"), [("absent.py", "No such file"), ("notes.txt", "not a Python file")])
def test_what_is_no_plugin_file_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x = 1")
    with pytest.raises(ConfigError, match=reason):
        load_plugins([tmp_path / name])


def test_a_name_is_taken_once_but_a_notebook_cell_may_run_again() -> None:
    registry: Registry[type] = Registry("thing")

    def cell() -> type:
        class Thing: ...

        return registry.register("mine")(Thing)

    first, second = cell(), cell()
    assert first is not second and registry["mine"] is second
    with pytest.raises(ValueError, match="thing 'mine' is registered twice"):
        registry.register("mine")(int)


def documented(language: str, title: str) -> str:
    """The code block of docs/new-method.md with this title."""
    return re.search(rf'```{language} title="{title}"\n(.*?)```', PAGE.read_text("utf-8"), re.DOTALL)[1]  # type: ignore[index]


def test_the_documented_package_works_on_the_command_line(tmp_path: Path) -> None:
    project = tomllib.loads(documented("toml", "pyproject.toml"))["project"]
    modules = {"lora_xs.py": documented("python", "lora_xs.py")}
    install(tmp_path, project["name"], modules, project["entry-points"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    program = (
        "import sys, vitadapt as va\n"
        "import vitadapt.benchmark.results.record\n"
        "assert not {'torch', 'lora_xs'} & sys.modules.keys(), 'loaded too early'\n"
        "method = va.parse_method('lora-xs:rank=2')\n"
        "print(type(method).__module__, method.rank, method.blocks, list(va.METHODS)[-1])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["lora_xs", "2", "all", "lora-xs"]


def test_a_worker_gets_a_configuration_with_a_method_of_a_plugin_file(tmp_path: Path) -> None:
    """multiprocessing and Ray pickle what they send, and the worker knows the plugin by its environment alone."""
    file = tmp_path / "lora_xs.py"
    file.write_text(documented("python", "lora_xs.py"))
    program = (
        "import multiprocessing, sys, vitadapt as va\n"
        "from vitadapt.utils.plugins import load_plugins\n"
        "def work(config): return repr(config)\n"
        "if __name__ == '__main__':\n"
        "    load_plugins(sys.argv[1:])\n"
        "    config = va.RunConfig('random:tiny', va.parse_method('lora-xs:rank=2'), 'synthetic', shots=3)\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        assert pool.apply(work, (config,)) == repr(config)\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py"), str(file)]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # the folder of the program is not on the path
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def test_what_a_plugin_prints_is_no_answer_and_its_exit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "loud.py"
    file.write_text("import sys\nprint('hello')\nsys.exit(3)")
    with pytest.raises(ConfigError, match=r"loud\.py cannot be loaded: SystemExit: 3"):
        load_plugins([file])
    assert capsys.readouterr() == ("", "hello\n")
