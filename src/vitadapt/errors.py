"""Errors meant for the person at the keyboard: one line that names what is wrong and the remedy."""

from __future__ import annotations

from typing import Any


class VitadaptError(Exception):
    """Base of every error that a user can act on; the command line prints it without a traceback."""


class UnknownName(VitadaptError):
    """A name that no registry knows; the message suggests near ones."""


class ConfigError(VitadaptError):
    """A configuration value that cannot work (wrong field, wrong type, impossible combination)."""


class DataError(VitadaptError):
    """Images, labels or files that cannot be used as they are."""


class WeightsError(VitadaptError):
    """A checkpoint that does not fit, or cannot be read safely."""


class NotApplicable(VitadaptError):
    """The method cannot work on this backbone."""


class NotMergeable(VitadaptError):
    """The adapted model cannot be folded back into the plain weights."""


class Diverged(VitadaptError):
    """Training produced a loss that is not a number. `chosen`: what a search had found before, for the record."""

    def __init__(self, message: str, chosen: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.chosen = chosen or {}


class MethodDefect(VitadaptError):
    """The audit found a trainable tensor that cannot learn."""


class StorageError(VitadaptError):
    """Something could not be written or read back (disk full, no permission, damaged file)."""


class CellBusy(VitadaptError):
    """Another process is running this very cell."""


class FanoutError(VitadaptError):
    """Workers, or a cluster, that cannot be had or used as asked."""
