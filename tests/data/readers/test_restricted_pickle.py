"""CIFAR's pickles: arrays, texts and lists are read, and nothing that a pickle asks for is run."""

from __future__ import annotations

import builtins
import codecs
import io
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitadapt.data import open_dataset
from vitadapt.data.readers.restricted_pickle import read_pickle
from vitadapt.utils.errors import DataError

Original = Callable[[str], tuple[Path, dict]]
C10 = "cifar-10-batches-py"


class Evil:
    """A pickle of this runs code when it is opened without care."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple:
        return self.made


EVIL = {
    "a shell": Evil(os.system, "true"),
    "a builtin": Evil(builtins.eval, "1"),
    "a getter": Evil(builtins.getattr, "x", "upper"),
    "a file": Evil(builtins.open, "/dev/null"),
    "a numpy loader": Evil(np.fromfile, "/dev/null"),
    "an object array": np.array([{}, 1], dtype=object),
    "a record array": np.zeros(2, dtype=[("a", "u1")]),
    "a codec": Evil(codecs.encode, "x", "rot13"),
    "another class": threading.Event,
}


@pytest.mark.parametrize("what", EVIL)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_asks_for_more_than_arrays_is_refused(what: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": EVIL[what]}, protocol))
    with pytest.raises(DataError, match=r"data_batch_1 asks for .*, which data never needs; do not trust this file"):
        read_pickle(path)


def test_a_refused_pickle_runs_nothing(tmp_path: Path, native_copy: Original) -> None:
    root, proof = tmp_path / "root", tmp_path / "proof"
    shutil.copytree(native_copy("cifar-10")[0], root)
    batch = root / C10 / "data_batch_5"
    batch.write_bytes(pickle.dumps({"data": Evil(Path.touch, proof)}, 2))
    with pytest.raises(DataError, match="do not trust this file"):
        open_dataset("cifar-10", root)
    assert not proof.exists()
    pickle.loads(batch.read_bytes())  # noqa: S301 (harmless, and the proof that the one above was not)
    assert proof.exists()  # so it would have run


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">f4", "?"])
def test_pickles_of_arrays_texts_and_lists_are_read(protocol: int, dtype: str, tmp_path: Path) -> None:
    array = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype))
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": array, "labels": [1, 2], "name": "x", "empty": b"\xff"}, protocol))
    table = read_pickle(path)
    assert table["data"].dtype == array.dtype and np.array_equal(table["data"], array)
    assert (table["labels"], table["name"], table["empty"]) == ([1, 2], "x", b"\xff")


def test_a_pickle_as_python_2_wrote_it(tmp_path: Path) -> None:
    """Texts are byte strings there (opcode U), also those that hold the pixels."""
    state = (1, (2, 3), np.dtype("u1"), False, b"\x00\x01\x7f\x80\xfe\xff")
    out = io.BytesIO()
    out.write(b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R")
    out.write(
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    )
    out.write(b"K\x00tb\x89U\x06" + state[4] + b"tbs.")
    (tmp_path / "batch").write_bytes(out.getvalue())
    assert read_pickle(tmp_path / "batch")["data"].tolist() == [[0, 1, 127], [128, 254, 255]]
