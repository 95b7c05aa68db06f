"""PASCAL VOC: image lists per split and an XML file of objects per image; an image has the class of every object.

Options: `lists` (split -> list of image ids), `objects` and `images` (folders), `classes` and `difficult`: what an
image is for a class of which it shows only objects marked difficult. The original challenge left such images out of a
class's evaluation; here "negative" (the default) does not count those objects, and "positive" counts them.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ...utils.errors import ConfigError, DataError
from ...utils.limits import ANNOTATION_FILE
from ..archives import check_member
from ..examples import Examples
from .helpers import Stored, file_refs, lines_of, register, xml_of
from .reader import Options

_DIFFICULT = {"negative": False, "positive": True}


def load(folder: Path, options: Options) -> Stored:
    """Multi-hot labels (N, C). Raises DataError for missing or damaged files and for an object of an unknown class."""
    rule, classes = options.get("difficult", "negative"), tuple(options["classes"])
    if rule not in _DIFFICULT:
        raise ConfigError(f"difficult = {rule!r} is unknown; write {' or '.join(_DIFFICULT)}")
    splits = {}
    for split, below in options["lists"].items():
        index = folder / below
        names = [line.split()[0] for _, line in lines_of(index)]
        refs = file_refs(index, folder / options["images"], (f"{name}.jpg" for name in names))
        labels = np.zeros((len(names), len(classes)), dtype=np.uint8)
        for row, name in enumerate(names):
            path = folder / options["objects"] / check_member(index, f"{name}.xml")
            labels[row, places_of(path, classes, _DIFFICULT[rule])] = 1
        splits[split] = Examples(refs, labels)
    counted = "present" if _DIFFICULT[rule] else "absent"
    return Stored(splits, classes, (f"objects marked difficult count as {counted}",))


def places_of(path: Path, classes: tuple[str, ...], difficult_too: bool) -> list[int]:
    """The classes of the objects in the XML file. Raises DataError when it is damaged or names an unknown class."""
    found = []
    for item in objects(path):
        name = (item.findtext("name") or "").strip()
        if name not in classes:
            raise DataError(f"{path} has an object of the unknown class {name!r}; get the data again")
        if difficult_too or (item.findtext("difficult") or "0").strip() != "1":
            found.append(classes.index(name))
    return found


def objects(path: Path) -> list[ElementTree.Element]:
    """The objects at the top of an annotation. Raises DataError when it is not one."""
    root = xml_of(path, ANNOTATION_FILE)
    if root.tag != "annotation":
        raise DataError(f"{path} is not an annotation; get the data again")
    return root.findall("object")


register("voc", load)
