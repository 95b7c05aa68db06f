"""The fenced blocks of a Markdown page, each with what a hidden comment before it says about running it.

<!-- not run: REASON -->    the block is read and its commands are parsed, but it is not run
<!-- with: A -> B; C -> D -->    A is replaced by B before it is run: a smaller network, a shorter training
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
RUN = ("bash", "console", "python", "toml")  # every block of these kinds is executed, or says why not
SHOWN = ("text", "json", "yaml", "html", "ini", "dockerfile", "markdown")  # outputs, layouts, other programs' files
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+) *(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"<!-- *(not run|with): *((?:(?!-->).)*?) *-->\s*\Z", re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block. `title`: the file that it shows; `reason`: why it is not run; `swaps`: what it runs with."""

    page: str
    line: int
    kind: str
    text: str
    title: str = ""
    reason: str = ""
    swaps: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def swapped(self) -> str:
        """The text to run. Raises ValueError for a replacement that replaces nothing."""
        text = self.text
        for old, new in self.swaps:
            if old not in text:
                raise ValueError(f"{self.place}: {old!r} is to be replaced, but does not occur")
            text = text.replace(old, new)
        return text


def pages() -> list[Path]:
    """Every page that people read: README, CONTRIBUTING and docs/, in the order of their names."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of `page`. Raises ValueError for a replacement without an arrow."""
    return blocks_of(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())


def blocks_of(text: str, page: str) -> list[Block]:
    """The fenced blocks of a Markdown `text`. Raises ValueError for a replacement without an arrow."""
    found = []
    for match in _FENCE.finditer(text):
        kind, _, rest = match["info"].partition(" ")
        title = _TITLE.search(rest)
        line = text.count("\n", 0, match.start()) + 1
        block = Block(page, line, kind, dedent(match["text"]), title[1] if title else "")
        found.append(_noted(block, text[: match.start()]))
    return found


def _noted(block: Block, before: str) -> Block:
    """`block` with what the comments right before it say."""
    while comment := _COMMENT.search(before):
        before = before[: comment.start()]
        if comment[1] == "not run":
            block = replace(block, reason=" ".join(comment[2].split()))
            continue
        pairs = [pair.partition(" ->") for pair in comment[2].split("; ")]
        if not all(arrow for _, arrow, _ in pairs):
            raise ValueError(f"{block.place}: a replacement is written 'old -> new'")
        block = replace(block, swaps=tuple((old.strip(), new.strip()) for old, _, new in pairs))
    return block


def without_blocks(text: str) -> str:
    """The page without its fenced blocks, lines kept."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


@dataclass(frozen=True)
class Step:
    """A command as it is typed, and the output that the page shows for it (console blocks only)."""

    command: str
    output: str = ""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command, comments=True)


def steps(block: Block, text: str | None = None) -> Iterator[Step]:
    """The commands of a bash or console block. A line that ends in a backslash goes on; `$ ` opens one of a console."""
    text = (block.text if text is None else text).replace("\\\n", " ")
    if block.kind == "bash":
        for line in text.splitlines():
            if shlex.split(line, comments=True):
                yield Step(line)
        return
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield Step(command, output)
