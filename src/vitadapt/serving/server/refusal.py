"""What the server says when it does not answer: a status, a word for programs, and one line for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...data.images import TooManyPixels
from ...utils.errors import (
    ConfigError,
    DataError,
    NotApplicable,
    StorageError,
    UnknownName,
    VitadaptError,
    WeightsError,
)
from ...utils.registry import unknown


class UnknownModel(UnknownName):
    """A name that no model has."""


BUSY = {"Retry-After": "1"}
_PATH = re.compile(r"(?<![\w./])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s/\\'\"(),;:]+[/\\])+")
_LONGEST = 500
_KINDS: tuple[tuple[type[VitadaptError], int, str], ...] = (
    (TooManyPixels, 413, "too_large"),
    (DataError, 422, "bad_image"),
    (UnknownModel, 404, "unknown_model"),
    (UnknownName, 422, "unknown_name"),
    (WeightsError, 422, "bad_adapter"),
    (NotApplicable, 422, "not_applicable"),
    (ConfigError, 422, "bad_request"),
    (StorageError, 500, "storage"),
)


class Refusal(Exception):
    """A request that is not answered as it wished."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def body_of(code: str, message: str) -> dict[str, Any]:
    """The JSON of every refusal."""
    return {"error": {"code": code, "message": message}}


def no_model(name: str, known: Iterable[str]) -> UnknownModel:
    """The error for a name that no model has, with near ones."""
    names = list(known)
    if not names:
        return UnknownModel(f"unknown model {name[:100]!r}; no model is served yet")
    return UnknownModel(str(unknown("model", name[:100], names)))


def busy(message: str) -> Refusal:
    """Over capacity: try again soon."""
    return Refusal(503, "busy", f"{message}; try again in a second", BUSY)


def refusal_of(error: VitadaptError) -> Refusal:
    """An error that was written for the person at the keyboard, as one for a stranger: no path of this machine."""
    status, code = next(((status, code) for kind, status, code in _KINDS if isinstance(error, kind)), (500, "internal"))
    return Refusal(status, code, public(str(error)))


def public(text: str) -> str:
    """One line without folders: of every path its last part stays."""
    line = " ".join(_PATH.sub("", text).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
