"""A store of runs, the page made of it, and a browser tab that shows the page."""

from __future__ import annotations

import pytest
from page_cases import IMAGE, SCRIPT
from result_cases import record, saved

from vitadapt.benchmark.results.store import Store
from vitadapt.report.run_report import write_report


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two settings, four methods, two seeds, datasets that would be code, a divergence and a failure."""
    store = Store(tmp_path_factory.mktemp("page") / "runs")
    versions, trace = {"torch": "2.4.0<b>", "vitadapt": "0.1.0"}, [[0.1, 0.01, 2, 50.0, "a"], [0.01, 0.1, 2, 40.0, "a"]]
    for shots in (2, 5):
        for index, method in enumerate(("lora", "bitfit", "linear-probe", "fine-tune")):
            for seed in (0, 1):
                for dataset in ("digits", SCRIPT, IMAGE):
                    score = None if (index, seed, shots) == (3, 1, 5) else 60.0 + 3 * index + seed + shots
                    fields = {"losses": [2.0, 1.0, 0.5], "versions": versions, "chosen": {"trace": trace, "lr": 0.1}}
                    fields["notes"] = [IMAGE]
                    saved(store, record(method, dataset, seed, score, 10 ** (index + 3), {"shots": shots}, **fields))
    store.fail("f" * 16, f"Traceback\nValueError: {IMAGE}")
    return store


@pytest.fixture(scope="module")
def file(store, tmp_path_factory):
    return write_report(store.records()[0], store, tmp_path_factory.mktemp("out") / "report.html", ["<i>damaged</i>"])


@pytest.fixture
def opened(browser, file):
    """(width, colour scheme) -> the page, which at the end must have said and asked for nothing."""
    pages, messages = [], []

    def visit(width=1280, scheme="light"):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or messages.append(asked.url))
        tab.goto(file.as_uri())
        pages.append(tab)
        return tab

    yield visit
    titles = [tab.title() for tab in pages]
    for tab in pages:
        tab.close()
    assert messages == [] and titles == ["runs · vitadapt report"] * len(titles)
