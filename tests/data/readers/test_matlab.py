"""MATLAB files: what is read, and that a damaged one ends no process of ours."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from vitadapt.data.readers.matlab import read_mat, whole_numbers
from vitadapt.utils.errors import DataError


def test_matlab_files_are_read_in_a_process_that_may_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    path, records = tmp_path / "x.mat", np.array([[("1.jpg", 3), ("2.jpg", 4)]], dtype=[("name", "O"), ("class", "O")])
    table = {
        "row": np.arange(5),
        "f": np.array([[1.5, 2], [3, 4]]),
        "cells": np.array(["cat", "dög", ""], dtype=object),
        "text": "abc",
        "none": np.empty((0, 0)),
        "records": records,
    }
    expected = [[0, 1, 2, 3, 4], [[1.5, 2], [3, 4]], ["cat", "dög", ""], "abc", []]
    expected.append({"name": ["1.jpg", "2.jpg"], "class": [[3], [4]]})
    for compressed in (False, True):
        savemat(path, table, do_compression=compressed)
        found = read_mat(path, *table)
        assert found == expected
        monkeypatch.setattr("vitadapt.data.readers.matlab._CHECKED", {hashlib.md5(path.read_bytes()).hexdigest()})
        assert read_mat(path, *table) == expected  # what was published is read in this process
        monkeypatch.undo()
    assert whole_numbers(path, "row", found[0]).tolist() == expected[0]
    assert whole_numbers(path, "class", found[5]["class"]).tolist() == [3, 4]
    for value in (found[1], found[3], [1.5], [float("nan")], [float("inf")], [[1, 2]], None):
        with pytest.raises(DataError, match="is not a list of whole numbers"):
            whole_numbers(path, "f", value)
    whole = path.read_bytes()
    for torn in (whole[:-9], whole[:150], b"", whole[:132] + b"\xff" * 8 + whole[140:]):
        path.write_bytes(torn)
        with pytest.raises(DataError, match=r"x\.mat is not a readable MATLAB file"):
            read_mat(path, "row")
