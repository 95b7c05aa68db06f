"""Knowledge about classes: read from the ELEVATER files, appended word by word as published."""

import json
import shutil
from pathlib import Path

import pytest

from vitadapt.benchmark.config import RunConfig
from vitadapt.methods import ZeroShot
from vitadapt.text import Knowledge, Prompts, class_texts
from vitadapt.text.knowledge import suffix, with_items, wordnet_items, words
from vitadapt.utils.errors import ConfigError

nltk = pytest.importorskip("nltk")


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"classname": "cat", "def_wiki": 'A "small" animal.', "path_wn": ["feline", "wild_cat", "beast", "thing"]},
        {"classname": "dog", "def_wiki": None, "path_wn": "", "def_wn": ""},
        {"classname": "tower", "def_wn": "a tall building"},
    ]
    generated = [{"classname": n, "gpt3": [f"{n} text {i}" for i in range(5)]} for n in ("cat", "dog", "tower")]
    (tmp_path / "external").mkdir()
    (tmp_path / "external" / "pets_knowledge.tsv").write_text(json.dumps(rows))
    (tmp_path / "GPT3_pets.tsv").write_text(json.dumps(generated))
    return tmp_path


NAMES = ["cat", "dog", "tower", "bridge"]


def items(folder, dictionary="none", gpt3=0, together="wiki-and-gpt3"):
    found = Knowledge(str(folder), dictionary, gpt3, together).items(("mine", "pets"), NAMES)
    return {name: list(texts) for name, texts in found.items()}


def test_the_dictionaries(folder):
    assert items(folder, "wiktionary") == {"cat": ['A "small" animal.'], "dog": [None]}
    assert items(folder, "wordnet-hierarchy") == {"cat": ["feline wild_cat beast"], "dog": [""]}
    assert items(folder, "wordnet-definition") == {"dog": [""], "tower": ["a tall building"]}


def test_generated_texts_join_the_dictionary_or_fill_its_gaps(folder):
    both = items(folder, "wiktionary", 2)
    assert both["cat"] == ['A "small" animal.', "cat text 0", "cat text 1"]
    assert both["tower"] == ["tower text 0", "tower text 1"] and "bridge" not in both
    then = items(folder, "wiktionary", 2, "wiki-then-gpt3")
    assert then["cat"] == ['A "small" animal.'] and then["tower"] == both["tower"]
    assert then["dog"] == [None]  # an empty entry is an entry
    assert items(folder, gpt3=1) == {name: [f"{name} text 0"] for name in NAMES[:3]}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("a tall building", " ; cat , a tall building"),
        ("", " ; cat ,"),
        (None, " "),
        ('A "small" animal.', " ; cat , A `` small '' animal ."),
        ("It's one. Two, three!", " ; cat , It 's one . Two , three !"),
        ("don't (ever)", " ; cat , do n't ( ever )"),
    ],
)
def test_the_suffix_is_a_blank_and_the_words(item, expected):
    assert suffix("cat", item) == expected


def test_every_item_meets_every_template():
    texts = with_items(["a photo of a cat.", "a cat."], "cat", ["x", "y"])
    assert texts == [
        "a photo of a cat. ; cat , x",
        "a cat. ; cat , x",
        "a photo of a cat. ; cat , y",
        "a cat. ; cat , y",
    ]
    assert with_items(["a cat."], "cat", []) == ["a cat."]


def test_prompts_with_knowledge(folder):
    prompts = Prompts(templates=("a {}.",), knowledge=Knowledge(str(folder), "wordnet-definition"))
    texts = class_texts("mine", ["tower", "bridge"], prompts, also=("pets",))
    assert texts == [["a tower. ; tower , a tall building"], ["a bridge."]]


def test_texts_of_ones_own(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"Cat": "a pet", "red_panda": ["red", "fluffy"]}))
    found = Knowledge(str(path)).items(("x",), ["cat", "red panda", "dog"])
    assert found == {"cat": ["a pet"], "red panda": ["red", "fluffy"]}
    path.write_text(json.dumps({"whale": ["big"]}))
    with pytest.raises(ConfigError, match="'whale' is not a class"):
        Knowledge(str(path)).items(("x",), ["cat"])


def test_a_configuration_knows_knowledge_by_its_content_not_by_its_place(tmp_path, folder):
    def digest(path, dictionary="wiktionary"):
        prompts = Prompts(knowledge=Knowledge(str(path), dictionary, gpt3=1))
        return RunConfig("b", ZeroShot(), "some/pets", prompts=prompts).digest()

    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert digest(moved) == digest(folder) != digest(folder, "wordnet-definition")
    (moved / "GPT3_pets.tsv").rename(moved / "external" / "unused.tsv")
    (moved / "gpt3").mkdir()
    (moved / "external" / "unused.tsv").rename(moved / "gpt3" / "GPT3_pets.tsv")
    assert digest(moved) == digest(folder)
    (moved / "external" / "pets_knowledge.tsv").write_text("[]")
    assert digest(moved) != digest(folder)


def test_a_recorded_configuration_keeps_its_name_when_the_file_is_gone(tmp_path):
    path = tmp_path / "own.json"
    path.write_text('{"cat": "a pet"}')
    config = RunConfig("b", ZeroShot(), "d", prompts=Prompts(knowledge=Knowledge(str(path)))).resolved()
    again = RunConfig.from_dict(config.to_dict())
    path.write_text('{"cat": "a beast"}')
    assert again.digest() == config.digest()
    with pytest.raises(ConfigError, match="no longer holds what this run was planned with"):
        again.prompts.knowledge.items(("d",), ["cat"])
    path.unlink()
    assert again.digest() == config.digest()


def test_a_folder_of_which_nothing_is_taken_is_refused(folder):
    with pytest.raises(ConfigError, match="dictionary=wiktionary"):
        Knowledge(str(folder)).items(("pets",), ["cat"])


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": [1]}', '{"a": 1}'])
def test_a_file_that_is_something_else_is_named(tmp_path, content):
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(ConfigError, match=r"own\.json"):
        Knowledge(str(tmp_path / "own.json")).items(("x",), ["a"])


def test_a_missing_folder_or_file_is_named(tmp_path, folder):
    with pytest.raises(ConfigError, match="absent"):
        Knowledge(str(tmp_path / "absent")).items(("x",), ["a"])
    with pytest.raises(ConfigError, match=r"other_knowledge\.tsv"):
        Knowledge(str(folder), "wiktionary").items(("other",), ["a"])
    (folder / "GPT3_pets.tsv").write_text("[{}]")
    with pytest.raises(ConfigError, match=r"GPT3_pets\.tsv"):
        Knowledge(str(folder), gpt3=1).items(("pets",), ["a"])


def test_words_without_a_corpus(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    assert words("A cat, e.g. Tom. He's 3!") == ["A", "cat", ",", "e.g", ".", "Tom", ".", "He", "'s", "3", "!"]


def test_wordnet_without_its_data_is_one_line(monkeypatch):
    from nltk.corpus.util import LazyCorpusLoader

    monkeypatch.setattr(nltk.data, "path", [])
    fresh = LazyCorpusLoader("wordnet", nltk.corpus.reader.wordnet.WordNetCorpusReader, None)
    monkeypatch.setattr(nltk.corpus, "wordnet", fresh)
    with pytest.raises(ConfigError, match="data is not installed") as caught:
        Knowledge("wordnet", "wordnet-definition").items(("x",), ["cat"])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no wiktionary"):
        wordnet_items(["cat"], "wiktionary")
