"""The page at /, in a real browser, against a server that really listens."""

from __future__ import annotations

import re

import pytest
from server_cases import CARS, PETS, TOKEN, adapter, picture, running, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    (root / "pets.safetensors").write_bytes(adapter(1, PETS))
    (root / "digits.safetensors").write_bytes(adapter(3, tuple("9876543210")))
    (root / "cars.safetensors").write_bytes(adapter(2, ("<img src=x onerror=alert(1)>", *CARS, *"abcdef")))
    return root


@pytest.fixture(scope="module")
def server(folder):
    with running(folder) as made:
        yield made


@pytest.fixture
def opened(browser, server):
    """(width, colour scheme) -> the page; at the end it must have said nothing and asked this server only."""
    tabs, messages = [], []

    def visit(width=1280, scheme="light", url=server.url):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda asked: asked.url.startswith((url, "blob:", "data:")) or messages.append(asked.url))
        tab.goto(url)
        tabs.append(tab)
        return tab

    yield visit
    for tab in tabs:
        tab.close()
    expected = re.compile(r"Failed to load resource.* status of 4\d\d")  # the browser's own note of a refusal
    assert [line for line in messages if not expected.match(line)] == []


def give(tab, data, name="photo.png"):
    tab.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def answered(tab):
    tab.wait_for_selector("#verdict b:visible")
    tab.wait_for_selector("#heat:visible")
    tab.wait_for_function("document.getElementById('heat').naturalWidth > 0")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_a_picture_is_answered_and_explained(opened, server, width, scheme):
    tab = opened(width, scheme)
    tab.wait_for_selector("#model option[value=pets]", state="attached")
    tab.select_option("#model", "pets")
    give(tab, picture(3))
    answered(tab)
    with server.client() as client:
        answer = client.post("/v1/pets/predict", files={"f": picture(3)}).json()["answers"][0]
    assert tab.inner_text("#verdict b") == answer["class"]
    shown = tab.eval_on_selector_all(
        "#bars tr", "all => all.map(row => [row.cells[0].innerText, row.cells[2].innerText])"
    )
    assert shown == [[name, f"{100 * value:.1f} %"] for name, value in answer["top"].items()]
    values = tab.eval_on_selector_all("#bars progress", "all => all.map(bar => bar.value)")
    assert values == pytest.approx(list(answer["top"].values()), abs=1e-6)
    assert tab.inner_text("#name") == "photo.png"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    box = tab.locator("#heat").bounding_box()
    assert box["width"] > 100 and box["height"] > 100


def test_another_model_and_an_unsure_answer(opened):
    tab = opened()
    tab.wait_for_selector("#model option[value=pets]", state="attached")
    tab.select_option("#model", "cars")
    give(tab, picture(4))
    answered(tab)
    assert "4 less probable" in tab.inner_text("#more")  # twelve classes, eight shown
    tab.select_option("#threshold", "0.95")
    tab.wait_for_selector("#verdict.unsure")
    assert tab.inner_text("#verdict b") == "Unsure" and "most likely" in tab.inner_text("#verdict")
    assert tab.locator("#bars img").count() == 0  # a class name is never code
    first = tab.get_attribute("#heat", "src")
    tab.select_option("#kind", "rollout")
    tab.wait_for_function("before => document.getElementById('heat').src !== before", arg=first)


def test_classes_called_by_numbers_stand_by_their_probability(opened, server):
    tab = opened()
    tab.wait_for_selector("#model option[value=digits]", state="attached")
    tab.select_option("#model", "digits")
    tab.select_option("#threshold", "0.95")
    give(tab, picture(7))
    answered(tab)
    with server.client() as client:
        answer = client.post("/v1/digits/predict?top=8", files={"f": picture(7)}).json()["answers"][0]["top"]
    names = list(answer)
    assert names not in (sorted(names), sorted(names, reverse=True))
    assert tab.locator("#bars th").all_inner_texts() == names
    assert f"most likely {names[0]}, with" in tab.inner_text("#verdict")


