"""Run the pages whose outputs are shown, and write what was printed (default) or compare it (--check).

    python tools/docsite/outputs.py [--check] [PAGE ...]

A page takes part when it says so in a comment, `<!-- outputs: ... -->`. Its titled blocks become files; its commands
and its Python run one after another in one empty folder, on one thread, so that another number of cores adds no sum in
another order. Pictures that it shows are taken from there where a comment says `<!-- keep: FILE -> images/NAME -->`,
and made by a browser where one says `<!-- screen: ... -->` (screens.py).
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from docsite import screens
from docsite.blocks import ROOT, Block, blocks, pages, steps
from docsite.notebook import printed, run_notebook

SAYS = re.compile(r"^<!-- outputs:", re.MULTILINE)
KEEP = re.compile(r"<!-- keep: (\S+) -> (\S+) -->")
WIDTH = "100"
_NUMBER = re.compile(r"\d[\d,]*\.?\d*")
_TIMES = re.compile(r"\d[\d.,]* (?=ms\b|s\b|seconds|minutes)")


def shown_pages() -> list[Path]:
    """The pages and notebooks whose outputs are made by running them."""
    printed = [page for page in pages() if SAYS.search(page.read_text("utf-8"))]
    return printed + sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_page(page: Path, folder: Path) -> str:
    """The page as Markdown with the outputs of this run. Raises CalledProcessError when a command fails."""
    if page.suffix == ".ipynb":
        return run_notebook(page, folder, _environment())
    text = page.read_text("utf-8")
    for block in blocks(page):
        if block.reason or block.kind not in ("console", "python", "toml"):
            continue
        if block.title:
            (folder / block.title).write_text(block.text, "utf-8")
        elif block.kind == "python":
            _shell(f"{sys.executable} - <<'END'\n{block.text}END", folder)
        else:
            text = text.replace(f"```console\n{block.text}```", f"```console\n{''.join(_answers(block, folder))}```", 1)
    for source, target in KEEP.findall(text):
        (page.parent / target).parent.mkdir(exist_ok=True)
        _picture(folder / source, page.parent / target)
    screens.take(page, text, folder)
    return text


def _picture(source: Path, target: Path) -> None:
    """Copied, and no wider than a page: pages are read on phones, too."""
    from PIL import Image

    image = Image.open(source).convert("RGB")
    image.thumbnail((500, 500))
    image.save(target, optimize=True)


def _answers(block: Block, folder: Path) -> Iterator[str]:
    for step in steps(block):
        yield f"$ {step.command}\n"
        yield _shell(step.command, folder)


def _shell(command: str, folder: Path) -> str:
    """What a terminal of `WIDTH` columns shows for `command`, without blanks at the ends of lines."""
    call = ["bash", "-c", f"exec 2>&1\n{command}"]
    done = subprocess.run(
        call, cwd=folder, env=os.environ | _environment(), text=True, stdout=subprocess.PIPE, check=False
    )
    sys.stderr.write(f"$ {command}\n{done.stdout}")
    if done.returncode:
        raise SystemExit(f"{command!r} ended with status {done.returncode}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"COLUMNS": WIDTH, "PATH": path, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def differences(shown: str, found: str) -> list[str]:
    """Lines that tell other words, or numbers that are further apart than other processors make them.

    Times are not compared. Another number may differ by 3, or by a tenth: sums are added in another order elsewhere,
    and an image at the border between two classes then falls to the other side.
    """
    pairs = [[_TIMES.sub("", line) for line in text.splitlines()] for text in (shown, found)]
    one, other = ([" ".join(_NUMBER.sub("#", line).split()) for line in lines] for lines in pairs)
    if one != other:
        return list(difflib.unified_diff(one, other, "shown", "found", lineterm="", n=0))
    return [f"-{a}\n+{b}" for a, b in zip(*pairs, strict=True) if not _close(a, b)]


def _close(one: str, other: str) -> bool:
    numbers = [[float(number.replace(",", "")) for number in _NUMBER.findall(line)] for line in (one, other)]
    return all(abs(a - b) <= max(3.0, 0.1 * abs(a)) for a, b in zip(*numbers, strict=True))


def main() -> None:
    """Write or compare; status 1 when a page shows what it does not print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="default: all that say so")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    asked = parser.parse_args()
    wrong = []
    for page in [path.resolve() for path in asked.pages] or shown_pages():
        with tempfile.TemporaryDirectory() as folder:
            found = run_page(page, Path(folder))
        if asked.check:
            both = (page.read_text("utf-8"), found)
            changed = differences(*(map(printed, both) if page.suffix == ".ipynb" else both))
            wrong += [f"{page.relative_to(ROOT)}: {line}" for line in changed]
        else:
            page.write_text(found, "utf-8")
    print("\n".join(wrong) or "the pages show what the commands print")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
