"""Labels of whole pictures from annotation tools: Label Studio (JSON, JSON-MIN), CVAT (images 1.1) and COCO files.

Boxes, masks, texts and answers to several questions are refused: they are not labels of pictures. Paths are looked for
below the folder of the file alone, or below `images` there; what a tool puts before them (its upload folder, the root
of its local files) is left out, the same number of leading folders for all pictures.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ...utils.errors import DataError, damaged, first_few
from ...utils.files import parse_json
from ...utils.limits import LIST_FILE
from ..examples import Dataset
from ..images import SUFFIXES as PICTURES
from ..sampling.splits import SPLITS
from .csv_table import Line, dataset_of
from .helpers import bytes_of, xml_of

SUFFIXES = (".json", ".xml")
_MIN_FIELDS = frozenset(
    {"id", "annotator", "annotation_id", "annotation_history", "created_at", "updated_at", "lead_time", "agreement"}
)  # what Label Studio adds to each row of JSON-MIN
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
_DEFAULT = ("", "default")  # CVAT's subset of pictures without one
_TOOLS = "a Label Studio export (JSON or JSON-MIN), a COCO file, or CVAT for images 1.1 (XML)"
Labels = tuple[str, ...]
Answers = list[tuple[str, str, str, list[Labels]]]  # where, the tool's path, split, the labels by each annotator


def read_annotations(path: Path, whole: bool = False) -> Dataset:
    """The labelled pictures of an export, in its order; those without a label, or with contradicting ones, are left out
    with a note. `whole`: as `read_folder`. Raises DataError for anything that is not a label of a picture, for files
    that are missing, and as `read_table`.
    """
    answers = _cvat(path) if path.suffix.lower() == ".xml" else _json(path)
    files = _located(path, [name for _, name, _, _ in answers])
    agreed = [{tuple(sorted(set(labels))) for labels in by if labels} for *_, by in answers]
    rows = list(zip(answers, files, agreed, strict=True))
    lines = [Line(where, file, next(iter(by)), split) for (where, _, split, _), file, by in rows if len(by) == 1]
    unlabelled = sum(not by for by in agreed)
    contradicting = [file for file, by in zip(files, agreed, strict=True) if len(by) > 1]
    if not lines:
        raise DataError(f"{path} has no picture with a label; label some, and export again")
    several = any(len(line.labels) > 1 for line in lines)
    notes = [f"{unlabelled} pictures without a label are left out"] if unlabelled else []
    doubts: tuple[str, ...] = ()
    if contradicting:
        doubts = (
            f"{len(contradicting)} pictures, whose annotators disagree, are left out: {first_few(contradicting)}",
        )
    return dataset_of(path, lines, (), several, whole, notes, doubts)


def _json(path: Path) -> Answers:
    with damaged(path, "export it again", DataError, "is not valid JSON"):
        content = parse_json(bytes_of(path, LIST_FILE))
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        with damaged(path, "export it again", DataError, "is not a Label Studio export"):
            return _tasks(path, content) if "data" in content[0] else _rows(path, content)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        with damaged(path, "export it again", DataError, "is not a COCO file"):
            return _coco(path, content)
    raise DataError(f"{path} is none of the files of labels that are read: {_TOOLS}")


def _tasks(path: Path, tasks: Sequence[Mapping[str, Any]]) -> Answers:
    """Label Studio's JSON: every task with the results of its annotations."""
    found, questions = Answers(), set[str]()
    for number, task in enumerate(tasks, start=1):
        where = f"task {task.get('id', number)}"  # tasks that were never imported have no number
        made = [one for one in task.get("annotations", ()) if not one.get("was_cancelled")]
        true = [one for one in made if one.get("ground_truth")]
        by = [tuple(_choices(f"{path}: {where}", one["result"], questions)) for one in true or made]
        found.append((where, _picture(f"{path}: {where}", task["data"]), "train", by))
    _one_question(path, questions)
    return found


def _choices(where: str, results: Sequence[Mapping[str, Any]], questions: set[str]) -> Iterator[str]:
    for result in results:
        if result["type"] != "choices" or result["value"].keys() != {"choices"}:
            raise DataError(
                f"{where} has {result['type']} of a part of the picture; only <Choices> of the whole are read"
            )
        questions.add(result["from_name"])
        yield from map(str, result["value"]["choices"])


def _rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Answers:
    """Label Studio's JSON-MIN: one row per annotation."""
    by: dict[str, list[Labels]] = defaultdict(list)
    where: dict[str, str] = {}
    questions = set[str]()
    for row in rows:
        place = f"task {row['id']}"
        name = _picture(f"{path}: {place}", row)
        where.setdefault(name, place)
        by[name] += []
        for key, answer in row.items():
            if key in _MIN_FIELDS or answer == name:
                continue
            questions.add(key)
            labels = answer["choices"] if isinstance(answer, dict) and answer.keys() == {"choices"} else [answer]
            if not all(isinstance(label, str) for label in labels):
                raise DataError(f"{path}: {place}: {key} is no choice for the whole picture; only <Choices> are read")
            by[name].append(tuple(labels))
    _one_question(path, questions)
    return [(where[name], name, "train", found) for name, found in by.items()]