def test_the_page_says_that_a_heat_map_is_on_its_way(opened, server):
    """From the answer on until the heat map is there, also when another kind is chosen."""
    tab = opened(390)
    tab.wait_for_selector("#model option[value=pets]", state="attached")
    tab.select_option("#model", "pets")
    waiting = []
    tab.route("**/explain?*", lambda route: waiting.append(route))
    give(tab, picture(8))
    tab.wait_for_selector("#verdict b:visible")
    until(lambda: tab.is_visible("#wait") and "being computed" in tab.inner_text("#wait"))
    assert tab.get_attribute("#why", "aria-busy") == "true" and not tab.is_visible("#heat")
    waiting.pop().continue_()
    tab.wait_for_selector("#why[aria-busy=false]")
    assert tab.is_visible("#heat") and tab.inner_text("#wait") == ""
    tab.select_option("#kind", "rollout")
    tab.wait_for_selector("#why[aria-busy=true]")
    assert "being computed" in tab.inner_text("#wait")
    waiting.pop().continue_()
    tab.wait_for_selector("#why[aria-busy=false]")


def test_models_that_come_and_go_are_listed_without_loading_the_page_again(opened, tmp_path):
    (tmp_path / "pets.safetensors").write_bytes(adapter(1, PETS))
    with running(tmp_path) as changing:
        tab = opened(url=changing.url)
        tab.wait_for_selector("#model option[value=pets]", state="attached")
        (tmp_path / "new.safetensors").write_bytes(adapter(2, CARS))
        tab.wait_for_selector("#model option[value=new]", state="attached")
        assert tab.eval_on_selector("#model", "list => list.value") == "pets"
        (tmp_path / "pets.safetensors").unlink()
        tab.wait_for_selector("#model option[value=pets]", state="detached")
        assert "5 classes" in tab.inner_text("#about")
        tab.close()


def test_what_is_no_picture_is_told_in_words(opened):
    tab = opened()
    tab.wait_for_selector("#model option[value=pets]", state="attached")
    give(tab, b"hello", "letter.txt")
    tab.wait_for_selector("#trouble:visible")
    assert "letter.txt cannot be read" in tab.inner_text("#trouble")
    give(tab, picture(5))
    answered(tab)
    assert not tab.locator("#trouble").is_visible()


def test_a_picture_can_be_dropped(opened):
    tab = opened()
    tab.wait_for_selector("#model option[value=pets]", state="attached")
    drop = """data => {
        const moved = new DataTransfer();
        moved.items.add(new File([new Uint8Array(data)], "dropped.png", { type: "image/png" }));
        for (const kind of ["dragover", "drop"]) {
            document.getElementById("drop").dispatchEvent(new DragEvent(kind, { dataTransfer: moved, bubbles: true }));
        }
    }"""
    tab.evaluate(drop, list(picture(6, (40, 30))))
    answered(tab)
    assert tab.inner_text("#name") == "dropped.png"


def test_the_keyboard_reaches_every_control_and_each_has_a_name(opened):
    tab = opened()
    tab.wait_for_selector("#model option[value=pets]", state="attached")
    reached = set()
    for _ in range(8):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"theme", "model", "threshold", "file"} <= reached
    unnamed = "all => all.filter(e => !e.labels?.length && !e.textContent.trim() && !e.ariaLabel).length"
    assert tab.eval_on_selector_all("button, select, input", unnamed) == 0


def test_the_switch_turns_light_into_dark(opened):
    tab = opened()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.select_option("#theme", "dark")
    assert tab.evaluate(ground) != light


def test_a_token_is_asked_for_once(opened, folder):
    with running(folder, token=TOKEN) as guarded:
        tab = opened(url=guarded.url)
        tab.wait_for_selector("#door:visible")
        tab.fill("#token", "wrong")
        tab.keyboard.press("Enter")
        until(lambda: "wants a token" in tab.inner_text("#trouble"))
        tab.fill("#token", TOKEN)
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#door", state="hidden")
        give(tab, picture(7))
        answered(tab)
        tab.close()
