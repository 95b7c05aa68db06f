"""The model card: metadata that the hub can read, whatever the names are, and the facts in words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from page_cases import fitted

from vitadapt.metrics.scores import share_interval
from vitadapt.report.fitted_model import Answers
from vitadapt.report.model_card import model_card

BAD = ["a\n---\nlicense: mit", "*bold* | `code`", "<script>alert(1)</script>", "été 🌞: #1"]


def metadata(card):
    """The lines between the fences, each `key: JSON` (which YAML is a superset of) or `key: word`."""
    assert card.startswith("---\n")
    lines = card[4:].split("\n---\n", 1)[0].splitlines()
    pairs = [line.split(": ", 1) for line in lines]
    return {key: json.loads(value) if value[0] in '"[{' else value for key, value in pairs}


def test_the_metadata_is_what_the_hub_asks_for():
    about = metadata(model_card(fitted()))
    assert about["license"] == "apache-2.0" and about["base_model"] == "facebook/dinov2-small"
    assert about["pipeline_tag"] == "image-classification" and about["library_name"] == "vitadapt"
    assert {"vitadapt", "kadaptation"} <= set(about["tags"]) and about["metrics"] == ["accuracy"]
    assert about["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9


def test_the_hub_library_itself_reads_it():
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(model_card(fitted(classes=tuple(BAD), name=BAD[0]))).data
    assert data.license == "apache-2.0" and data.eval_results[0].metric_value == 0.9


def test_what_is_not_known_is_left_out():
    about = metadata(model_card(fitted(licence="", base_model="", held_out=Answers([], np.zeros(0, int), np.zeros(0)))))
    assert not {"license", "base_model", "model-index"} & about.keys()
    assert "nothing is known" in model_card(fitted(held_out=Answers([], np.zeros(0, int), np.zeros(0))))


@pytest.mark.parametrize("bad", BAD)
def test_no_name_ends_the_metadata_or_becomes_markup(bad):
    plain = model_card(fitted())
    card = model_card(fitted(classes=(bad, "b"), name=bad, notes=[bad], command=bad))
    assert metadata(card).keys() == metadata(plain).keys() and metadata(card)["license"] == "apache-2.0"
    outside = "".join(card.split("```")[::2]).split("\n---\n", 1)[1]
    assert "\n---\n" not in outside and "<script>" not in outside and "*bold*" not in outside


def test_score_interval_ladder_and_use_are_told():
    card = model_card(fitted())
    low, high = (100 * edge for edge in share_interval(18, 20))
    for text in (
        "**90.0 %** of 20",
        f"{low:.1f} to {high:.1f} %",
        "91.2 % ± 1.5",
        "| kept |",
        "161 kB",
        "vitadapt fit pets",
    ):
        assert text in card


def test_classes_with_few_pictures_are_named():
    assert "Fewer than ten training pictures: cat." in model_card(fitted(counts=[3, 40]))
    assert "Fewer than ten" not in model_card(fitted(counts=[30, 40]))


def test_a_given_interval_is_kept():
    assert "70.0 to 95.0 %" in model_card(fitted(given_interval=(70.0, 95.0)))
