"""Named things: one registry per kind, with a clear answer to a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Generic, TypeVar

from .errors import UnknownName

T = TypeVar("T")
_FEW = 12


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownName:
    """The error for a misspelt `name`, with the nearest known ones, or all of them when they are few."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or (names if len(names) <= _FEW else [])
    guess = f"did you mean {', '.join(near)}?" if near else f"none of the {len(names)} known ones is called like it"
    return UnknownName(f"unknown {kind} {name!r}; {guess}{' ' + hint if hint else ''}")


class Registry(Mapping[str, T], Generic[T]):
    """An ordered mapping name -> thing that refuses clashes and suggests near names.

    With a `group`, plugins are loaded once a name is asked for that is not known, or all names are: the files that the
    user names, and the installed packages with entry points of this group. A lookup then raises ConfigError for a
    plugin that cannot be loaded.
    """

    def __init__(self, kind: str, group: str = "") -> None:
        self.kind, self.group = kind, group
        self._things: dict[str, T] = {}
        self._complete = not group

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: file the decorated thing under `name`. Raises ValueError when another thing has the name."""

        def file(thing: T) -> T:
            if name in self._things and _origin(self._things[name]) != _origin(thing):
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

    def _all(self) -> dict[str, T]:
        """Everything, that of the plugins included."""
        if not self._complete:
            from .plugins import installed, load_plugins

            self._complete = True  # a plugin may look up names while it is loaded
            try:
                load_plugins()
                for name, thing in installed(self.group):
                    if not isinstance(thing, ModuleType) and not any(thing is known for known in self._things.values()):
                        self.register(name)(thing)
            except Exception:
                self._complete = False
                raise
        return self._things

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise unknown(self.kind, name, self._things)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def _origin(thing: object) -> object:
    """Where a class or function was written: running a notebook's cell again defines the same one once more."""
    place = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    return place if place[1] else id(thing)
