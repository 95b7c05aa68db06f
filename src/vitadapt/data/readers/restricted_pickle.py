"""Pickles of arrays, lists and texts, read without giving the file a way to run anything.

A pickle is a program that may call whatever it can name. Here it can name what rebuilds a numpy array and nothing else;
what it names is replaced by stand-ins that refuse unusual arguments, so that no code of numpy runs on unchecked state.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.errors import DataError, damaged
from ...utils.pickle_guard import check_pickle
from .helpers import bytes_of

_COPIES = 4  # times its length that the texts of a pickle may be copied
_PLAIN = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1")


class _Forbidden(Exception):
    """The pickle names something that data does not need."""


class _Array:
    """What a pickle gets instead of a numpy array; the array is made from the checked state."""

    value: np.ndarray

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            raise _Forbidden("an array with an unusual state")
        _, shape, kind, by_columns, raw = state
        if not isinstance(raw, (str, bytes, bytearray)):
            raise _Forbidden("an array with an unusual content")
        data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        self.value = np.frombuffer(data, kind.code).reshape(shape, order="F" if by_columns else "C")


class _Type:
    """What it gets instead of a numpy dtype: plain numbers only, no objects and no records."""

    code = ""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _Forbidden("an array type with an unusual state")
        self.code = state[1] + self.code


def _empty_array(kind: object, *_: object) -> _Array:
    if kind is not _Array:
        raise _Forbidden("an array of an unusual class")
    return _Array()


def _dtype(name: object, *_: object) -> _Type:
    if name not in _PLAIN:
        raise _Forbidden(f"an array of {str(name)[:20]}")
    made = _Type()
    made.code = str(name)
    return made


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.room = _COPIES * len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) not in _ALLOWED:
            raise _Forbidden(f"{module}.{name}")
        return _ALLOWED[module, name]

    def _encode(self, text: object, encoding: object) -> bytes:
        """How Python 3 writes bytes into the protocols of Python 2. One text that is mentioned often becomes new bytes
        every time."""
        if not isinstance(text, str) or encoding != "latin1":
            raise _Forbidden("an unusual text encoding")
        encoded = text.encode("latin1")
        self.room -= len(encoded)
        if self.room < 0:
            raise _Forbidden("one text again and again")
        return encoded

    def persistent_load(self, pid: Any) -> Any:
        raise _Forbidden("a persistent object")


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict in a pickle file of Python 2 or 3, its keys as text.

    Raises DataError when it is damaged, is no dict, or asks for anything but numbers, texts, lists and numpy arrays.
    """
    data = bytes_of(path)
    with damaged(path, "get the data again", DataError, "is not a readable pickle"):
        check_pickle(data)
        try:
            table = _Unpickler(data).load()
        except _Forbidden as error:
            raise DataError(f"{path} asks for {error}, which data never needs; do not trust this file") from error
    if not isinstance(table, dict):
        raise DataError(f"{path} holds no table; get the data again")
    plain = {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in table.items()}
    return {key: getattr(value, "value", None) if isinstance(value, _Array) else value for key, value in plain.items()}
