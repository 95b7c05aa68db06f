"""What a head may be: parts that exclude each other are refused with the remedy; a text and its head are the same."""

from __future__ import annotations

import pytest

from vitadapt.nn.head_spec import HEADS, HeadSpec, head_text, parse_head, plain_head
from vitadapt.utils.errors import ConfigError

REFUSED = {
    "text:norm=standard": "norm=standard with length=unit; choose one",
    "text:projection=merged": "length=unit needs the projection that projection=merged removes",
    "zero:blocks=0": "blocks must be at least 1, got 0",
    "text:blocks=2": "leave blocks out",
    "zero:learnt=nothing": "start from text",
    "zero:learnt=keys": "add length=unit",
    "zero:scale=0": "scale must be a positive number, got 0",
    "zero:scale=-1.5": "a positive number, got -1.5",
    "zero:scale=inf": "a positive number, got inf",
}
ALLOWED = (
    "text:norm=standard,length=kept",
    "zero:norm=standard,length=unit",
    "text:projection=merged,length=kept",
    "zero:blocks=1",
    "zero:blocks=2",
    "text:learnt=nothing",
    "text:learnt=keys",
    "zero:length=unit,learnt=keys",
    "text:scale=0.5",
    "zero:scale=classes",
)


@pytest.mark.parametrize("text", REFUSED)
def test_parts_that_exclude_each_other_are_refused_in_one_line_with_the_remedy(text: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[text]) as refusal:
        parse_head(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", [*ALLOWED, *HEADS])
def test_a_text_and_its_head_are_the_same(text: str) -> None:
    head = parse_head(text)
    assert parse_head(head_text(head)) == head == HeadSpec(**plain_head(head))  # type: ignore[arg-type]
