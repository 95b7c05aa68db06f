"""From names to a matrix: filling, averaging, caching; and the prompts of the named data sets."""

import json

import pytest
import torch
import torch.nn.functional as F
from text_cases import open_clip_clip, openai_file

from vitadapt.data.class_names import class_key
from vitadapt.data.datasets import catalog
from vitadapt.text import Prompts, class_texts, fill, load_text_tower, prompts_of, read_class_names, text_matrix
from vitadapt.text.class_features import sentences
from vitadapt.text.prompts import prompt_sets
from vitadapt.utils.errors import ConfigError
from vitadapt.weights import load_backbone

NAMES, TEMPLATES = ["cat", "red panda", "tower"], ("a photo of a {}.", "art of the {}.")


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    name = openai_file(tmp_path_factory.mktemp("clip"))
    return load_text_tower(name, load_backbone(name))


def test_the_matrix_is_open_clips(tower):
    import open_clip

    tokenizer = open_clip.SimpleTokenizer()
    expected = open_clip.build_zero_shot_classifier(open_clip_clip(), tokenizer, NAMES, TEMPLATES)
    matrix = text_matrix(tower, class_texts("mine", NAMES, Prompts(templates=TEMPLATES)))
    torch.testing.assert_close(matrix.T, expected, atol=1e-5, rtol=0)


def test_classes_may_have_different_numbers_of_sentences(tower):
    texts = [["a cat", "cats"], ["a tower"]]
    parts = [F.normalize(F.normalize(tower.encode(t), dim=1).mean(0), dim=0) for t in texts]
    torch.testing.assert_close(text_matrix(tower, texts), torch.stack(parts), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="at least one"):
        text_matrix(tower, [["a cat"], []])


def test_the_cache_serves_the_same_texts_of_the_same_tower_only(tower, tmp_path, monkeypatch):
    texts = class_texts("mine", NAMES)
    first = text_matrix(tower, texts, tmp_path)
    (path,) = (tmp_path / "text").iterdir()
    calls = []
    inner = type(tower).encode_tokens
    monkeypatch.setattr(type(tower), "encode_tokens", lambda *a, **k: calls.append(1) or inner(*a, **k))
    assert torch.equal(text_matrix(tower, texts, tmp_path), first) and not calls
    text_matrix(tower, class_texts("mine", [*NAMES[:2], "bridge"]), tmp_path)
    assert len(calls) == 1
    text_matrix(tower, [[t for part in texts for t in part]], tmp_path)  # the same tokens, otherwise divided
    assert len(calls) == 2
    text_matrix(load_text_tower("random:tiny-clip", load_backbone("random:tiny-clip")), texts, tmp_path)
    assert len(calls) == 3
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert torch.equal(text_matrix(tower, texts, tmp_path), first) and len(calls) == 4


def test_progress_is_told(tower):
    steps = []
    text_matrix(tower, [["a"], ["b"]], progress=lambda *step: steps.append(step))
    assert steps == [("text", 2, 2)]


def test_a_template_has_one_kind_of_place():
    assert fill("a photo of a {}, a type of {}.", "cat") == "a photo of a cat, a type of cat."
    assert fill("{}", "a {b}") == "a {b}"


@pytest.mark.parametrize("template", ["a photo", "a {name}", "a {0}", "a {", "a } {}", "{} and {{}}", "{!r}"])
def test_other_placeholders_are_refused_in_one_line(template):
    with pytest.raises(ConfigError, match=r"write \{\}") as caught:
        Prompts(templates=("{}", template))
    assert "\n" not in str(caught.value) and repr(template) in str(caught.value)


def test_own_data_gets_its_folder_names_as_words():
    names, templates = prompts_of("mine", ["red_panda", "Cat", "grey  wolf_"])
    assert names == ["red panda", "Cat", "grey wolf"] and templates == ["a photo of a {}."]


def test_what_a_person_gives_wins():
    prompts = Prompts(("one", "two"), ("x {}",))
    assert prompts_of("mnist", ["0", "1"], prompts) == (["one", "two"], ["x {}"])
    assert prompts_of("mnist", ["0", "1"], Prompts(("1\tone",)))[0] == ["0", "one"]
    with pytest.raises(ConfigError, match="3 class names were given for 2 classes"):
        prompts_of("mnist", ["0", "1"], Prompts(("a", "b", "c")))
    with pytest.raises(ConfigError, match="'7' is not a class"):
        prompts_of("mnist", ["0", "1"], Prompts(("7\tseven",)))
    with pytest.raises(ConfigError, match="'1' has more than one name"):
        prompts_of("mnist", ["0", "1"], Prompts(("1\tone", "1\tuno")))


