"""The texts about the classes of a data set: their names in words, and the sentences with a place for a name.

prompts/NAME.json, one file per data set: `templates` with one "{}" each; `classes`, the name in words first and then
other spellings that data sources use (absent: the data set's own names are the words), or `classes_of`, another file
that has them; `also`, further data sets with the same classes; and where both lists come from. Python knows none of
the names.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..data.class_names import class_key
from ..utils.errors import ConfigError, damaged
from ..utils.fields import build
from ..utils.files import parse_json, read_text
from .knowledge import Knowledge

DEFAULT_TEMPLATES = ("a photo of a {}.",)
"""For data of one's own."""


@dataclass(frozen=True)
class PromptSet:
    """One file of prompts. `words` leads from the key of every known spelling to the name in words."""

    dataset: str
    templates: tuple[str, ...]
    words: Mapping[str, str]
    source: str


@dataclass(frozen=True)
class Prompts:
    """What a person says instead of the built-in prompts; empty parts stand for those.

    class_names: one name per class in the order of the classes, or "class<tab>name" for some or all of them.
    templates: sentences with one "{}" each. Raises ConfigError for a template without a place for the name.
    """

    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    knowledge: Knowledge | None = None

    def __post_init__(self) -> None:
        for template in self.templates:
            check_template(template)


def check_template(template: str) -> None:
    """Raises ConfigError unless `template` has a place for the class name, written {}, and no other braces."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ConfigError(f"template {template!r}: {error}; write {{}} where the class name goes") from error
    if strange := [field for field in fields if field]:
        raise ConfigError(f"template {template!r}: unknown placeholder {{{strange[0]}}}; write {{}} for the class name")
    if not fields or template.replace("{}", "").count("{"):
        raise ConfigError(f"template {template!r} has no place for the class name; write {{}} where it goes")


def fill(template: str, name: str) -> str:
    """The sentence about `name`. Raises ConfigError for a template that `check_template` refuses."""
    check_template(template)
    return template.replace("{}", name)


@cache
def prompt_sets() -> Mapping[str, PromptSet]:
    """Data set -> its prompts."""
    found, rows = {}, {}
    for file in sorted(resources.files(__package__).joinpath("prompts").iterdir(), key=lambda entry: entry.name):
        row = json.loads(file.read_text(encoding="utf-8"))
        rows[row["dataset"]] = row
    for row in rows.values():
        named = rows[row.get("classes_of", row["dataset"])]
        words = {class_key(spelling): names[0] for names in named.get("classes", ()) for spelling in names}
        source = "; ".join(dict.fromkeys((row["classes_source"], row["templates_source"])))
        for name in (row["dataset"], *row.get("also", ())):
            found[name] = PromptSet(name, tuple(row["templates"]), words, source)
    return found


def prompts_of(dataset: str, classes: Sequence[str], prompts: Prompts | None = None) -> tuple[list[str], list[str]]:
    """The names in words of `classes`, in their order, and the templates to put them into.

    `prompts` wins over what is known of `dataset`, which wins over the classes' own names (with blanks for
    underscores) and "a photo of a {}.". Raises ConfigError when names were given that do not fit the classes.
    """
    known = prompt_sets().get(dataset)
    prompts = prompts or Prompts()
    words = known.words if known else {}
    names = [words.get(class_key(name), in_words(name)) for name in classes]
    templates = prompts.templates or (known.templates if known else DEFAULT_TEMPLATES)
    if prompts.class_names:
        names = _given_names(prompts.class_names, classes, names)
    return names, list(templates)


def in_words(name: str) -> str:
    """A folder's or a file's name for a class as words: "red_panda" -> "red panda"."""
    return " ".join(name.replace("_", " ").split())


def _given_names(given: Sequence[str], classes: Sequence[str], names: list[str]) -> list[str]:
    if not any("\t" in line for line in given):
        if len(given) != len(classes):
            raise ConfigError(f"{len(given)} class names were given for {len(classes)} classes; one line per class")
        return list(given)
    by_class = dict(line.split("\t", 1) for line in given)
    if len(by_class) < len(given):
        twice = next(label for label, count in Counter(line.split("\t")[0] for line in given).items() if count > 1)
        raise ConfigError(f"class names: {twice!r} has more than one name; leave one line for each class")
    strange = sorted(by_class.keys() - set(classes))
    if strange:
        raise ConfigError(f"class names: {strange[0]!r} is not a class; the classes are {', '.join(classes[:5])}, ...")
    return [by_class.get(label, name) for label, name in zip(classes, names, strict=True)]


def read_class_names(path: Path) -> tuple[str, ...]:
    """`Prompts.class_names` out of a file: one name per line, class<tab>name, a JSON list, or JSON {class: name}.

    Raises ConfigError naming the file when it is missing, empty, or holds something else.
    """
    with damaged(path, "write one class name per line, or JSON {class: name}", ConfigError):
        text = read_text(path)
        names = _names_in(parse_json(text)) if path.suffix.lower() == ".json" else text.splitlines()
    lines = [line.strip() for line in names if line.strip()]
    mixed = {line.count("\t") for line in lines}
    if not lines or mixed not in ({0}, {1}):
        raise ConfigError(f"{path}: write one class name per line, or class<tab>name in every line")
    return tuple(lines)


def _names_in(content: Any) -> list[str]:
    if isinstance(content, dict):
        content = [f"{label}\t{name}" for label, name in content.items() if isinstance(name, str)] or None
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ValueError("it holds no list of names")
    return content


def build_prompts(values: Mapping[str, Any]) -> Prompts:
    """Prompts from plain values. Raises UnknownName or ConfigError."""
    fields = dict(values)
    knowledge = fields.pop("knowledge", None)
    known = build(Knowledge, knowledge, "knowledge") if knowledge else None
    if known is None and knowledge is not None:
        raise ConfigError("knowledge: needs a path")
    return build(Prompts, fields, "prompts", knowledge=known)
