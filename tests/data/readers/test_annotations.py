"""Exports of annotation tools: the labels that they hold, and what is refused by name because it labels no picture."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitadapt.data import Dataset, open_dataset
from vitadapt.utils.errors import ConfigError, DataError

LABELS = {"photos/a 1.png": "cat", "photos/b.png": "dog", "photos/c.png": "cat", "photos/d.png": "dog"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i, name in enumerate([*LABELS, "photos/none.png"]):
        Image.new("RGB", (2, 2), (i, i, i)).save(tmp_path / name)
    return tmp_path


def task(number: int, name: str, *labels: str, place: str = "/data/local-files/?d=home/me/") -> dict[str, Any]:
    """As Label Studio 1.15 exports it."""
    value = {"choices": list(labels)}
    result = {"value": value, "id": "x", "from_name": "choice", "to_name": "image", "type": "choices"}
    made = {"id": 1, "completed_by": 1, "result": [result] if labels else [], "was_cancelled": False}
    made |= {"ground_truth": False}
    data = {"image": f"{place}{name.replace(' ', '%20')}"}
    return {"id": number, "annotations": [made], "predictions": [], "data": data, "meta": {}, "project": 1}


def tasks() -> list[dict[str, Any]]:
    return [task(i, name, label) for i, (name, label) in enumerate(LABELS.items(), start=1)]


def rows() -> list[dict[str, Any]]:
    found = zip(tasks(), LABELS.values(), strict=True)
    return [{"image": one["data"]["image"], "id": one["id"], "choice": label, "annotator": 1} for one, label in found]


def coco() -> dict[str, Any]:
    categories = [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}]
    numbers = {"dog": 7, "cat": 9}
    images = [{"id": i, "file_name": Path(name).name, "width": 2, "height": 2} for i, name in enumerate(LABELS)]
    marks = [
        {"id": 50 + i, "image_id": i, "category_id": numbers[label], "bbox": [], "segmentation": [], "area": 0}
        for i, label in enumerate(LABELS.values())
    ]
    return {"info": {}, "licenses": [], "images": images, "annotations": marks, "categories": categories}


def cvat(inside: str = '<tag label="{label}" source="manual"></tag>') -> str:
    images = "".join(
        f'<image id="{i}" name="{name}" width="2" height="2">{inside.format(label=label)}</image>'
        for i, (name, label) in enumerate(LABELS.items())
    )
    return f"<annotations><version>1.1</version><meta><task/></meta>{images}</annotations>"


def write(folder: Path, content: Any, name: str = "export.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def labels_of(dataset: Dataset) -> dict[str, str]:
    part = dataset.splits["train"]
    return {Path(ref.name).name: dataset.classes[label] for ref, label in zip(part.refs, part.labels, strict=True)}


EXPORTS = {"label studio": tasks, "json-min": rows, "coco": coco}


@pytest.mark.parametrize("tool", [*EXPORTS, "cvat"])
def test_every_picture_has_the_label_that_it_was_given(tool: str, folder: Path) -> None:
    path = write(folder, cvat(), "export.xml") if tool == "cvat" else write(folder, EXPORTS[tool]())
    if tool == "coco":  # whose file names may be those of the folder beside it, or of `images`
        (folder / "photos").rename(folder / "images")
    dataset = open_dataset(path, whole=True)
    assert dataset.classes == ("cat", "dog") and dataset.name == "export" and dataset.notes == ()
    assert labels_of(dataset) == {Path(name).name: label for name, label in LABELS.items()}
    assert all(ref.read().size == (2, 2) for ref in dataset.splits["train"].refs)


def test_uploaded_files_are_found_with_and_without_the_digits_before_their_name(folder: Path) -> None:
    uploaded = {f"0a1b2c3{i}-{Path(name).name}": name for i, name in enumerate(LABELS)}
    content = [task(i, name, LABELS[old], place="/data/upload/1/") for i, (name, old) in enumerate(uploaded.items())]
    path = write(folder / "photos", content)
    assert labels_of(open_dataset(path, whole=True)) == {Path(n).name: label for n, label in LABELS.items()}
    for name, old in uploaded.items():
        (folder / old).rename(folder / "photos" / name)
    assert labels_of(open_dataset(path, whole=True)) == {name: LABELS[old] for name, old in uploaded.items()}


def test_pictures_without_a_label_or_with_contradicting_ones_are_left_out_and_told(folder: Path) -> None:
    content = [*tasks(), task(9, "photos/none.png")]
    content[3]["annotations"] += [copy.deepcopy(content[2]["annotations"][0])]  # dog, and cat
    content[2]["annotations"] += [copy.deepcopy(content[2]["annotations"][0])]  # cat twice
    content[1]["annotations"] += [{**copy.deepcopy(content[0]["annotations"][0]), "was_cancelled": True}]
    dataset = open_dataset(write(folder, content), whole=True)
    assert labels_of(dataset) == {"a 1.png": "cat", "b.png": "dog", "c.png": "cat"}
    assert [note.split(",")[0] for note in dataset.notes] == ["1 pictures without a label are left out", "1 pictures"]
    (doubt,) = dataset.doubts
    assert "d.png" in doubt
    content[3]["annotations"][0]["ground_truth"] = True
    assert labels_of(open_dataset(write(folder, content), whole=True))["d.png"] == "dog"


def test_several_labels_and_subsets_are_kept(folder: Path) -> None:
    content = tasks()
    content[0]["annotations"][0]["result"][0]["value"]["choices"] = ["dog", "cat"]
    dataset = open_dataset(write(folder, content), whole=True)
    assert dataset.splits["train"].labels.tolist() == [[1, 1], [0, 1], [1, 0], [0, 1]]
    text = cvat().replace('id="0"', 'id="0" subset="Test"').replace('id="1"', 'id="1" subset="default"')
    parts = open_dataset(write(folder, text, "export.xml"), whole=True).splits
    assert (len(parts["test"]), len(parts["train"])) == (1, 3)


def changed(make: Any, *keys: Any, to: Any) -> Any:
    content = make()
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return content


BOX = {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["cat"]}
RESULT = (0, "annotations", 0, "result", 0)
REFUSED = {
    "a box": (
        changed(tasks, *RESULT, to={**task(1, "x", "y")["annotations"][0]["result"][0], "type": "rectanglelabels"}),
        "rectanglelabels",
    ),
    "a choice for a part": (changed(tasks, *RESULT, "value", to={"choices": ["cat"], "x": 1}), "part of the picture"),
    "two questions": (changed(tasks, *RESULT, "from_name", to="other"), "choice, other"),
    "two questions in rows": (changed(rows, 0, "weather", to="fine"), "choice, weather"),
    "a box in rows": (changed(rows, 0, "choice", to=[BOX]), "no choice"),
    "no picture": (changed(tasks, 0, "data", to={"text": "hello"}), "0 pictures"),
    "an address": (changed(tasks, 0, "data", "image", to="https://x.org/1.png"), "download"),
    "a cloud": (changed(tasks, 0, "data", "image", to="s3://bucket/1.png"), "download"),
    "no file": (changed(tasks, 0, "data", "image", to="/data/local-files/?d=home/me/photos/z.png"), "z.png"),
    "outside": (changed(tasks, 0, "data", "image", to="/data/local-files/?d=../secret.png"), "outside"),
    "a path twice": (changed(tasks, 0, "data", "image", to=tasks()[1]["data"]["image"]), "twice"),
    "a box in COCO": (changed(coco, "annotations", 0, "bbox", to=[0, 0, 1, 1]), "bbox"),
    "a mask in COCO": (changed(coco, "annotations", 0, "segmentation", to=[[0, 0, 1, 1]]), "segmentation"),
    "an unknown category": (changed(coco, "annotations", 0, "category_id", to=1), "not there"),
    "an id twice": (changed(coco, "images", 0, "id", to=1), "twice"),
    "no COCO row": (changed(coco, "images", 0, to="x"), "COCO"),
    "no task": (changed(tasks, 0, to={"data": 1}), "Label Studio"),
    "another object": ({"a": 1}, "Label Studio export"),
    "no label at all": ([task(1, "photos/b.png")], "no picture with a label"),
    "no JSON": ("{", "JSON"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_label_of_a_picture_is_refused_by_name(what: str, folder: Path) -> None:
    content, words = REFUSED[what]
    with pytest.raises(DataError, match=words):
        open_dataset(write(folder, content), whole=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (cvat('<box label="{label}" xtl="0" ytl="0" xbr="1" ybr="1"/>'), "box"),
        (cvat().replace('id="0"', 'id="0" subset="mine"'), "mine"),
        ("<annotations><track/></annotations>", "images 1.1"),
        ("<annotation/>", "images 1.1"),
        ('<!DOCTYPE a [<!ENTITY x "y">]>' + cvat(), "declarations"),
        ("<annotations>", "XML"),
    ],
)
def test_other_xml_is_refused_by_name(text: str, words: str, folder: Path) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(write(folder, text, "export.xml"), whole=True)


def test_a_separator_is_for_tables_alone(folder: Path) -> None:
    with pytest.raises(ConfigError, match="CSV"):
        open_dataset(write(folder, tasks()), separator="|")
