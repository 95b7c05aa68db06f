"""What came out of one cell of a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import NoneType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...nn.head_spec import HeadSpec, head_text
from ...utils.errors import ConfigError, UnknownName
from ...utils.fields import build, changes_text, named
from ...utils.files import checked_json, checksum, parse_checked_json

SCHEMA = 1
_TABLES = ("method", "recipe", "head", "prompts")  # among the values of a configuration
_MOST = 1e18  # of a score, seconds or parameters; NaN is not below it either
DAGGER = "†"  # behind the method of a record whose caveat says why its score stands apart


@dataclass(frozen=True, kw_only=True)
class RecordSummary:
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
    split: str = ""  # the rule behind train and test, as `Dataset` has it; unknown in older records
    created: str = ""
    method_label: str = ""  # see `label_of`; older records lack it
    images: dict[str, Any] = field(default_factory=dict)  # test: one digest of all; test_count; train: see `drawn`

    @property
    def imported(self) -> bool:
        """Was it read from files of the published toolkit? Its configuration then holds no more than they do."""
        return bool(self.config["protocol"] == "imported")

    @property
    def drawn(self) -> str:
        """One digest of the images that it was trained on, in their order; empty when there were none.

        A record holds the digest of each of them, an index only this one.
        """
        train = self.images.get("train", "")
        return train if isinstance(train, str) else checksum(train) if train else ""

    @property
    def method(self) -> str:
        """The label of the method, with a dagger behind it when the record has a caveat."""
        return f"{self.label} {DAGGER}" if self.caveat else self.label

    @property
    def label(self) -> str:
        """`method_label`, or what it would be in a record that was written before there was one."""
        if self.method_label:
            return self.method_label
        return f"{self.config['method']['name']} (imported)" if self.imported else label_of(self.config)


@dataclass(frozen=True, kw_only=True)
class Record(RecordSummary):
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
        """The inverse of `to_json`. Raises ValueError when the text is damaged, of a newer format, or holds values of
        another kind than a record has.
        """
        plain = parse_checked_json(text)
        if isinstance(schema := plain.get("schema"), int) and schema > SCHEMA:
            raise ValueError(f"written by a newer version (format {schema})")
        try:
            _kinds().validate_python(plain)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from error
        _check_config(plain["config"])
        record = Record(**plain)
        numbers = [record.score, record.pe, *record.scores.values(), *record.seconds.values()]
        if not all(abs(n or 0) < _MOST for n in (*numbers, *record.parameters.values())):
            raise ValueError("a number that cannot be")
        if "head" in record.parameters and not {"trained", "total"} <= record.parameters.keys():
            raise ValueError("its parameters are not all there")
        return record


@cache
def _kinds() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def _check_config(config: Mapping[str, Any]) -> None:
    """Raises ValueError for a configuration that no run had: tables group records by its values."""
    for name in ("backbone", "dataset", "protocol"):
        if not isinstance(config.get(name), str):
            raise ValueError(f"{name} is no text in its configuration")
    for name in ("shots", "seed", "recipe"):
        if name not in config:
            raise ValueError(f"no {name} in its configuration")
    for name, value in config.items():
        if isinstance(value, list) or ((name in _TABLES) != isinstance(value, dict) and value is not None):
            raise ValueError(f"{name} is {value!r:.60} in its configuration")
    if not isinstance((config["method"] or {}).get("name"), str):
        raise ValueError("its configuration has a method without a name")
    if not isinstance(config["seed"], (int, NoneType)):
        raise ValueError("its seed is no whole number")


def label_of(config: Mapping[str, Any]) -> str:
    """The method of a record's configuration and, if it is unusual, the head, as written in recipes.

    A method that is not installed here, or has other fields now, is named with all that was recorded of it.
    """
    from ...methods.spec import method_of, method_text  # needs torch: a record that holds its label does without

    try:
        method = method_text(method_of(config["method"]))
    except (UnknownName, ConfigError):
        values = dict(config["method"])
        name = values.pop("name")
        texts = {field: tuple(value) if isinstance(value, list) else value for field, value in values.items()}
        method = named(name, changes_text(texts, dict.fromkeys(texts)))
    head = config.get("head")
    return f"{method} +{head_text(build(HeadSpec, head, 'head'))}" if head else method
