"""Features in a file: .npz for NumPy, .parquet for tables. Written batch by batch, so that memory does not grow.

Both hold, for every image, `path`, `label` (several are joined by |), `split` (both empty where there are none) and
`features` (E,) float32, and a JSON object that says which network made them (in the .npz file as `about`).
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..utils.atomic import atomic_file, make_folder
from ..utils.errors import ConfigError, StorageError, damaged
from ..utils.files import parse_json, storage_error
from ..utils.optional import package

FORMAT = "vitadapt-features/1"
SUFFIXES = (".npz", ".parquet")
_COLUMNS = ("path", "label", "split")
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class FeaturesInfo:
    """Which network made the features: its name, its digest (`Embedder.digest`), and the image size in pixels."""

    network: str
    digest: str
    image_size: int
    width: int
    format: str = FORMAT


@dataclass(frozen=True)
class FeaturesFile:
    """What such a file holds: N paths, labels, splits and features (N, E)."""

    info: FeaturesInfo
    path: Sequence[str]
    label: Sequence[str]
    split: Sequence[str]
    features: np.ndarray


class Writer(Protocol):
    """Takes the rows in order."""

    def add(self, columns: dict[str, list[str]], features: np.ndarray) -> None:
        """`columns`: path, label and split of n images; features (n, E)."""


def check_target(path: Path, overwrite: bool = False) -> None:
    """Raises ConfigError for another suffix, WeightsError without pyarrow, StorageError when something is there."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: end the name in .npz or .parquet")
    if path.suffix.lower() == ".parquet":
        _parquet()
    if path.is_dir() or (path.exists() and not overwrite):
        raise StorageError(f"{path} is there already; add --overwrite, or choose another --out")


@contextmanager
def features_writer(path: Path, info: FeaturesInfo) -> Iterator[Writer]:
    """A writer of the file `path`: whole when the block ends, absent after an error. Raises StorageError."""
    try:
        make_folder(path.parent)
        with atomic_file(path) as file:
            writing = _writes_npz(file, info) if path.suffix.lower() == ".npz" else _writes_parquet(file, info)
            with writing as writer:
                yield writer
    except OSError as error:
        raise storage_error(path, error) from error


class _NpzWriter:
    """Features go to a temporary file, because the header of an array tells its length."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.count = rows, 0
        self.columns: dict[str, list[str]] = {name: [] for name in _COLUMNS}

    def add(self, columns: dict[str, list[str]], features: np.ndarray) -> None:
        for name, values in columns.items():
            self.columns[name] += values
        self.rows.write(np.ascontiguousarray(features, dtype="<f4").tobytes())
        self.count += len(features)


@contextmanager
def _writes_npz(file: Any, info: FeaturesInfo) -> Iterator[Writer]:
    with tempfile.TemporaryFile() as rows:
        writer = _NpzWriter(rows)
        yield writer
        rows.seek(0)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("features.npy", "w", force_zip64=True) as member:
                shape = {"descr": "<f4", "fortran_order": False, "shape": (writer.count, info.width)}
                np.lib.format.write_array_header_1_0(member, shape)
                shutil.copyfileobj(rows, member, _BLOCK)
            arrays = {name: np.array(values, dtype=str) for name, values in writer.columns.items()}
            for name, array in {**arrays, "about": np.array(json.dumps(asdict(info)))}.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array, allow_pickle=False)
                archive.writestr(f"{name}.npy", buffer.getvalue())


class _ParquetWriter:
    def __init__(self, table: Any, schema: Any) -> None:
        self.table, self.schema = table, schema

    def add(self, columns: dict[str, list[str]], features: np.ndarray) -> None:
        arrow, _ = _parquet()
        flat = arrow.array(np.ascontiguousarray(features, dtype=np.float32).reshape(-1))
        lists = arrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
        texts = [arrow.array(columns[name], arrow.string()) for name in _COLUMNS]
        self.table.write_batch(arrow.record_batch([*texts, lists], schema=self.schema))


@contextmanager
def _writes_parquet(file: Any, info: FeaturesInfo) -> Iterator[Writer]:
    arrow, parquet = _parquet()
    fields = [(name, arrow.string()) for name in _COLUMNS]
    vector = arrow.list_(arrow.float32(), info.width)
    about = {"vitadapt": json.dumps(asdict(info))}
    schema = arrow.schema([*fields, ("features", vector)], metadata=about)
    with parquet.ParquetWriter(file, schema) as table:
        yield _ParquetWriter(table, schema)


def _parquet() -> tuple[Any, Any]:
    """pyarrow and its reader of Parquet. Raises WeightsError naming the extra."""
    return package("pyarrow", "parquet"), package("pyarrow.parquet", "parquet")


def read_features(path: Path) -> FeaturesFile:
    """What `features_writer` wrote. Raises StorageError for a file that is damaged, or none of these."""
    read = _read_npz if path.suffix.lower() == ".npz" else _read_parquet
    if path.suffix.lower() == ".parquet":
        _parquet()
    with damaged(path, "make it again with 'vitadapt embed'", StorageError, "is no whole file of features"):
        columns, features, about = read(path)
        info = FeaturesInfo(**parse_json(about))
        sizes = {len(features), *(len(values) for values in columns.values())}
        if info.format != FORMAT or features.shape[1:] != (info.width,) or len(sizes) != 1:
            raise ValueError(f"not of the format {FORMAT}")
    return FeaturesFile(info, columns["path"], columns["label"], columns["split"], features)


def _read_npz(path: Path) -> tuple[dict[str, list[str]], np.ndarray, str]:
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        columns = {name: [str(value) for value in file[name]] for name in _COLUMNS}
        features = np.asarray(file["features"], dtype=np.float32)
        return columns, features, str(file["about"])


def _read_parquet(path: Path) -> tuple[dict[str, list[str]], np.ndarray, str]:
    _, parquet = _parquet()
    table = parquet.read_table(path)
    columns = {name: [str(value) for value in table[name].to_pylist()] for name in _COLUMNS}
    vectors = table["features"].combine_chunks()
    flat = np.asarray(vectors.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    features = flat.reshape(len(table), vectors.type.list_size)
    return columns, features, table.schema.metadata[b"vitadapt"].decode()
