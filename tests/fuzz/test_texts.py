"""What people and strangers write: texts of options, JSON, TOML, messages, and the numbers of docs/input.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from law import check_message

from vitadapt.benchmark.parallel.worker import gpus_of
from vitadapt.benchmark.sweep import expand
from vitadapt.data import open_dataset
from vitadapt.data.readers.helpers import integer
from vitadapt.methods.spec import parse_method
from vitadapt.nn.head_spec import parse_head
from vitadapt.utils import limits
from vitadapt.utils.errors import ConfigError, DataError, VitadaptError, printable
from vitadapt.utils.fields import parse_fields
from vitadapt.utils.files import parse_json, parse_toml, read_bounded, read_text
from vitadapt.weights.hint_query import parse_hints
from vitadapt.weights.load import check_name
from vitadapt.weights.sources import split_seed

DOCUMENT = Path(__file__).parents[2] / "docs" / "input.md"
SOURCES = sorted((Path(__file__).parents[2] / "src" / "vitadapt").rglob("*.py"))
quick = settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck)

PARSERS: dict[str, Callable[[str], object]] = {
    "method": parse_method,
    "head": parse_head,
    "fields": parse_fields,
    "hints": parse_hints,
    "seed": split_seed,
    "backbone": check_name,
    "dataset": open_dataset,
}
words = st.one_of(
    st.text(),
    st.from_regex(r"[a-z-]{2,10}(:[a-z_]{1,8}=[-0-9a-z.+]{1,9}(,[a-z_]{1,8}=[^,]{0,5})?)?", fullmatch=True),
    st.builds(
        "".join, st.lists(st.sampled_from(["lora", ":", "rank", "=", "8", ",", "@", "²", "~x", "\0", "/", "?", "&"]))
    ),
)


@pytest.mark.parametrize("parser", PARSERS)
@quick
@given(text=words)
@example("lora:rank=" + "9" * 5000)
@example("random:tiny@²")
@example("~nobody-of-this-name/x")
@example("x" * 5000 + ".csv")
@example("a\0b.csv")
@example("lora:rank=nan")
def test_any_text_of_an_option_is_a_value_or_one_line(parser: str, text: str) -> None:
    try:
        PARSERS[parser](text)
    except VitadaptError as error:
        check_message(str(error), None)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@quick
@given(plain)
def test_json_that_was_written_is_read_again(value: object) -> None:
    text = json.dumps(value)
    assert json.dumps(parse_json(text)) == text


@quick
@given(st.binary())
@example(b'{"a": 1, "a": 1}')
@example(b"[" * 5000)
@example("{}".encode("utf-16"))
@example(b"9" * 5000)
def test_any_bytes_are_json_and_toml_or_a_plain_error(data: bytes) -> None:
    for parse in (parse_json, lambda data: parse_toml(data.decode("utf-8"))):
        try:
            parse(data)
        except ValueError as error:
            assert str(error)


def test_a_key_is_given_once_and_nesting_ends() -> None:
    with pytest.raises(ValueError, match="gives the key 'a' twice"):
        parse_json('{"b": {"a": 1, "a": 2}}')
    assert parse_json("[" * 100 + "]" * 100) is not None
    for text in ("[" * 102 + "]" * 102, "[" * 900 + "]" * 900):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_toml(".".join("abc" * 60) + " = 1")


@pytest.mark.parametrize("text", ["", "1.0", "²", "1_0", "9" * 19, "0x1", "nan", "1 2"])
def test_whole_numbers_are_digits(text: str) -> None:
    with pytest.raises(DataError, match="where a number was expected"):
        integer("x.txt", text)
    assert integer("x.txt", " -000000000000000000007 ") == -7


def test_files_are_read_within_bounds(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(tmp_path / "a") == "abc" and len(read_bounded(tmp_path / "a", 6)) == 6
    for place, most in ((tmp_path / "a", 5), (tmp_path, 9), ("a\0", 9), (tmp_path / ("x" * 999), 9), ("/dev/zero", 9)):
        with pytest.raises(OSError, match=r"\w"):
            read_bounded(place, most)


@quick
@given(st.text())
@example("a\x1b[2Jb\u202e\ud800\n")
@example("x" * 10_000)
def test_a_message_shows_nothing_that_a_terminal_obeys(text: str) -> None:
    seen = str(DataError(text))
    assert seen.split("\n") == [*map(printable, seen.split("\n"))] and len(seen) <= max(limits.MESSAGE, 12 * len(text))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", seen)
    seen.encode("utf-8")


def test_a_benchmark_does_not_multiply_without_end() -> None:
    axes = {"backbone": ["random:tiny"] * 99, "dataset": ["digits"] * 99, "method": ["lora"] * 99, "seed": [*range(99)]}
    with pytest.raises(ConfigError, match="multiplies into 96,059,601 cells"):
        expand(axes)
    with pytest.raises(ConfigError, match="is no text"):
        expand({**axes, "method": [3], "backbone": "random:tiny", "dataset": "digits", "seed": 0})


@pytest.mark.parametrize("device", ["cuda:x", "cuda:-1", "cuda:99", "cuda:²"])
def test_a_device_that_is_not_there_is_named(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match=re.escape(device)):
        gpus_of(device)


def test_the_document_states_every_limit_as_it_is() -> None:
    documented = dict(re.findall(r"^\| `(\w+)` \| ([0-9]+(?: MiB)?) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))
    own = {name: value for name, value in vars(limits).items() if name.isupper() and name not in ("KIB", "MIB", "GIB")}
    shown = {name: f"{n >> 20} MiB" if n >= 1 << 20 and n % (1 << 20) == 0 else str(n) for name, n in own.items()}
    assert documented == shown


@pytest.mark.parametrize("room", ["data", "weights", "text", "benchmark/leaderboard", "classifier"])
def test_rooms_that_read_strangers_files_read_within_bounds(room: str) -> None:
    """No reader of a whole file, and no parser, beside those with a limit."""
    found = []
    for path in SOURCES:
        if not path.relative_to(SOURCES[0].parent).as_posix().startswith(f"{room}/"):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            if re.search(r"\.read_bytes\(\)|\.read_text\(|json\.loads?\(|tomllib\.|gzip\.decompress", line):
                found.append(f"{path.name}:{number} {line.strip()}")
    allowed = ("datasets.py", "prompts.py", "files.py", "predictions_json.py")  # ships with us, sealed, in pieces
    allowed += ("browser.py", "graphs.py", "pictures.py", "listed.py")  # what ships with us, pictures that we wrote
    allowed += ("executorch.py", "transformers_js.py")  # our own facts, answers of a process of ours
    allowed += ("deployed.py", "hub.py", "matlab.py")  # headers of files read before, a card of ours, a process of ours
    assert not [line for line in found if not line.startswith(allowed)]
