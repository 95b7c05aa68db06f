"""A fitted model made up for its pages, hostile names, and a browser to look at pages with."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
from PIL import Image

from vitadapt.data.examples import ImageObjectRef
from vitadapt.report.fitted_model import Answers, Candidate, Fitted


def fitted(classes=("cat", "dog"), **changes):
    labels = np.arange(20) % len(classes)
    probabilities = np.full((20, len(classes)), 0.1 / (len(classes) - 1))
    probabilities[np.arange(20), labels] = 0.9
    probabilities[:2] = probabilities[:2, ::-1]
    refs = [ImageObjectRef(Image.new("RGB", (8, 8)), f"{classes[label]}/{i}.jpg") for i, label in enumerate(labels)]
    rungs = [
        Candidate("linear-probe", 85.0, 2.0, 80.0, 770, 3.0),
        Candidate("kadaptation", 91.2, 1.5, 90.0, 40_000, 60.0, True),
    ]
    known = {
        "name": "pets",
        "classes": classes,
        "backbone": "dinov2-s14",
        "image_size": 224,
        "method": "kadaptation:rank=2",
        "counts": [12] * len(classes),
        "held_out": Answers(refs, labels, probabilities),
        "candidates": rungs,
        "command": "vitadapt fit pets",
        "licence": "apache-2.0",
        "base_model": "facebook/dinov2-small",
        "trained": 40_000,
        "size": 161_000,
        "folds": 5,
        "seed": 0,
    }
    return Fitted(**(known | changes))


SCRIPT = "</script><script>document.title='hit'</script>"


IMAGE = "\"><img src=x onerror=document.title='hit'>"


class Elements(HTMLParser):
    """All elements with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts.append(data)
