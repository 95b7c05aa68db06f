"""Named things: one registry per kind, with a clear answer to a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from .errors import UnknownName

T = TypeVar("T")


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownName:
    """The error for a misspelt `name`, with the nearest known ones (or all of them when few)."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:12]
    return UnknownName(f"unknown {kind} {name!r}; did you mean {', '.join(near)}?{' ' + hint if hint else ''}")


class Registry(Mapping[str, T], Generic[T]):
    """An ordered mapping name -> thing that refuses clashes and suggests near names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: file the decorated thing under `name`. Raises ValueError when the name is taken."""

        def file(thing: T) -> T:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._things[name] = thing
            return thing

        return file

    def name_of(self, thing: object) -> str:
        """The name under which `thing` (or its class) was registered. Raises UnknownName if it never was."""
        for name, known in self._things.items():
            if known is thing or known is type(thing):
                return name
        raise UnknownName(f"{thing!r} is not a registered {self.kind}; decorate it with register(...)")

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            raise unknown(self.kind, name, self._things)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
