"""What is known about classes beyond their names, appended to the prompts.

The files of the ELEVATER knowledge (JSON, in spite of their ending) are read from a folder that the user names:

    FOLDER[/external]/NAME_knowledge.tsv   [{"classname", "def_wiki", "path_wn", "def_wn"}, ...]
    FOLDER[/gpt3]/GPT3_NAME.tsv            [{"classname", "gpt3": [text, ...]}, ...]

where NAME is the data set's name here or on the leaderboard. Any other JSON file {class: [text, ...]} will do as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from ..data.class_names import class_key
from ..utils.errors import ConfigError, damaged
from ..utils.files import bytes_digest, expanded, parse_json, read_bounded, read_text
from ..utils.limits import JSON_FILE
from ..utils.optional import package

Dictionary = Literal["none", "wiktionary", "wordnet-definition", "wordnet-hierarchy"]
Items = Mapping[str, Sequence[str | None]]  # class -> texts about it; None is an empty entry
HIERARCHY = 3  # levels of the hierarchy that are named


@dataclass(frozen=True)
class Knowledge:
    """Which knowledge to use.

    path: the folder of the ELEVATER files, a JSON file {class: [texts]}, or "wordnet" for the installed WordNet.
    dictionary: one source of the folder (or of WordNet). gpt3: how many of the generated texts per class.
    together: "wiki-and-gpt3" takes both, "wiki-then-gpt3" the generated ones only where the dictionary lacks the class.
    content: the digest of the files, by which a configuration is known instead of by their place; `pinned` fills it in.
    """

    path: str
    dictionary: Dictionary = "none"
    gpt3: int = 0
    together: Literal["wiki-and-gpt3", "wiki-then-gpt3"] = "wiki-and-gpt3"
    content: str = ""

    def pinned(self, datasets: Sequence[str]) -> Knowledge:
        """The same with its content; WordNet has no file of its own and stays as it is. Raises ConfigError."""
        if self.path == "wordnet" or self.content:
            return self
        return replace(self, content=_digest(self._files(datasets).values()))

    def items(self, datasets: Sequence[str], names: Sequence[str]) -> Items:
        """Class -> its texts, for those of `names` that have any; `datasets` are the names that a file may bear.

        Raises ConfigError when a file is missing, is not what it should be, or has changed since it was pinned.
        """
        if self.path == "wordnet":
            return {} if self.dictionary == "none" else wordnet_items(names, self.dictionary)
        files = self._files(datasets)
        if self.content and self.content != _digest(files.values()):
            raise ConfigError(f"knowledge: {self.path} no longer holds what this run was planned with; plan it anew")
        if "own" in files:
            return _own_items(files["own"], names)
        dictionary, generated = self._rows(files)
        return {name: found for name in names if (found := self._of_class(name, dictionary, generated))}

    def _files(self, datasets: Sequence[str]) -> dict[str, Path]:
        """What is to be read: "own", or "dictionary" and "generated"."""
        path = expanded(self.path)
        if os.path.isfile(path):
            return {"own": path}
        if not os.path.isdir(path):
            raise ConfigError(f"knowledge: {path} is neither a folder nor a JSON file; check the path")
        known, files = list(filter(None, dict.fromkeys(datasets))), {}
        if self.dictionary != "none":
            files["dictionary"] = _find(path, "external", [f"{name}_knowledge.tsv" for name in known])
        if self.gpt3:
            files["generated"] = _find(path, "gpt3", [f"GPT3_{name}.tsv" for name in known])
        if not files:
            raise ConfigError(f"knowledge: say what to take from {path}: dictionary=wiktionary, gpt3=5, or both")
        return files

    def _rows(self, files: Mapping[str, Path]) -> tuple[dict[str, str | None], dict[str, list[str]]]:
        dictionary: dict[str, str | None] = {}
        generated: dict[str, list[str]] = {}
        if "dictionary" in files:
            column = _COLUMNS[self.dictionary]
            found = {_key(row): row[column] for row in _read_rows(files["dictionary"]) if column in row}
            dictionary = {
                key: " ".join(map(str, text[:HIERARCHY])) if isinstance(text, list) else text
                for key, text in found.items()
            }
        if "generated" in files:
            generated = {_key(row): list(row.get("gpt3") or ()) for row in _read_rows(files["generated"])}
            if any(not isinstance(text, str) for texts in generated.values() for text in texts):
                raise ConfigError(f"{files['generated']}: something else than texts stands under gpt3; get it again")
        if any(not isinstance(text, (str, type(None))) for text in dictionary.values()):
            raise ConfigError(f"{files['dictionary']}: a definition is no text; get the file again")
        return dictionary, generated

    def _of_class(self, name: str, dictionary: Mapping[str, str | None], generated: Mapping[str, list[str]]) -> Any:
        key = class_key(name)
        found = [dictionary[key]] if key in dictionary else []
        if self.together == "wiki-and-gpt3" or not found:
            found += generated.get(key, [])[: self.gpt3]
        return found


def suffix(name: str, item: str | None) -> str:
    """What is appended to a prompt: " ; NAME , ITEM" as words and punctuation marks with single blanks between them.

    An empty entry (None) adds one blank only.
    """
    return " " if item is None else " " + " ".join(words(f" ; {name} , {item}"))


def with_items(sentences: Sequence[str], name: str, items: Sequence[str | None]) -> list[str]:
    """Every sentence with every item; the sentences alone when there is no item."""
    if not items:
        return list(sentences)
    return [sentence + suffix(name, item) for item in items for sentence in sentences]


def words(text: str) -> list[str]:
    """Words and punctuation marks by the rules of the Penn treebank, sentence by sentence.

    Sentences end at every full stop that is followed by a blank. Whether a stop after an abbreviation stands apart is
    the only thing for which that is coarse, and CLIP's own tokeniser sets every punctuation mark apart anyway. Raises
    MissingPackage without nltk.
    """
    split, tokenise = _tokenisers()
    return [word for sentence in split(text) for word in tokenise(sentence)]


@cache
def _tokenisers() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    tokenize = package("nltk.tokenize", "knowledge")
    return tokenize.PunktSentenceTokenizer().tokenize, tokenize.NLTKWordTokenizer().tokenize


_COLUMNS = {"wiktionary": "def_wiki", "wordnet-definition": "def_wn", "wordnet-hierarchy": "path_wn"}
"""Dictionary -> the column of the ELEVATER files that holds it."""


def _key(row: Mapping[str, Any]) -> str:
    return class_key(row["classname"])


def _find(folder: Path, inner: str, names: Sequence[str]) -> Path:
    places = [place / name for place in (folder, folder / inner) for name in names]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConfigError(f"knowledge: {folder} has none of {', '.join(names)}")
    return path


def _digest(files: Iterable[Path]) -> str:
    """Of the content of the files, in their order; their names and places do not matter."""
    digests = []
    for path in files:
        with damaged(path, "check the path", ConfigError):
            digests.append(bytes_digest(read_bounded(path, JSON_FILE)))
    return bytes_digest("\n".join(digests).encode())


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = _read_json(path)
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise ConfigError(f"{path}: expected a JSON list of objects with a classname; get the file again")
    return cast(list[dict[str, Any]], rows)


def _is_row(row: Any) -> bool:
    known = isinstance(row, dict) and isinstance(row.get("classname"), str)
    return known and isinstance(row.get("gpt3", []), (list, type(None)))


def _own_items(path: Path, names: Sequence[str]) -> Items:
    content = _read_json(path)
    texts = {k: [v] if isinstance(v, str) else v for k, v in content.items()} if isinstance(content, dict) else None
    if texts is None or not all(isinstance(v, list) and all(isinstance(t, str) for t in v) for v in texts.values()):
        raise ConfigError(f"{path}: expected JSON of the form {{class: [text, ...]}}")
    by_key = {class_key(name): list(items) for name, items in texts.items()}
    known = {class_key(name) for name in names}
    if strange := [name for name in texts if class_key(name) not in known]:
        raise ConfigError(f"{path}: {strange[0]!r} is not a class; the classes are {', '.join(names[:5])}, ...")
    return {name: by_key[class_key(name)] for name in names if by_key.get(class_key(name))}


def _read_json(path: Path) -> Any:
    with damaged(path, "get the file again", ConfigError, "cannot be read as JSON"):
        return parse_json(read_text(path))


def wordnet_items(names: Sequence[str], dictionary: Dictionary) -> Items:
    """Definition, or the nearest hypernyms, of the first sense of each name as a noun, out of nltk's WordNet.

    Raises MissingPackage without nltk, and ConfigError without its data or for a dictionary that is not WordNet's.
    """
    if dictionary == "wiktionary":
        raise ConfigError("knowledge: WordNet has no wiktionary; use wordnet-definition or wordnet-hierarchy")
    wordnet = _wordnet()
    senses = {name: wordnet.synsets(name.strip().replace(" ", "_"), pos="n") for name in names}
    found = {name: _text_of(of_name[0], dictionary) for name, of_name in senses.items() if of_name}
    return {name: [text] for name, text in found.items() if text}


def _text_of(sense: Any, dictionary: Dictionary) -> str:
    if dictionary == "wordnet-definition":
        return str(sense.definition())
    above = list(reversed(sense.hypernym_paths()[0]))[1 : 1 + HIERARCHY]
    return " ".join(step.lemma_names()[0] for step in above)


def _wordnet() -> Any:
    wordnet = package("nltk.corpus", "knowledge").wordnet
    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise ConfigError(
            "knowledge: WordNet's data is not installed; run: python -m nltk.downloader wordnet, or set NLTK_DATA"
        ) from error
    return wordnet
