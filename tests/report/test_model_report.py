"""The page about a fitted model: whole in one file, true to its numbers, harmless whatever the names are."""

from __future__ import annotations

import base64
import hashlib
import io
import re

import numpy as np
import pytest
from page_cases import IMAGE, SCRIPT, Elements, fitted
from PIL import Image

from vitadapt.data.examples import FileRef, ImageObjectRef
from vitadapt.metrics.learning_curve import fit_curve
from vitadapt.metrics.scores import share_interval
from vitadapt.report.fitted_model import Answers, Candidate
from vitadapt.report.model_card import model_card
from vitadapt.report.model_report import MOST_MISTAKES, model_page

SIZES = np.array([2, 4, 8, 16])


def curve():
    luck = np.random.default_rng(0).normal(0, 1, (10, 4))
    return fit_curve(SIZES, 95 - 40 * SIZES**-0.5 + luck)


def answers(labels, predicted, sure, classes, side=20):
    """Pictures of which the model says `predicted` with probability `sure`."""
    probabilities = np.tile((1 - np.array(sure, dtype=float))[:, None] / (classes - 1), (1, classes))
    probabilities[np.arange(len(labels)), predicted] = sure
    refs = [
        ImageObjectRef(Image.new("RGB", (side, side), (i * 7 % 256, 90, 90)), f"set/c/{i}.png")
        for i in range(len(labels))
    ]
    return Answers(refs, np.array(labels), probabilities)


@pytest.fixture(scope="module")
def text():
    bad = [SCRIPT, IMAGE, "plain"]
    held = answers(
        [0] * 10 + [1] * 10 + [2] * 10, [0] * 9 + [1] + [1] * 8 + [2, 0] + [2] * 10, np.linspace(0.5, 0.99, 30), 3
    )
    cross = answers([0] * 6 + [1] * 6, [0] * 5 + [2] + [1] * 6, [0.9] * 12, 3)
    known = {
        "classes": bad,
        "name": SCRIPT,
        "method": "lora:rank=2",
        "command": f"vitadapt fit {IMAGE}",
        "notes": [SCRIPT],
    }
    known |= {"versions": {"torch": "2.4<b>"}, "losses": [2.0, 1.0, 0.5], "counts": [12] * 3, "created": "2026-01-01"}
    return model_page(fitted(held_out=held, cross=cross, forecast=curve(), **known))


@pytest.fixture(scope="module")
def elements(text):
    return Elements(text)


def test_the_page_asks_for_nothing_from_anywhere(elements):
    links = [
        value
        for _, attributes in elements.found
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert links and all(value.startswith(("#", "data:")) for value in links)
    assert not [tag for tag, _ in elements.found if tag in ("iframe", "object", "embed", "base", "form")]


def test_names_are_never_code(text, elements):
    assert [attributes for tag, attributes in elements.found if tag == "script"] == [{}]
    assert "hit" not in "".join(elements.scripts)
    assert not [1 for tag, attributes in elements.found if any(name.startswith("on") for name in attributes)]
    assert all(a["src"].startswith("data:image/jpeg") for tag, a in elements.found if tag == "img")


def test_its_script_is_allowed_by_its_digest_alone(text, elements):
    digest = base64.b64encode(hashlib.sha256("".join(elements.scripts).encode()).digest()).decode()
    policy = next(a["content"] for tag, a in elements.found if tag == "meta" and "http-equiv" in a)
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_the_headline_is_the_score_with_its_interval(text):
    low, high = share_interval(27, 30)
    assert "<b>90.0<small> %</small></b>" in text
    assert f"<b>{100 * low:.1f}</b> and <b>{100 * high:.1f} %</b>" in text
    assert "27 of 30 held-out pictures" in text


def test_mistakes_come_with_pictures_the_surest_first(text, elements):
    inside = text[text.index('id="mistakes"') : text.index('id="classes"')]
    assert re.findall(r"\d+\.png</span>", inside) == ["19.png</span>", "18.png</span>", "9.png</span>"]
    shots = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', inside)
    assert len(shots) == 3
    for row, shot in zip((19, 18, 9), shots, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(shot)))
        assert image.size == (20, 20) and abs(image.getpixel((10, 10))[0] - row * 7) <= 4


