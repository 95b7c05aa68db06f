"""Error answers: a status, a code for programs, and one line for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from ...data.images import TooManyPixels
from ...utils.errors import (
    ConfigError,
    DataError,
    NotApplicable,
    StorageError,
    UnknownName,
    VitadaptError,
    WeightsError,
    printable,
)
from ...utils.registry import unknown


class UnknownModel(UnknownName):
    """A name that no model has."""


RETRY = {"Retry-After": "1"}
_FOLDERS = re.compile(r"(?<![\w./])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s/\\'\"(),;:]+[/\\])+")
_LONGEST = 500
_STATUS: tuple[tuple[type[VitadaptError], int, str], ...] = (
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
    """A request that gets an error answer."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def error_body(code: str, message: str) -> dict[str, Any]:
    """The JSON of every error answer."""
    return {"error": {"code": code, "message": message}}


def unknown_model(name: str, models: Iterable[str]) -> UnknownModel:
    """The error for a name that no model has, with similar names."""
    names = list(models)
    if not names:
        return UnknownModel(f"unknown model {name[:100]!r}; no model is served yet")
    return UnknownModel(str(unknown("model", name[:100], names)))


def busy(message: str) -> Refusal:
    """More than the server can do now."""
    return Refusal(503, "busy", f"{message}; try again in a second", RETRY)


def refusal_of(error: VitadaptError) -> Refusal:
    """An error that was written for the owner of this machine, for a stranger: without its paths."""
    status, code = next(
        ((status, code) for kind, status, code in _STATUS if isinstance(error, kind)), (500, "internal")
    )
    return Refusal(status, code, public(str(error)))


def invalid(error: ValidationError | RequestValidationError) -> Refusal:
    """The first thing that is wrong with the options or the JSON of a request."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("query", "path"))
    return Refusal(422, "bad_request", public(f"{field}: {first['msg']}" if field else first["msg"]))


def public(text: str) -> str:
    """One line in which every path is reduced to its last part, and control characters are escaped."""
    line = printable(" ".join(_FOLDERS.sub("", text).split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
