"""The page: whole in one file, harmless whatever the names are, and alive in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from page_cases import Elements
from result_cases import record

from vitadapt.benchmark.commands import commands_of
from vitadapt.benchmark.results.store import Store
from vitadapt.report.run_report import page, write_report
from vitadapt.utils.errors import ConfigError


@pytest.fixture(scope="module")
def elements(file):
    return Elements(file.read_text("utf-8"))


def test_the_page_asks_for_nothing_from_anywhere(elements):
    asked = [
        (tag, name, value)
        for tag, attributes in elements.found
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action") and not (value or "").startswith(("#", "data:"))
    ]
    assert not asked
    assert not [tag for tag, _ in elements.found if tag in ("img", "iframe", "object", "embed", "base")]


def test_names_are_never_code(elements):
    scripts = [attributes for tag, attributes in elements.found if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]


def test_only_the_script_of_the_page_may_run(elements):
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(elements.scripts[-1].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_no_two_elements_share_an_id_and_every_reference_has_a_target(elements, file):
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    wanted = set(re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', file.read_text("utf-8")))
    assert wanted and {name for pair in wanted for name in pair if name} <= set(ids)


def test_the_page_holds_every_run_with_its_command_and_versions(store, elements):
    records = store.records()[0]
    rows = json.loads(elements.scripts[0])["rows"]
    assert {row["record"] for row in rows} == {made.digest for made in records}
    known = {row["record"]: row for row in rows}
    assert all([known[made.digest]["command"]] == commands_of([made.config]) for made in records)
    assert all("torch 2.4.0<b>" in row["versions"] for row in rows)


def test_colours_are_those_of_the_page(elements):
    style = " ".join(a.get("style", "") for tag, a in elements.found if tag in ("path", "text", "use", "g"))
    assert "var(--ink)" in style and "var(--c1)" in style
    assert "#1c2127" not in style and "#0067a8" not in style


def test_the_same_records_make_the_same_page(store):
    records = [made for made in store.records()[0] if made.config["dataset"] == "digits"][:1]
    assert page(records, store) == page(records, store)


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no records"):
        write_report([], Store(tmp_path), tmp_path / "r.html")


def test_runs_of_another_program_make_a_page_too(tmp_path):
    """One method, one dataset, nothing trained, no predictions, no versions: little to show, and nothing breaks."""
    text = page([record(losses=[], parameters={}, seconds={}, peak_memory_mb=0.0)], Store(tmp_path))
    assert "nothing" in text and '<section id="runs"' in text


# ---- in a browser


def choose(tab, name, *values):
    """Leave only these values of a filter."""
    tab.click(f'[data-filter="{name}"] summary')
    tab.click(f'[data-filter="{name}"] [data-none]')
    for value in values:
        tab.check(f'[data-filter="{name}"] input[value="{value}"]')
    tab.keyboard.press("Escape")


def column(tab, table, index):
    return tab.eval_on_selector_all(f"{table} tbody tr", f"rows => rows.map(row => row.cells[{index}].textContent)")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (390, "dark"), (1600, "light"), (1920, "dark")])
def test_every_picture_has_a_size_and_the_page_never_scrolls_sideways(opened, width, scheme):
    tab = opened(width, scheme)
    sizes = tab.eval_on_selector_all("figure svg", "all => all.map(svg => svg.getBoundingClientRect().toJSON())")
    assert len(sizes) >= 7 and all(size["width"] > 150 and size["height"] > 100 for size in sizes)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.querySelector('main').clientWidth") >= min(width, 1600) - 20  # the width is used
    shadows = "getComputedStyle(document.querySelector('#results .scroll')).backgroundAttachment"
    assert tab.evaluate(shadows) == "local, local, scroll, scroll"  # one sees that there is more to scroll to


def test_filters_reach_tables_and_pictures(opened):
    tab = opened()
    assert tab.inner_text("#matching") == "48 runs"
    choose(tab, "method", "lora", "bitfit")
    choose(tab, "shots", "5")
    assert tab.inner_text("#matching") == "12 of 48 runs"
    assert len(column(tab, "#runs-table", 0)) == 12
    visible = "all => all.filter(e => e.getClientRects().length).map(e => e.dataset.shots + e.dataset.method)"
    assert sorted(tab.eval_on_selector_all("#results-table tbody tr", visible)) == ["5bitfit", "5lora"]
    shown = tab.eval_on_selector_all(
        "figure", "all => all.filter(e => e.getClientRects().length).map(e => e.dataset.shots)"
    )
    assert set(shown) == {"5"}
    dots = tab.eval_on_selector_all("#accuracy svg [data-method]", visible)
    assert dots and all(text.endswith(("lora", "bitfit")) for text in dots)
    tab.click("#reset")
    assert tab.inner_text("#matching") == "48 runs" and len(column(tab, "#runs-table", 0)) == 48


def test_a_filter_by_dataset_takes_its_column_away(opened):
    tab = opened()
    headings = "all => all.filter(e => e.getClientRects().length).length"
    before = tab.eval_on_selector_all("#results-table th", headings)
    choose(tab, "dataset", "digits")
    assert tab.eval_on_selector_all("#results-table th", headings) == before - 2


def test_nothing_that_fits_is_said(opened):
    tab = opened()
    choose(tab, "shots")
    assert tab.inner_text("#matching") == "0 of 48 runs"
    assert tab.locator("#accuracy .nothing").is_visible()


def test_numbers_are_written_alike(opened):
    tab = opened()
    scores = [text for text in column(tab, "#runs-table", 4) if text != "-"]
    assert all(re.fullmatch(r"\d+\.\d\d", text) for text in scores)
    assert "1,000" in column(tab, "#runs-table", 6)


@pytest.mark.parametrize(("table", "name", "index"), [("#runs-table", "score", 4), ("#results-table", "trained", 2)])
def test_a_heading_sorts_by_number_and_back(opened, table, name, index):
    tab = opened()
    button = tab.locator(f"{table} th button", has_text=re.compile(f"^{name}$"))
    orders = []
    for _ in range(2):
        button.click()
        found = column(tab, table, index)
        numbers = [float(text.replace(",", "")) for text in found if text != "-"]
        assert found[len(numbers) :] == ["-"] * (len(found) - len(numbers))  # what is missing comes last, either way
        orders.append(numbers)
    assert orders[0] == sorted(orders[0], reverse=True) and orders[1] == sorted(orders[1])
    assert button.locator("..").get_attribute("aria-sort") == "ascending"


def test_a_run_opens_by_keyboard_and_shows_its_command(opened):
    tab = opened()
    tab.focus("#runs-table tbody .open")
    tab.keyboard.press("Enter")
    assert tab.inner_text(".details code").startswith("vitadapt run --dataset ")
    tab.keyboard.press("Enter")
    assert tab.locator(".details").count() == 0


def test_the_search_finds_words(opened):
    tab = opened()
    tab.fill("#words", "BITFIT digits")
    assert tab.inner_text("#matching") == "4 of 48 runs"


def test_the_switch_turns_light_into_dark(opened):
    tab = opened(scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#accuracy svg text')).fill"
    light = tab.evaluate(ground), tab.evaluate(ink)
    tab.select_option("#theme", "dark")
    dark = tab.evaluate(ground), tab.evaluate(ink)
    assert light[0] != dark[0] and light[1] != dark[1]
    other = opened(scheme="dark")
    assert (other.evaluate(ground), other.evaluate(ink)) == dark


def test_the_keyboard_reaches_every_control(opened):
    tab = opened()
    reached = set()
    for _ in range(12):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"theme", "SUMMARY", "words"} <= reached
    unnamed = (
        "all => all.filter(e => !e.labels?.length && !e.textContent.trim() && !e.getAttribute('aria-label')).length"
    )
    assert tab.eval_on_selector_all("button, select, input", unnamed) == 0