def test_doubtful_training_labels_are_shown(text):
    inside = text[text.index('id="doubts"') : text.index('id="training"')]
    assert re.findall(r"\d+\.png</span>", inside) == ["5.png</span>"]


def test_every_section_and_forecast_is_there(text, elements):
    ids = {attributes.get("id") for tag, attributes in elements.found if tag == "section"}
    assert ids == {
        "candidates",
        "mistakes",
        "classes",
        "confusion",
        "calibration",
        "labels",
        "doubts",
        "training",
        "facts",
    }
    assert curve().sentence(20) in text
    anchors = {a["href"][1:] for tag, a in elements.found if tag == "a" and a["href"] != "#main"}
    assert anchors <= ids


def test_the_confusion_matrix_counts_every_picture():
    held = answers([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], [0.9] * 5, 2)
    model = fitted(held_out=held)
    assert model.confusion.tolist() == [[1, 1], [1, 2]]
    assert "cat taken for dog: 1 (50 %)" in model_page(model)


def test_same_model_same_bytes():
    assert model_page(fitted(forecast=curve())) == model_page(fitted(forecast=curve()))


def test_a_page_without_held_out_pictures_says_so():
    nothing = Answers([], np.zeros(0, dtype=np.int64), np.zeros((0, 2)))
    text = model_page(fitted(held_out=nothing, candidates=()))
    assert "No pictures were held out" in text and 'id="mistakes"' not in text


def test_a_class_that_was_not_measured_is_counted_and_a_candidate_that_was_not_compared_is_not_called_best():
    held = answers([0] * 6, [0] * 6, [0.8] * 6, 2)
    for candidates, best in (((Candidate("lora", kept=True),), False), ((Candidate("lora", 50.0, kept=True),), True)):
        model = fitted(held_out=held, candidates=candidates, classes=["a", "b"])
        assert ("best cross-validated" in model_page(model)) is best
        assert ("chosen by cross-validation" in model_card(model)) is best
        assert "Of 1 of the 2 classes there was no picture" in model.measure
    assert "there was no picture" not in fitted(held_out=answers([0, 1], [0, 1], [0.8] * 2, 2)).measure


def test_a_model_without_mistakes_has_a_page(tmp_path):
    held = answers([0, 1] * 4, [0, 1] * 4, [0.8] * 8, 2)
    assert "all held-out pictures are answered rightly" in model_page(fitted(held_out=held))


def test_a_picture_that_is_gone_is_no_obstacle(tmp_path):
    labels, predicted = np.array([0, 1]), np.array([1, 1])
    probabilities = np.eye(2)[predicted]
    refs = [FileRef(tmp_path / "gone.png"), FileRef(tmp_path / "gone too.png")]
    text = model_page(fitted(held_out=Answers(refs, labels, probabilities)))
    assert "no picture" in text and str(tmp_path.parent) not in text


def test_hundreds_of_classes_and_mistakes_stay_a_page():
    count = 120
    labels = np.repeat(np.arange(count), 2)
    held = answers(labels, (labels + np.arange(len(labels)) % 2) % count, [0.7] * len(labels), count)
    text = model_page(fitted(tuple(f"class {c}" for c in range(count)), held_out=held))
    assert text.count("<figcaption>") == MOST_MISTAKES and len(text) < 1_000_000


def test_it_is_alive_and_fits_a_phone(text, tmp_path, browser):
    path = tmp_path / "report.html"
    path.write_text(text, "utf-8", "xmlcharrefreplace")
    page = browser.new_page(viewport={"width": 360, "height": 700}, color_scheme="dark")
    messages, asked = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.click("#classes thead button:has-text('training')")
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.select_option("#theme", "light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    title = page.title()
    page.close()
    assert not messages and [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert wide <= 0 and dark != light and title != "hit"
