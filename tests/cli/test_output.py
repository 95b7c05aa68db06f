"""What is printed value by value is the text of the whole, and each value is out before the next one is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vitadapt.cli.output import echo_csv, echo_json, echo_json_list


@pytest.mark.parametrize("values", [[], [1], [{"a": [1, {}], "b": "x\n]é"}, [], None, {"c": {"d": 0.5}}]])
def test_a_list_written_value_by_value_is_the_same_text(
    values: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    echo_json(values)
    whole = capsys.readouterr().out
    echo_json_list(iter(values))
    assert capsys.readouterr().out == whole


def test_a_value_is_out_before_the_next_one_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def values() -> Iterator[list[str]]:
        for text in ("first", "second", "third"):
            yield [text]
            assert text in capsys.readouterr().out

    echo_json_list(values())
    echo_csv(["a"], values())
