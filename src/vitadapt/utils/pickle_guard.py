"""A look at a pickle before any machine runs it: what it would build, without building it.

Even a machine that can name nothing harmful can be kept busy for ever: twenty bytes make it reserve gigabytes for what
it remembers, and thirty tuples inside one another, each holding the one before twice, take years to hash.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Iterator
from itertools import count

_GROWTH = 64  # times its length that a pickle may unfold into, when everything that it mentions twice is counted twice
_STORES = ("PUT", "BINPUT", "LONG_BINPUT")
_RECALLS = ("GET", "BINGET", "LONG_BINGET")


def check_pickle(data: bytes, programs: int = 1) -> None:
    """Raises ValueError when the first `programs` pickles in `data` are damaged, or would unfold without end."""
    source = io.BytesIO(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what Python says of a backslash in a damaged text
        for _ in range(programs):
            _check_one(source, most=_GROWTH * (len(data) + 1024))


class _Sizes:
    """The stack and the memory of a pickle machine, with the unfolded size of every value instead of the value."""

    def __init__(self) -> None:
        self.stack: list[int | None] = []  # None: a mark
        self.memory: dict[int, int] = {}

    def pop(self, kind: pickletools.StackObject) -> Iterator[int]:
        """The sizes of what `kind` stands for: one value, a mark, or all values down to the mark."""
        if kind is pickletools.stackslice:
            while self.stack and self.stack[-1] is not None:
                yield self.stack.pop() or 0
        elif self.stack:
            yield self.stack.pop() or 0
        else:
            raise ValueError("it takes what is not there")


def _check_one(source: io.BytesIO, most: int) -> None:
    sizes, places = _Sizes(), count()
    for code, argument, _ in pickletools.genops(source):
        if code.name in _STORES or code.name == "MEMOIZE":
            place = next(places) if code.name == "MEMOIZE" else int(argument or 0)
            if not sizes.stack or place > most:
                raise ValueError("it remembers more than it says")
            sizes.memory[place] = sizes.stack[-1] or 0
            continue
        taken = sum(size for kind in reversed(code.stack_before) for size in sizes.pop(kind))
        length = len(argument) if isinstance(argument, (str, bytes, bytearray)) else 1
        if code.name in _RECALLS:
            length = sizes.memory.get(int(argument or 0), 0)
        if taken + length > most:
            raise ValueError("it unfolds without end")
        for kind in code.stack_after:
            sizes.stack.append(None if kind is pickletools.markobject else taken + length)
