"""The models of a folder, and what happens when its files change while requests are being answered.

A name stands for one version at a time. A request keeps the version it began with until it is answered: a version
that was replaced or removed is given up when its last request is done. A file is read once: nothing depends on what
becomes of it later.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...classifier.model import Model, geometry_of
from ...data import Geometry
from ...nn.setting import Setting
from ...training.adapter_file import ADAPTER, AdapterInfo, read_adapter
from ...training.features import cached_backbone
from ...utils.errors import ConfigError, StorageError, VitadaptError, WeightsError
from ...utils.files import bytes_digest, read_bounded, storage_error, write_atomic
from ...utils.limits import ADAPTER_FILE
from .model_groups import Group, Pool, kind_of
from .refusal import Refusal, no_model, public

SUFFIX = Path(ADAPTER).suffix
RESERVED = "models"  # /v1/models is the list
FOLDER = "."  # whose problem it is when the folder itself cannot be read; no model is called so
NAME_BYTES = 200  # of a file's name most systems take 255, of which a file that is being written needs some
NAME = re.compile(r"\w[\w .+-]{0,98}\w|\w")
Stamp = tuple[int, ...]
Tell = Callable[[str], None]


@dataclass(eq=False)
class Version:
    """One adapter as it was at one time; what may change (`users`, `retired`) belongs to the shelf."""

    name: str
    key: str
    digest: str
    info: AdapterInfo
    file: Path
    size: int
    group: Group
    pool: Pool
    users: int = 0
    retired: bool = False
    removed: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return self.info.classes

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.group.backbone, self.info)

    def model(self) -> Model:
        """As the commands know it. Raises WeightsError."""
        return Model(self.pool.classifier(self.key), self.info, self.file, self.group.setting)


class Shelf:
    """Name -> version, for the folder `root` (or one model folder, or one adapter file).

    All but `lease` and `models` is for one thread at a time. `tell` hears of every change.
    """

    def __init__(
        self, root: Path, setting: Setting, resident: int | None = None, most: int = 10_000, tell: Tell = lambda _: None
    ) -> None:
        self.root, self.setting, self.resident, self.most, self.tell = root, setting, resident, most, tell
        self.single = _is_single(root)
        self.models: dict[str, Version] = {}
        self.problems: dict[str, str] = {}
        self.changes = 0
        self._groups: dict[tuple[object, ...], Group] = {}
        self._taken: dict[str, Stamp] = {}  # what was looked at, whether it was good or not
        self._moving: dict[str, Stamp] = {}
        self._serial = 0
        self._lock = threading.Lock()

    # ---- what requests see

    @contextmanager
    def lease(self, name: str) -> Iterator[Version]:
        """The version that `name` stands for now, kept while the block runs. Raises UnknownModel."""
        with self._lock:
            version = self.models.get(name)
            if version is None:
                raise no_model(name, self.models)
            version.users += 1
        try:
            yield version
        finally:
            with self._lock:
                version.users -= 1
            self._give_up(version)

    def _give_up(self, version: Version) -> None:
        with self._lock:
            if not version.retired or version.users or version.removed:
                return
            version.removed = True
        version.pool.remove(version.key)

    # ---- the folder

    def refresh(self, patient: bool = True) -> None:
        """Take what is new in the folder, drop what is gone.

        `patient`: a file is taken when it looked the same twice, one call apart, so that a copy in progress is left
        alone, and a folder that cannot be read is one more problem instead of a StorageError. What cannot be used is
        told once and kept in `problems`; an older version of it stays.
        """
        try:
            found = self._found()
        except OSError as error:
            if not patient:
                raise storage_error(self.root, error) from error
            self._problem(FOLDER, "the folder of the models cannot be read")
            return
        self.problems.pop(FOLDER, None)
        for name in [name for name in self._taken if name not in found]:
            del self._taken[name]
            self.problems.pop(name, None)
            self._put(name, None)
        moving: dict[str, Stamp] = {}
        for name, (path, stamp) in found.items():
            if stamp == self._taken.get(name):
                continue
            if patient and stamp != self._moving.get(name):
                moving[name] = stamp
            else:
                self._take(name, path, stamp)
        self._moving = moving

    def _found(self) -> dict[str, tuple[Path, Stamp]]:
        """Name -> its file, and what changes when the file does."""
        if self.single:
            path = self.root / ADAPTER if self.root.is_dir() else self.root
            name = self.root.resolve().name.removesuffix(SUFFIX)
            places = {name: path}
        else:
            places = self._places()
        stamps = {name: _stamp(path) for name, path in places.items()}
        return {name: (places[name], stamp) for name, stamp in stamps.items() if stamp is not None}

    def _places(self) -> dict[str, Path]:
        """A folder made by `fit` goes before an adapter file of the same name."""
        entries = sorted((entry.name, entry.is_dir()) for entry in os.scandir(self.root))
        files = [name for name, folder in entries if not folder and name.endswith(SUFFIX) and not name.startswith(".")]
        places = {name.removesuffix(SUFFIX): self.root / name for name in files}
        places |= {name: self.root / name / ADAPTER for name, folder in entries if folder and name[0] != "."}
        if places.pop(RESERVED, None):
            self._problem(RESERVED, "the server needs this name for itself; rename the model")
        else:
            self.problems.pop(RESERVED, None)
        return places

    def _take(self, name: str, path: Path, stamp: Stamp) -> None:
        self._taken[name] = stamp
        try:
            data = read_bounded(path, ADAPTER_FILE)
            if _stamp(path) != stamp:  # it is still being written
                del self._taken[name]
                return
            old = self.models.get(name)
            if old is None or old.digest != bytes_digest(data):
                self._put(name, self._loaded(name, path, data))
            self.problems.pop(name, None)
        except OSError as error:
            self._problem(name, f"cannot be read ({error.strerror or 'damaged'})")
        except VitadaptError as error:
            self._problem(name, public(str(error)))
        except (RuntimeError, MemoryError) as error:  # torch says so when there is no memory; the watch goes on
            self._problem(name, f"cannot be loaded ({public(str(error)) or 'too little memory'})")

    def _problem(self, name: str, message: str) -> None:
        if self.problems.get(name) != message:
            kept = "; the version before it stays" if name in self.models else ""
            self.tell(f"{name}: not taken: {message}{kept}")
        self.problems[name] = message

    def _loaded(self, name: str, file: Path, data: bytes, known_only: bool = False) -> Version:
        """A version that answers, of the content of `file`. Raises WeightsError, and what `load_backbone` raises."""
        self._serial += 1
        key = f"{name}@{self._serial}"
        info, _ = read_adapter(file.name, data)
        group, fresh = self._group(info, known_only)
        pool = group.add(key, file.name, data)
        if fresh:
            self._groups[kind_of(info)] = group
        return Version(name, key, bytes_digest(data), info, file, len(data), group, pool)

    def _group(self, info: AdapterInfo, known_only: bool) -> tuple[Group, bool]:
        """The backbone with those that stand on it already, and whether it is a new one."""
        known = self._groups.get(kind_of(info))
        if known is not None:
            return known, False
        if known_only:
            raise WeightsError(
                f"stands on a backbone that is not served here ({public(info.backbone)}, digest {info.base}, "
                f"{info.image_size} pixels); put such an adapter into the folder on the server itself"
            )
        backbone, base = cached_backbone(info.backbone, info.image_size, self.setting.device)
        return Group(backbone, base, self.setting, self.resident), True

    def _put(self, name: str, version: Version | None) -> None:
        """Let `name` stand for `version` (None: nothing) from now on."""
        with self._lock:
            old = self.models.get(name)
            rest = {known: one for known, one in self.models.items() if known != name}
            self.models = dict(sorted({**rest, **({name: version} if version else {})}.items()))
            if old is not None:
                old.retired = True
        if old is None and version is None:
            return
        self.changes += 1
        if old is not None:
            self._give_up(old)
        if version is None:
            self.tell(f"{name}: removed")
        else:
            self.tell(f"{name}: {'replaced' if old else 'added'} ({len(version.classes)} classes)")
        alive = {id(one.group) for one in self.models.values()}
        self._groups = {kind: group for kind, group in self._groups.items() if id(group) in alive}

    # ---- over HTTP

    def upload(self, name: str, data: bytes) -> tuple[Version, bool]:
        """Check, store and serve an adapter -> it, and whether the name is new. Raises Refusal, WeightsError,
        ConfigError for an impossible name, StorageError.
        """
        if not NAME.fullmatch(name) or name.endswith(SUFFIX) or name == RESERVED or len(name.encode()) > NAME_BYTES:
            raise ConfigError(f"{name[:100]!r} cannot be a model's name: up to 100 letters, digits, blanks, . _ + -")
        self._require_changeable(name)
        new = name not in self.models
        if new and len(self.models) >= self.most:
            raise Refusal(409, "too_many_models", f"{self.most} models are served already; remove one first")
        path = self.root / f"{name}{SUFFIX}"
        version = self._loaded(name, path, data, known_only=True)
        try:
            write_atomic(path, data)
        except StorageError:
            version.retired = True
            self._give_up(version)
            raise
        stamp = _stamp(path)
        if stamp is not None:
            self._taken[name] = stamp
        self.problems.pop(name, None)
        self._put(name, version)
        return version, new

    def remove(self, name: str) -> None:
        """Stop serving `name` and delete its file. Raises UnknownModel, Refusal, StorageError."""
        if name not in self.models and name not in self.problems:
            raise no_model(name, self.models)
        self._require_changeable(name)
        path = self.root / f"{name}{SUFFIX}"
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        self._taken.pop(name, None)
        self.problems.pop(name, None)
        self._put(name, None)

    def _require_changeable(self, name: str) -> None:
        if self.single:
            raise Refusal(
                409, "one_model", "this server serves one model; start it on a folder of models to change them"
            )
        if (self.root / name).is_dir():
            raise Refusal(409, "is_a_folder", "this model is a folder on the server; change it there")


def _is_single(root: Path) -> bool:
    """Is it one model rather than a folder of them? In such a folder a model may well be called "adapter"."""
    return root.is_file() or ((root / ADAPTER).is_file() and len(list(root.glob(f"[!.]*{SUFFIX}"))) == 1)


def _stamp(path: Path) -> Stamp | None:
    try:
        look = os.stat(path)
    except OSError:
        return None
    return look.st_ino, look.st_size, look.st_mtime_ns, look.st_ctime_ns