def _one_question(path: Path, questions: set[str]) -> None:
    if len(questions) > 1:
        named = ", ".join(sorted(questions))
        raise DataError(f"{path} has more than the answers to one question ({named}); export one, or as JSON")


def _picture(where: str, data: Mapping[str, Any]) -> str:
    """The one value that is the path of a picture."""
    found = [text for text in data.values() if isinstance(text, str) and _suffix(text) in PICTURES]
    if len(found) != 1:
        raise DataError(f"{where} has {len(found)} pictures ({first_few(list(map(str, data)))}); one is read")
    return found[0]


def _suffix(text: str) -> str:
    return PurePosixPath(_path_of(text)).suffix.lower()


def _cvat(path: Path) -> Answers:
    """CVAT for images 1.1: pictures with tags."""
    root = xml_of(path, LIST_FILE)
    if root.tag != "annotations" or root.find("track") is not None:
        raise DataError(f"{path} is no file of labelled pictures; export 'CVAT for images 1.1'")
    found = Answers()
    for image in root.findall("image"):
        where = f"image {image.get('id')}"
        if shapes := sorted({child.tag for child in image} - {"tag"}):
            raise DataError(f"{path}: {where} has {', '.join(shapes)}; only tags of whole pictures are read")
        split = image.get("subset", "").lower()
        if split not in SPLITS and split not in _DEFAULT:
            raise DataError(f"{path}: {where} is in the subset {split!r}; call subsets train, val and test")
        labels = tuple(tag.get("label") or "" for tag in image)
        found.append((where, image.get("name") or "", SPLITS.get(split, "train"), [labels]))
    return found


def _coco(path: Path, content: Mapping[str, Any]) -> Answers:
    """COCO: pictures, categories, and annotations without a place in the picture."""
    categories = {row["id"]: str(row["name"]) for row in content["categories"]}
    labels: dict[Any, list[str]] = {row["id"]: [] for row in content["images"]}
    if len(labels) < len(content["images"]) or len(categories) < len(content["categories"]):
        raise DataError(f"{path} gives an id twice; export it again")
    for row in content["annotations"]:
        where = f"{path}: annotation {row['id']}"
        if shapes := [key for key in ("bbox", "segmentation", "keypoints", "caption") if row.get(key)]:
            raise DataError(f"{where} has a {shapes[0]}; only categories of whole pictures are read")
        if row["image_id"] not in labels or row["category_id"] not in categories:
            raise DataError(f"{where} is of a picture or category that is not there; export it again")
        labels[row["image_id"]].append(categories[row["category_id"]])
    images = ((f"image {row['id']}", str(row["file_name"]), labels[row["id"]]) for row in content["images"])
    return [(where, name, "train", [tuple(own)]) for where, name, own in images]


def _located(path: Path, names: Sequence[str]) -> list[str]:
    """The file of every picture, relative to the folder of `path`. Raises DataError naming those that are not there."""
    if remote := [name for name in names if "://" in name or name.startswith("data:")]:
        raise DataError(
            f"{path} names pictures that are not files ({first_few(remote)}); download them and give their paths"
        )
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"{path} names {twice} twice; keep one of them")
    paths = [PurePosixPath(_path_of(name).lstrip("/")) for name in names]
    if outside := [str(one) for one in paths if ".." in one.parts or not one.parts]:
        raise DataError(f"{path} names pictures outside its folder ({first_few(outside)}); move it above them")
    views: list[Callable[[PurePosixPath], PurePosixPath]] = []
    for start in range(min(len(one.parts) for one in paths)):
        views.append(lambda one, start=start: PurePosixPath(*one.parts[start:]))  # type: ignore[misc]
    views.append(lambda one: PurePosixPath(_UPLOADED.sub("", one.name, count=1)))
    best: list[str] | None = None
    for view in views:
        for below in ("", "images"):
            found = [str(below / view(one)) for one in paths]
            missing = [name for name in found if not os.path.isfile(path.parent / name)]
            if not missing:
                return found
            best = min(filter(None, [best, missing]), key=len)
    assert best is not None
    raise DataError(f"{path} names pictures that are not in {path.parent}: {first_few(best)}; move it to their folder")


def _path_of(text: str) -> str:
    """The path of a picture: that of Label Studio's local files stands in a query."""
    if text.startswith("/data/local-files/?"):
        return parse_qs(urlsplit(text).query).get("d", [""])[0]
    return unquote(text) if text.startswith("/data/upload/") else text