def test_class_names_are_read_from_lines_and_json(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffcat\n\n dog \n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("0\tcat\n1\tdog\n")
    (tmp_path / "c.json").write_text('{"0": "cat", "1": "dog"}')
    (tmp_path / "d.json").write_text('["cat", "dog"]')
    read = [read_class_names(tmp_path / name) for name in ("a.txt", "b.txt", "c.json", "d.json")]
    assert read == [("cat", "dog"), ("0\tcat", "1\tdog"), ("0\tcat", "1\tdog"), ("cat", "dog")]


@pytest.mark.parametrize(("name", "content"), [("a.txt", ""), ("b.txt", "a\tb\nc"), ("c.json", "{"), ("d.json", "[1]")])
def test_a_file_without_names_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=name):
        read_class_names(tmp_path / name)
    with pytest.raises(ConfigError, match="absent"):
        read_class_names(tmp_path / "absent.txt")


COUNTS = {
    **{"caltech-101": 34, "cifar-10": 18, "cifar-100": 18, "country211": 5, "dtd": 8, "eurosat": 3, "fer-2013": 6},
    **{"fgvc-aircraft": 2, "food-101": 1, "gtsrb": 3, "hateful-memes": 1, "kitti-distance": 1, "mnist": 1},
    **{"oxford-flowers-102": 1, "oxford-pets": 1, "patch-camelyon": 1, "rendered-sst2": 1, "resisc45": 18},
    **{"stanford-cars": 8, "voc-2007": 1, "imagenet-1k": 80, "sun397": 2, "svhn": 6, "ucf101": 1, "retinopathy": 1},
    **{"clevr-count": 1, "clevr-distance": 1, "dmlab": 1},
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_data_set_of_the_benchmark_has_its_templates(name):
    prompts = prompt_sets()[name]
    assert len(prompts.templates) == len(set(prompts.templates)) == COUNTS[name]
    assert prompts.source
    for template in prompts.templates:
        assert "cat" in fill(template, "cat")
    assert name in catalog()


@pytest.mark.parametrize("name", [name for name in COUNTS if prompt_sets()[name].words])
def test_every_class_of_the_catalog_finds_its_words(name):
    classes, words = catalog()[name].classes, prompt_sets()[name].words
    assert [label for label in classes if class_key(label) not in words] == []
    assert sorted(prompts_of(name, classes)[0]) == sorted(set(words.values()))


def test_an_edition_has_its_own_templates_or_those_of_what_it_publishes():
    assert sentences("coop-dtd", ["banded"], None) == [["banded texture."]]
    assert sentences("vtab1k-dtd", ["banded"], None) == sentences("dtd", ["banded"], None)
    assert len(sentences("imagenet-r", ["tench"], None)[0]) == 80
    for name, row in catalog().items():
        if name.startswith("coop-"):  # their own template, and the words of the data set for its classes
            assert len(prompt_sets()[name].templates) == 1
            assert prompts_of(name, row.classes)[0] == prompts_of(row.edition_of, row.classes)[0]


def test_spellings_of_the_sources_lead_to_the_same_words():
    assert prompts_of("eurosat", ["AnnualCrop", "SeaLake"])[0] == ["annual crop land", "lake or sea"]
    assert prompts_of("caltech-101", ["Faces", "Faces_easy"])[0] == ["off-center face", "centered face"]
    assert prompts_of("fer-2013", ["anger", "disgust"])[0] == ["angry", "disgusted"]
    assert prompts_of("gtsrb", ["00014"])[0] == ["stop"]
    assert prompts_of("clevr-count", ["3 objects"]) == (["three"], ["a picture of {} objects"])
    assert prompts_of("country211", ["CH"])[0] == ["Switzerland"]
    assert prompts_of("digits", ["3"]) == (["3"], ['a photo of the number: "{}".'])


def test_the_names_agree_with_clip_benchmark():
    """Where both have them; the published lists are the same up to the order."""
    resources = pytest.importorskip("importlib.resources")
    try:
        folder = resources.files("clip_benchmark") / "datasets"
    except ModuleNotFoundError:
        pytest.skip("clip-benchmark is not installed")
    theirs = json.loads((folder / "en_classnames.json").read_text())
    pairs = {"country211": "country211", "gtsrb": "gtsrb", "caltech-101": "caltech101_vtab", "eurosat": "eurosat"}
    for ours, name in pairs.items():
        assert set(prompt_sets()[ours].words.values()) == set(theirs[name])
