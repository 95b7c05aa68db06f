"""What came out of one cell of a benchmark."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from ...nn.head_spec import HEADS
from ...utils.fields import changes_text, named
from ...utils.files import checked_json, checksum, parse_checked_json

SCHEMA = 1


DAGGER = "†"  # behind the method of a record whose caveat says why its score stands apart


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the tables of results say of a finished run: the part of a record that an index of many holds.

    `score` is in percent, None when the training diverged; `seconds` are by phase.
    """

    digest: str
    config: dict[str, Any]
    status: str  # "ok" or "diverged"
    score: float | None
    parameters: dict[str, int]  # trained in backbone and head, trained (their sum), total; visual: the backbone
    seconds: dict[str, float]
    caveat: str = ""  # why `score` must not be compared with others: every table marks it
    split: str = ""  # the rule behind train and test, as `Dataset` has it; older records do not tell
    created: str = ""
    images: dict[str, Any] = field(default_factory=dict)  # test: one digest of all; test_count; train: see `drawn`

    @property
    def imported(self) -> bool:
        """Was it read from files of the published toolkit? Its configuration then tells no more than they do."""
        return bool(self.config["protocol"] == "imported")

    @property
    def drawn(self) -> str:
        """One digest of the images that it was trained on, in their order; empty when there were none.

        A record tells the digest of each of them, an index only this one.
        """
        train = self.images.get("train", "")
        return train if isinstance(train, str) else checksum(train) if train else ""

    @property
    def method(self) -> str:
        """The method with the fields that differ from its defaults, as written in recipes, and the head if unusual.

        A dagger marks a record with a caveat.
        """
        dagger = f" {DAGGER}" if self.caveat else ""
        if self.imported:
            return f"{self.config['method']['name']} (imported){dagger}"
        return recorded_name(self.config) + dagger


@dataclass(frozen=True, kw_only=True)
class Record(Entry):
    """One finished run."""

    metric: str
    pe: float | None
    classes: list[str]
    per_class: list[float | None]
    chosen: dict[str, Any]
    peak_memory_mb: float
    versions: dict[str, str]
    images: dict[str, Any]  # train: content digests in order; test: one digest of all; test_count
    losses: list[float]
    files: dict[str, str] = field(default_factory=dict)  # name -> digest of the bytes
    notes: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)  # in percent, when one score does not tell all
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Text with a checksum over everything else in it."""
        return checked_json(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Record:
        """The inverse of `to_json`. Raises ValueError when the text is damaged or of a newer format."""
        plain = parse_checked_json(text)
        if plain["schema"] > SCHEMA:
            raise ValueError(f"written by a newer version (format {plain['schema']})")
        return Record(**plain)


def recorded_name(config: Mapping[str, Any]) -> str:
    """The method of a record's configuration, and the head if unusual. Raises UnknownName or ConfigError."""
    head = config.get("head")
    return _method_name(repr(config["method"])) + (f" +{_head_name(repr(head))}" if head else "")


@lru_cache(maxsize=1024)
def _method_name(plain: str) -> str:
    values = ast.literal_eval(plain)
    name = values.pop("name")
    defaults = declared().get(name)
    if defaults is None or not values.keys() <= defaults.keys():
        return _asked(name, values)
    return named(name, changes_text(_typed(values, defaults), defaults))


def _asked(name: str, values: Mapping[str, Any]) -> str:
    from ...methods import METHODS
    from ...methods.spec import method_text
    from ...utils.fields import build

    return method_text(build(METHODS[name], values, "method"))


@lru_cache(maxsize=1024)
def _head_name(plain: str) -> str:
    values = ast.literal_eval(plain)
    defaults = dataclasses.asdict(HEADS[values["start"]])
    return named(values["start"], changes_text(_typed(values, defaults), defaults))


def _typed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples, and one may write a whole number where a float belongs."""
    typed = {}
    for name, value in values.items():
        if isinstance(value, list):
            value = tuple(value)
        elif type(value) is int and isinstance(defaults[name], float):
            value = float(value)
        typed[name] = value
    return typed


@cache
def declared() -> dict[str, dict[str, Any]]:
    """Method name -> field -> default, as the files of the built-in methods say; one with other defaults is absent."""
    folder = resources.files("vitadapt").joinpath("methods")
    sources = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".py")]
    return dict(found for source in sources for found in _methods_in(source))


def _methods_in(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        names = [_registered(decorator) for decorator in node.decorator_list]
        try:
            fields = {field: ast.literal_eval(value) for field, value in _fields_of(node)}
        except ValueError:  # a default that must be computed
            continue
        yield from ((name, fields) for name in names if name)


def _registered(decorator: ast.expr) -> str | None:
    """The name in `METHODS.register("name")`."""
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "METHODS.register":
        return str(ast.literal_eval(decorator.args[0]))
    return None


def _fields_of(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and line.value and not ast.unparse(line.annotation).startswith("ClassVar"):
            yield ast.unparse(line.target), line.value
