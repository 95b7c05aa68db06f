"""Text and TOML become values, or one clear line."""

import dataclasses

import pytest

from vitadapt.benchmark.config import RunConfig
from vitadapt.benchmark.sweep import expand, read_bench
from vitadapt.methods import METHODS, KAdaptation, LoRA
from vitadapt.methods.spec import method_text, parse_method
from vitadapt.training.recipe import Recipe, recipe_for
from vitadapt.utils.errors import ConfigError, UnknownName
from vitadapt.utils.fields import parse_fields


@pytest.mark.parametrize("name", METHODS)
def test_every_method_survives_its_text_form(name):
    method = METHODS[name]()
    assert parse_method(method_text(method)) == method
    assert method_text(method) == name


def test_fields_are_read_with_their_types():
    assert parse_method("lora:rank=8,alpha=16,targets=q+k+v") == LoRA(rank=8, alpha=16.0, targets=("q", "k", "v"))
    assert parse_method("kadaptation:bias=false") == KAdaptation(bias=False)
    assert method_text(LoRA(rank=8, targets=("q",))) == "lora:rank=8,targets=q"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("lorra", UnknownName, "lora"),
        ("lora:rnk=4", UnknownName, "rank"),
        ("lora:rank=four", ConfigError, "rank"),
        ("lora:targets=q+w", ConfigError, "targets"),
        ("lora:rank", ConfigError, "field=value"),
        ("linear-probe:rank=4", UnknownName, "rank"),
    ],
)
def test_what_cannot_be_is_named(text, error, message):
    with pytest.raises(error, match=message):
        parse_method(text)


@pytest.mark.parametrize("name", METHODS)
def test_a_configuration_survives_json_and_keeps_its_digest(name):
    method = METHODS[name]()
    fields = {"shots": None, "seed": 3, "protocol": "elevater-released" if method.breaks else "fixed"}
    config = RunConfig("random:tiny", method, "digits", image_size=32, **fields).resolved()
    again = RunConfig.from_dict(config.to_dict())
    assert again == config
    assert again.digest() == config.digest()


def test_the_digest_tells_every_field_apart():
    base = RunConfig("random:tiny", LoRA(), "digits")
    others = [
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, shots=None),
        dataclasses.replace(base, image_size=32),
        dataclasses.replace(base, method=LoRA(rank=5)),
        dataclasses.replace(base, recipe=Recipe(lr=0.5)),
        dataclasses.replace(base, precision="bf16"),
    ]
    assert len({config.digest() for config in [base, *others]}) == len(others) + 1


def test_a_field_that_is_younger_than_the_first_records_leaves_their_digests():
    base = RunConfig("random:tiny", LoRA(), "digits", recipe=Recipe())
    assert "decays" not in base.to_dict()["recipe"]
    other = dataclasses.replace(base, recipe=Recipe(decays="all"))
    assert other.digest() != base.digest() and RunConfig.from_dict(other.to_dict()) == other


def test_a_recipe_is_part_of_the_identity_even_when_the_protocol_chose_it():
    base = RunConfig("random:tiny", LoRA(), "digits")
    assert base.digest() == dataclasses.replace(base, recipe=recipe_for("fixed", LoRA())).digest()


@pytest.mark.parametrize("field", ["epochs", "batch_size", "accumulate"])
def test_a_recipe_without_steps_is_refused(field):
    with pytest.raises(ConfigError, match=field):
        Recipe(**{field: 0})


def test_no_shots_is_refused():
    with pytest.raises(ConfigError, match="nothing to train on"):
        RunConfig("random:tiny", LoRA(), "digits", shots=0)


def test_lists_multiply_and_methods_come_innermost():
    cells = expand({"backbone": "b", "dataset": "d", "method": ["lora", "bitfit"], "seed": [0, 1], "shots": "all"})
    assert [(c.seed, type(c.method).__name__) for c in cells] == [
        (0, "LoRA"),
        (0, "BitFit"),
        (1, "LoRA"),
        (1, "BitFit"),
    ]
    assert all(c.shots is None for c in cells)


def test_recipe_changes_apply_on_top_of_what_the_protocol_prescribes():
    (cell,) = expand({"backbone": "b", "dataset": "d", "method": "lora"}, {"epochs": 3})
    assert cell.recipe == dataclasses.replace(recipe_for("fixed", LoRA()), epochs=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no \\[bench\\]"),
        ("[bench]\nbackbone='b'\ndataset='d'", "method"),
        ("[bench]\nbackbone='b'\ndataset='d'\nmethod='lora'\nsede=1", "seed"),
        ("[bench]\nbackbone='b'\ndataset='d'\nmethod='lora'\n[recipe]\nepoch=1", "epochs"),
        ("[bench]\nbackbone='b'\ndataset='d'\nmethod='lora'\nprotocol='fixd'", "fixed"),
        ("bench = [", "not a TOML"),
    ],
)
def test_a_wrong_benchmark_file_is_named(tmp_path, text, message):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises((ConfigError, UnknownName), match=message):
        read_bench(path)


def test_a_missing_benchmark_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_bench(tmp_path / "absent.toml")


def test_fields_need_an_equals_sign():
    assert parse_fields("a=1, b=x") == {"a": "1", "b": "x"}
    with pytest.raises(ConfigError):
        parse_fields("a")
