"""The models of a folder, and what happens when its files change while requests are being answered.

A request keeps the version it began with until it is answered; a version that was replaced or removed is dropped when
its last request is done. A file is read once, so nothing depends on what becomes of it later.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...classifier.model import Model, find_backbone
from ...classifier.statistics_file import STATISTICS
from ...data import Geometry
from ...data.examples import is_utf8
from ...nn.backbone import Backbone
from ...nn.setting import Setting
from ...training.adapter_file import ADAPTER, AdapterInfo, read_adapter
from ...training.features import cached_backbone, geometry_of
from ...utils.errors import ConfigError, StorageError, VitadaptError, WeightsError, printable
from ...utils.files import bytes_digest, read_bounded, storage_error, write_atomic
from ...utils.limits import ADAPTER_FILE
from .model_groups import ModelGroup, group_key
from .refusal import Refusal, public, unknown_model

SUFFIX = Path(ADAPTER).suffix
RESERVED = "models"  # /v1/models is the list
FOLDER = "."  # the name of a problem with the folder itself
_NAME_BYTES = 200  # most systems allow 255 in a file's name, and a file that is being written needs some more
_NAME = re.compile(r"\w[\w .+-]{0,98}\w|\w")
Stamp = tuple[int, ...]
"""What of a file changes when the file does."""


@dataclass(eq=False)
class ModelVersion:
    """One adapter as it was at one time. `users` and `retired` belong to the repository."""

    name: str
    key: str
    digest: str
    info: AdapterInfo
    file: Path
    size: int
    group: ModelGroup
    users: int = 0
    retired: bool = False

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.group.backbone, self.info.squash)

    def model(self) -> Model:
        """As the commands know it."""
        return Model(self.group.classifier(self.key), self.info, self.file, self.group.setting)


class ModelRepository:
    """Name -> version, for the folder `root` (or one model folder, or one adapter file).

    All but `lease` and `models` is for one thread at a time. `log` gets a line for every change. `backbone` is used
    instead of the backbone that an adapter names, where it is the same by its digest.
    """

    def __init__(
        self,
        root: Path,
        setting: Setting,
        resident: int | None = None,
        max_models: int = 10_000,
        log: Callable[[str], None] = lambda _: None,
        backbone: str | None = None,
    ) -> None:
        self.root, self.setting, self.resident, self.backbone = root, setting, resident, backbone
        self.max_models, self._log = max_models, log
        self.single = _is_single(root)
        self.models: dict[str, ModelVersion] = {}
        self.changes = 0
        self._folder_problems: dict[str, str] = {}  # found anew at every look at the folder
        self._file_problems: dict[str, str] = {}  # stay until the file changes
        self._groups: dict[tuple[object, ...], ModelGroup] = {}
        self._read: dict[str, Stamp] = {}  # the state in which a file was read, whether it could be used or not
        self._changing: dict[str, Stamp] = {}  # the state in which a new file was seen for the first time
        self._serial = 0
        self._lock = threading.Lock()

    @property
    def problems(self) -> dict[str, str]:
        """Name -> why it cannot be served, or not in its newest version."""
        return {**self._file_problems, **self._folder_problems}

    @contextmanager
    def lease(self, name: str) -> Iterator[ModelVersion]:
        """The version that `name` stands for now; it stays while the block runs. Raises UnknownModel."""
        with self._lock:
            version = self.models.get(name)
            if version is None:
                raise unknown_model(name, self.models)
            version.users += 1
        try:
            yield version
        finally:
            with self._lock:
                version.users -= 1
                unused = version.retired and not version.users
            if unused:
                version.group.remove(version.key)

    # ---- the folder

    def refresh(self, first: bool = False) -> None:
        """Load what is new in the folder, drop what is gone.

        Only a file that looked the same at two calls is loaded, so that a copy in progress is left alone. Whatever
        cannot be used is logged once and listed in `problems`; an older version of it stays. At the `first` call files
        are loaded at once, and a folder that cannot be read raises StorageError.
        """
        before = self.problems
        try:
            files, self._folder_problems = self._scan()
        except OSError as error:
            if first:
                raise storage_error(self.root, error) from error
            self._folder_problems = {FOLDER: "the folder of the models cannot be read"}
        else:
            for name in [name for name in self._read if name not in files and name not in self._folder_problems]:
                self._replace(name, None)
            changing: dict[str, Stamp] = {}
            for name, (path, stamp) in files.items():
                if stamp == self._read.get(name):
                    continue
                if first or stamp == self._changing.get(name):
                    self._load(name, path, stamp)
                else:
                    changing[name] = stamp
            self._changing = changing
        for name, message in self.problems.items():
            if before.get(name) != message:
                older = "; the version before it stays" if name in self.models else ""
                self._log(printable(f"{name}: not taken: {message}{older}"))

    def _scan(self) -> tuple[dict[str, tuple[Path, Stamp]], dict[str, str]]:
        """Name -> its file and the file's state; and name -> why there is none. Raises OSError."""
        problems: dict[str, str] = {}
        files: dict[str, tuple[Path, Stamp]] = {}
        for name, path in self._list(problems).items():
            try:
                files[name] = path, _stamp(path)
            except OSError as error:
                if path.is_symlink() or not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                    problems[name] = f"cannot be read ({error.strerror})"
        return files, problems

    def _list(self, problems: dict[str, str]) -> dict[str, Path]:
        """Name -> where its file would be. A folder made by `fit` goes before an adapter file of the same name."""
        if self.single:
            path = self.root / ADAPTER if self.root.is_dir() else self.root
            return {self.root.resolve().name.removesuffix(SUFFIX): path}
        files: dict[str, Path] = {}
        folders: dict[str, Path] = {}
        for entry in sorted(os.scandir(self.root), key=lambda entry: entry.name):
            name = entry.name.removesuffix(SUFFIX)
            try:
                folder = entry.is_dir()
            except OSError as error:  # such as a link to itself
                problems[printable(name)] = f"cannot be read ({error.strerror})"
                continue
            if entry.name.startswith(".") or not (folder or entry.name.endswith(SUFFIX)):
                continue
            if not is_utf8(name):
                problems[printable(name)] = "its name is not UTF-8; rename it"
            elif folder:
                folders[entry.name] = self.root / entry.name / ADAPTER
            else:
                files[name] = self.root / entry.name
        paths = {**files, **folders}
        if paths.pop(RESERVED, None):
            problems[RESERVED] = "the server needs this name for itself; rename the model"
        return paths

    def _load(self, name: str, path: Path, stamp: Stamp) -> None:
        self._read[name] = stamp
        try:
            data = read_bounded(path, ADAPTER_FILE)
            if _stamp(path) != stamp:  # it is still being written
                del self._read[name]
                return
            old = self.models.get(name)
            if old is None or old.digest != bytes_digest(data):
                self._replace(name, self._version(name, path, data))
            self._file_problems.pop(name, None)
        except OSError as error:
            self._file_problems[name] = f"{path.name}: cannot be read ({error.strerror or 'damaged'})"
        except VitadaptError as error:
            self._file_problems[name] = public(str(error))
        except (RuntimeError, MemoryError) as error:  # torch raises the former when there is no memory
            self._file_problems[name] = f"cannot be loaded ({public(str(error)) or 'too little memory'})"

    def _version(self, name: str, file: Path, data: bytes, upload: bool = False) -> ModelVersion:
        """A version that is ready to answer. Raises WeightsError, and what `load_backbone` raises."""
        self._serial += 1
        key = f"{name}@{self._serial}"
        info, _ = read_adapter(file.name, data)
        group = self._groups.get(group_key(info))
        if group is None:
            if upload:
                where = f"{public(info.backbone)}, digest {info.base}, {info.image_size} pixels"
                remedy = "put such an adapter into the folder on the server itself"
                raise WeightsError(f"stands on a backbone that is not served here ({where}); {remedy}")
            group = ModelGroup(*self._backbone_of(info, file), self.setting, self.resident)
        group.add(key, file.name, data)
        self._groups[group_key(info)] = group
        return ModelVersion(name, key, bytes_digest(data), info, file, len(data), group)

    def _backbone_of(self, info: AdapterInfo, file: Path) -> tuple[Backbone, str]:
        """The backbone of the adapter in `file`, and its digest."""
        if self.backbone is not None:
            backbone, base = cached_backbone(self.backbone, info.image_size, self.setting.device)
            if base == info.base:
                return backbone, base
        return cached_backbone(find_backbone(info.backbone, file), info.image_size, self.setting.device)

    def _replace(self, name: str, version: ModelVersion | None) -> None:
        """Let `name` stand for `version` (None: nothing) from now on."""
        with self._lock:
            models = dict(self.models)
            old = models.pop(name, None)
            self.models = dict(sorted({**models, **({name: version} if version else {})}.items()))
            if old is not None:
                old.retired = True
            unused = old if old is not None and not old.users else None
        if unused is not None:
            unused.group.remove(unused.key)
        self._file_problems.pop(name, None)
        if version is None:
            self._read.pop(name, None)
            if old is None:
                return
        self.changes += 1
        change = f"{'replaced' if old else 'added'} ({len(version.info.classes)} classes)" if version else "removed"
        self._log(printable(f"{name}: {change}"))
        used = [one.group for one in self.models.values()]
        self._groups = {key: group for key, group in self._groups.items() if group in used}

    # ---- over HTTP

    def upload(self, name: str, data: bytes) -> tuple[ModelVersion, bool]:
        """Check, store and serve an adapter -> it, and whether the name is new. Raises Refusal, WeightsError,
        ConfigError for an impossible name, StorageError.
        """
        if not _NAME.fullmatch(name) or name.endswith(SUFFIX) or name == RESERVED or len(name.encode()) > _NAME_BYTES:
            raise ConfigError(f"{name[:100]!r} cannot be a model's name: up to 100 letters, digits, blanks, . _ + -")
        self._require_changeable(name)
        new = name not in self.models
        if new and len(self.models) >= self.max_models:
            raise Refusal(409, "too_many_models", f"{self.max_models} models are served already; remove one first")
        path = self.root / f"{name}{SUFFIX}"
        version = self._version(name, path, data, upload=True)
        try:
            write_atomic(path, data)
            self._read[name] = _stamp(path)
        except (StorageError, OSError):
            version.group.remove(version.key)
            raise
        self._replace(name, version)
        return version, new

    def remove(self, name: str) -> None:
        """Stop serving `name` and delete its file. Raises UnknownModel, Refusal, StorageError."""
        if name not in self.models and name not in self._file_problems:
            raise unknown_model(name, self.models)
        self._require_changeable(name)
        path = self.root / f"{name}{SUFFIX}"
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        self._replace(name, None)

    def _require_changeable(self, name: str) -> None:
        if self.single:
            raise Refusal(409, "one_model", "this server serves one model; start it on a folder of them to change them")
        if (self.root / name).is_dir():
            raise Refusal(409, "is_a_folder", "this model is a folder on the server; change it there")


def _is_single(root: Path) -> bool:
    """Is it one model rather than a folder of them? In such a folder a model may well be called "adapter"."""
    return root.is_file() or {path.name for path in root.glob(f"[!.]*{SUFFIX}")} - {STATISTICS} == {ADAPTER}


def _stamp(path: Path) -> Stamp:
    """Raises OSError."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
