"""What came out of one cell of a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...nn.head_spec import HeadSpec, head_text
from ...utils.errors import ConfigError, UnknownName
from ...utils.fields import build, changes_text, named
from ...utils.files import checked_json, checksum, parse_checked_json

SCHEMA = 1
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
        """The inverse of `to_json`. Raises ValueError when the text is damaged or of a newer format."""
        plain = parse_checked_json(text)
        if plain["schema"] > SCHEMA:
            raise ValueError(f"written by a newer version (format {plain['schema']})")
        return Record(**plain)


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
