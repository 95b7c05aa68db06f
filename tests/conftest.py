"""One thread for every test: sums are then always added in the same order, and tests can run side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def native_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict]]:
    """name -> (a tiny copy in its publisher's layout, made once and not to be changed; the truth about it)."""
    from native_cases import CASES

    made: dict[str, tuple[Path, dict]] = {}

    def copy(name: str) -> tuple[Path, dict]:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            made[name] = root, CASES[name](root)
        return made[name]

    return copy
