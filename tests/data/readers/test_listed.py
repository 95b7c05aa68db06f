"""Pictures of packages by our own lists: found, read in full, apart, and refused by name when one is missing."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitadapt.data import open_dataset
from vitadapt.data.datasets import catalog
from vitadapt.data.readers.listed import listing
from vitadapt.utils.errors import DataError

ROWS = {name: options for name, row in catalog().items() for options in row.sources if options["reader"] == "listed"}


@pytest.fixture(params=ROWS)
def copy(request, tmp_path):
    """(name of the row, data root) with every picture of the list, a different one each."""
    name, options = request.param, ROWS[request.param]
    for number, (path, _, _) in enumerate(listing(options["list"])):
        target = tmp_path / options["folders"][0] / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((1, 1, 3), (number % 256, number // 256, 0), np.uint8)).save(target)
    return name, tmp_path


def test_the_list_is_read_with_its_classes_and_splits(copy):
    name, root = copy
    lines = listing(ROWS[name]["list"])
    assert len({path for path, _, _ in lines}) == len(lines)  # no picture on both sides
    dataset = open_dataset(name, root)
    assert Counter(split for _, _, split in lines) == catalog()[name].sizes
    below = f"{ROWS[name]['folders'][0]}/"
    read = [
        (ref.name.split(below)[1], dataset.classes[label], split)
        for split, part in dataset.splits.items()
        for ref, label in zip(part.refs, part.labels.tolist(), strict=True)
    ]
    assert read == sorted(read, key=lambda line: ("train", "test").index(line[2])) and sorted(read) == sorted(lines)


def test_a_missing_picture_names_itself_and_the_package(copy):
    name, root = copy
    options = ROWS[name]
    last = Path(root, options["folders"][0], listing(options["list"])[-1][0])
    last.unlink()
    with pytest.raises(DataError, match=f"{last.name} is missing; install {options['package']}"):
        open_dataset(name, root)
