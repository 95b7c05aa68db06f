"""Every command and snippet of README, CONTRIBUTING and docs/ is executed or says why not; links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_sandbox import check_words, make_handwriting, make_photos, notebook_blocks, play, smaller, take_adapter
from filelock import FileLock

import vitadapt
from docsite.blocks import ROOT, RUN, SHOWN, blocks, blocks_of, pages, steps, without_blocks
from docsite.notebook import printed, settled
from docsite.outputs import SAYS, differences

PAGES = pages()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README, *OTHERS = PAGES


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=named)


@pytest.fixture(scope="session")
def newcomer(tmp_path_factory, worker_id="master") -> Path:
    """A newcomer's folder after README: photos, a fitted model, runs, a benchmark file. Made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if (base.name.startswith("popen-")) else base
    folder = base / "newcomer"
    with FileLock(base / "newcomer.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make_photos(folder)
            make_handwriting(folder)
            assert "kadaptation" in play(blocks(README), folder)
            take_adapter(folder)
            (folder / "done").touch()
    return folder


def test_readme_works_from_its_first_to_its_last_line(newcomer: Path) -> None:
    made = ["my-model/adapter.safetensors", "runs/photos/records", "runs/my/records", "report.html", "heatmap.pdf"]
    assert all((newcomer / name).exists() for name in made)


PLAYED = [page for page in [*OTHERS, *NOTEBOOKS] if page.suffix == ".ipynb" or any(b.kind in RUN for b in blocks(page))]


@pytest.mark.parametrize("page", PLAYED, ids=named)
def test_a_page_works_from_its_first_to_its_last_line(page: Path, newcomer: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    if page.suffix == ".ipynb" or SAYS.search(page.read_text("utf-8")):
        here.mkdir()  # these begin with nothing
    else:
        shutil.copytree(newcomer, here)
    play(notebook_blocks(page) if page.suffix == ".ipynb" else blocks(page), here)


@every_page
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        assert block.kind in RUN + SHOWN, f"{block.place}: name its kind, one of {', '.join(RUN + SHOWN)}"
        hidden = re.search(r"^(\$ |(vitadapt|pip|make) )", block.text, re.MULTILINE)
        assert block.kind in RUN or page.name == "commands.md" or not hidden, f"{block.place}: commands belong in bash"
    text = without_blocks(page.read_text("utf-8"))
    bare = list(indented_code(text))
    assert page.parent.name == "reference" or not bare, f"{named(page)}: put {bare[0]!r} into a fenced block"


def indented_code(text: str) -> Iterator[str]:
    """Lines that Markdown shows as code because they are indented, outside of lists."""
    outer = before = ""
    for line in text.splitlines():
        if line.startswith("    ") and not before.strip() and not re.match(r"[-*]|\d+\.", outer):
            yield line.strip()
        outer = line if line.strip() and not line.startswith(" ") else outer
        before = line


def test_code_that_is_only_indented_is_found() -> None:
    assert list(indented_code("a\n\n    b\n    c\n\n* d\n\n    e\n\nf\n    g\n")) == ["b"]


@every_page
def test_outputs_are_shown_only_where_they_are_made(page: Path) -> None:
    shown = [step for block in blocks(page) if block.kind == "console" and not block.reason for step in steps(block)]
    assert not shown or SAYS.search(page.read_text("utf-8")), f"{named(page)}: say <!-- outputs: ... -->"


@every_page
def test_commands_in_a_sentence_exist(page: Path) -> None:
    text = without_blocks(page.read_text("utf-8"))
    for code in re.findall(r"`((?:vitadapt|make|pip|python) [^`]+)`", text):
        check_words(shlex.split(code.replace("\n", " ")), f"{named(page)}: {code}")


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page.read_text("utf-8")))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#", "mailto:"))]
    missing = [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    assert not missing


@every_page
def test_the_package_has_the_names_that_are_used(page: Path) -> None:
    used = set(re.findall(r"\bva\.(\w+)", page.read_text("utf-8")))
    assert all(hasattr(vitadapt, name) for name in used)


def test_a_note_belongs_to_the_block_behind_it() -> None:
    text = "<!-- with: a -> b; c -> d -->\n```bash\na c\n```\n\n<!-- not run: it\ncosts -->\n```python\nx\n```\n"
    one, two, three = blocks_of(text + "```text\n```\n", "page.md")
    assert (one.swapped, one.reason, one.line) == ("b d\n", "", 2)
    assert (two.swaps, two.reason) == ((), "it costs")
    assert (three.kind, three.reason) == ("text", "")


def test_a_replacement_that_replaces_nothing_is_an_error() -> None:
    (block,) = blocks_of("<!-- with: x -> y -->\n```bash\na\n```\n", "page.md")
    with pytest.raises(ValueError, match="'x'"):
        _ = block.swapped
    with pytest.raises(ValueError, match="old -> new"):
        blocks_of("<!-- with: x y -->\n```bash\na\n```\n", "page.md")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("vitadapt fit photos/ --out x", ""),
        ("srun vitadapt bench my.toml --shards 2", "--shards"),
        ("vitadapt fitt photos/", "fitt"),
        ("vitadapt data check photos --shots 5 | head -3", ""),
        ("make nothing", "target"),
        ("make bench-step ARGS=x", ""),
        ("pip install vitadapt[offline,oflline]", "extra"),
        ("python benchmarks/step.py --arch vit-b32 --aarch x", "aarch"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, wrong: str) -> None:
    if not wrong:
        return check_words(shlex.split(line), "page.md:1")
    with pytest.raises(AssertionError, match=wrong):
        check_words(shlex.split(line), "page.md:1")
    return None


def test_a_page_that_fails_is_red(newcomer: Path, tmp_path: Path) -> None:
    shutil.copytree(newcomer, tmp_path / "here")
    for text in ("```bash\nvitadapt info nothing\n```\n", "```toml\n[bench]\nbackbone = 'random:tiny'\n```\n"):
        with pytest.raises((AssertionError, vitadapt.VitadaptError)):
            play(blocks_of(text, "page.md"), tmp_path / "here")
    with pytest.raises(NameError):
        play(blocks_of("```python\nnothing\n```\n", "page.md"), tmp_path / "here")


def test_shown_outputs_may_differ_in_times_and_last_digits_only() -> None:
    shown = "$ vitadapt fit x\naccuracy 94.2 %\nin 25 seconds\n"
    assert not differences(shown, shown.replace("25", "1,025").replace("94.2", "93.3"))
    assert differences(shown, shown.replace("94.2", "84.2"))
    assert differences(shown, shown.replace("accuracy", "score"))


def test_a_notebook_keeps_what_stands_there_in_the_end() -> None:
    parts = [
        "\x1b[?25l\n",
        "\rtrain ━━━  50 % 0:00:01\n\x1b[2Ktrain ━━━━ 100 % 0:00:02\n\n\n\nkept: \x1b[1mlora\x1b[0m  \n",
    ]
    (stream,) = settled([_Output(output_type="stream", text=text) for text in parts])
    assert stream.text == "kept: lora\n"
    book = {"cells": [{"outputs": [{"text": ["a\n", "b\n"]}, {"data": {"image/png": "1234"}}]}, {}]}
    assert printed(json.dumps(book)) == "a\nb\n"


class _Output(dict):
    """An output as nbformat has them: a dictionary whose keys are attributes."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def test_small_networks_stand_in_for_large_ones() -> None:
    assert smaller('RunConfig("dinov2-s14-offline", image_size=70)') == 'RunConfig("random:tiny", image_size=32)'
