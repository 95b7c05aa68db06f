"""The scripts of a release: what is shipped is listed, and nobody claims to have asked or tested what was not."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import audit
import matrix
import mutants
import project
import sbom
from vitadapt.benchmark.protocols.registry import PROTOCOLS
from vitadapt.methods import METHODS
from vitadapt.metrics.scores import METRICS, RELEASED_METRICS


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five packages that need one another, and one that is not here."""
    needs = {
        "va-first": ["Va.Second>=1", "va-old; python_version < '3'", 'va-extra; extra == "more"', "va-absent"],
        "va-second": ["va-first"],
        "va-extra": ["va-deep"],
        "va-deep": [],
        "va-old": [],
    }
    for name, lines in needs.items():
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        asked = "".join(f"Requires-Dist: {line}\n" for line in lines)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nProvides-Extra: more\n{asked}"
        (folder / "METADATA").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("whole", "parts"),
    [
        ("va-first", {"va-first", "va-second"}),
        ("va-first[more]", {"va-first", "va-second", "va-extra", "va-deep"}),
        ("va-absent", set()),
    ],
)
def test_what_is_needed_is_followed_to_its_end(installed, whole: str, parts: set[str]) -> None:
    assert sbom.needed(whole) == parts


def test_a_pruned_list_names_nothing_that_it_leaves_out() -> None:
    parts = [{"name": name, "bom-ref": f"ref-{name}"} for name in ("Torch", "pytest", "vitadapt")]
    links = [
        {"ref": "root", "dependsOn": ["ref-Torch", "ref-pytest"]},
        {"ref": "ref-Torch"},
        {"ref": "ref-pytest", "dependsOn": ["ref-Torch"]},
    ]
    whole = {"metadata": {"component": {"bom-ref": "root"}}, "components": parts, "dependencies": links, "version": 1}
    left = sbom.pruned(whole, {"torch", "vitadapt"})
    assert [part["name"] for part in left["components"]] == ["Torch"]
    assert left["dependencies"] == [
        {"ref": "root", "dependsOn": ["ref-Torch"]},
        {"ref": "ref-Torch", "dependsOn": []},
    ]
    assert left["version"] == 1


GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {
    "name": "bad",
    "version": "2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "X", "fix_versions": []}],
}
UNKNOWN = {"name": "far", "skip_reason": "no connection"}


@pytest.mark.parametrize(
    ("found", "status", "expected"),
    [
        ([GOOD], audit.NOTHING_KNOWN, ["no known vulnerability in 1 packages"]),
        ([GOOD, BAD, UNKNOWN], audit.VULNERABLE, ["bad 2: CVE-1, fixed in 3", "bad 2: X, fixed in no version yet"]),
        ([GOOD, UNKNOWN], audit.NOT_AUDITED, None),
    ],
)
def test_an_audit_is_clean_only_when_everything_could_be_asked_about(found, status: int, expected) -> None:
    code, lines = audit.verdict(found)
    assert code == status
    assert lines == expected if expected else "1 of 2" in lines[0] and "far" in lines[0] and "not audited" in lines[0]


def test_an_audit_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for complaint, status in [("No module named pip_audit", 1), ("warning\nno connection", 2)]:
        monkeypatch.setattr(audit, "ask", lambda names, message=complaint: message)
        assert audit.main() == status
    missing, unreachable = capsys.readouterr().out.splitlines()
    assert ".[release]" in missing and unreachable == "not audited: no connection"


@pytest.mark.parametrize(
    ("text", "bound"), [("a>=1.24,<2", "1.24"), ("a==0.1", "0.1"), ("a~=2.3", "2.3"), ("a<2", None)]
)
def test_the_lower_bound_of_a_requirement(text: str, bound: str | None) -> None:
    assert matrix.lower_bound(Requirement(text)) == (bound and Version(bound))


def test_a_bound_that_was_not_tested_is_told(tmp_path: Path) -> None:
    bounds = {one.name: matrix.lower_bound(one) for one in project.requirements("3.10")}
    lines = [f"{name.replace('_', '-').lower()}=={version} ; python_version < '4'" for name, version in bounds.items()]
    pins = tmp_path / "pins.txt"
    pins.write_text("# made\n" + "\n".join(lines) + "\n    # via torch==1\n", "utf-8")
    assert list(matrix.departures(pins, "3.10")) == []
    newer = [
        line.replace(f"=={bounds['tabulate']} ", "==99.0 ") if line.startswith("tabulate") else line for line in lines
    ]
    pins.write_text("\n".join(newer), "utf-8")
    assert list(matrix.departures(pins, "3.10")) == [f"tabulate: 99.0 instead of {bounds['tabulate']}"]


def test_corners_are_the_ends_that_are_here() -> None:
    here = {version: Path(version) for version in ("3.9", "3.12", "3.10")}
    assert [corner.name for corner in matrix.corners(here)] == [
        *("3.9:lowest", "3.9:highest"),
        *("3.12:lowest", "3.12:highest"),
    ]
    assert len(matrix.corners({"3.12": Path("x")})) == 2


def test_an_interpreter_is_one_that_runs_and_is_what_its_name_says(tmp_path: Path, monkeypatch) -> None:
    for name, program in {"3.10": "echo 3.10", "3.11": "exit 1", "3.12": "echo 3.9", "3.1x": "echo 3.1x"}.items():
        (tmp_path / f"python{name}").write_text(f"#!/bin/sh\n{program}\n", "utf-8")
        (tmp_path / f"python{name}").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert matrix.interpreters() == {"3.10": tmp_path / "python3.10"}


def test_every_file_of_tests_in_the_matrix_is_there() -> None:
    assert [name for name in matrix.TESTS if not (Path(__file__).parents[1] / f"{name}.py").exists()] == []


def test_requirements_are_those_of_a_python() -> None:
    assert "tomli" in {one.name for one in project.requirements("3.10")}
    assert "tomli" not in {one.name for one in project.requirements("3.13")}
    assert {one.name for one in project.requirements(of=["plot"])} >= {"matplotlib", "torch"}
    assert f">={project.python_bounds()[0]}" == project.project()["requires-python"]


def registered() -> set[str]:
    """The files of methods, metrics and protocols: what computes the numbers of a table."""
    things = [thing for registry in (METHODS, METRICS, RELEASED_METRICS, PROTOCOLS) for thing in registry.values()]
    modules = {getattr(thing, "__module__", type(thing).__module__) for thing in things}
    return {f"{module.removeprefix('vitadapt.').replace('.', '/')}.py" for module in modules}


def test_what_computes_a_number_is_in_the_core_of_the_mutation_tests() -> None:
    assert registered() <= set(mutants.core())
    assert set(mutants.CORE) == {name for name in mutants.CORE if (mutants.PACKAGE / name).exists()}


def test_every_file_of_the_core_is_held_by_tests_that_are_there() -> None:
    for file in mutants.core():
        *tests, _, _ = mutants.tests_of(file)
        assert tests and all((mutants.TESTS / name).is_file() for name in (*tests, *mutants.CORE.get(file, ()))), file


def test_a_mutant_is_one_change_of_what_is_computed() -> None:
    file = "metrics/calibration.py"
    whole = ast.unparse(ast.parse((mutants.PACKAGE / file).read_text("utf-8"))).splitlines()
    for _, number in mutants.places(file)[::10]:
        changed = mutants.mutant(file, number)
        compile(changed.source, file, "exec")
        lines = list(difflib.ndiff(whole, changed.source.splitlines()))
        assert any(line[0] in "-+" for line in lines) and changed.line > 0, changed.what
