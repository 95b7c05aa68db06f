"""Several methods on one network, as one."""

from __future__ import annotations

from pathlib import Path

import pytest
from documented import documented_count
from families import FAMILIES, build, common

import vitadapt as va
from vitadapt.methods import (
    METHODS,
    BitFit,
    Discriminant,
    KgCoOp,
    LayerNorm,
    LinearProbe,
    LoRA,
    Method,
    Together,
    check_method,
)
from vitadapt.methods.spec import method_of, method_text, parse_method, plain_method
from vitadapt.nn.surgery import adapt, merge
from vitadapt.utils.errors import ConfigError, UnknownName


@pytest.mark.parametrize(
    "text", ["lora+bitfit", "lora:rank=2,targets=q+k+layernorm+adapter:bottleneck=8,blocks=0+1+vpt"]
)
def test_methods_together_are_one_method(text: str) -> None:
    method = parse_method(text)
    assert isinstance(method, Together) and method_text(method) == text and method_of(plain_method(method)) == method
    family = "dinov2-like"
    count = sum(documented_count(FAMILIES[family], part) for part in method.methods)
    check_method(method, common(family), count)


def test_nested_ones_are_the_same_as_flat_ones_and_what_is_misspelt_is_named() -> None:
    assert Together(Together(LoRA(), BitFit()), LayerNorm()) == parse_method("lora+bitfit+layernorm")
    assert METHODS.name_of(Together(LoRA(), BitFit())) == "lora+bitfit"
    with pytest.raises(UnknownName, match="did you mean bitfit"):
        parse_method("lora+bitfitt")
    with pytest.raises(ConfigError, match="input should be 'q', 'k'"):
        adapt(build("clip-like"), parse_method("lora:targets=q+x"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lora+dora", "slot 'q' already carries a delta"),
        ("adapter+houlsby", "cannot insert at 'mlp'"),
        ("vpt+vpt:deep=false", "added tokens already"),
        ("fact-tk:blocks=0+fact-tt:blocks=1", "fact-tt shares tensors by the same name"),
    ],
)
def test_two_methods_at_one_place_are_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        adapt(build("clip-like"), parse_method(text))


def test_two_methods_that_compute_the_head_are_refused() -> None:
    with pytest.raises(ConfigError, match="discriminant and proker each make the whole head; name one of them"):
        parse_method("discriminant+lora+proker")


def test_together_they_have_the_head_and_the_recipe_that_suits_both() -> None:
    from vitadapt.training.recipe import recipe_for

    assert Together(LoRA(), Discriminant()).default_head == Discriminant.default_head
    assert (
        recipe_for("fixed", parse_method("lora+fine-tune:blocks=last:1")).lr
        == recipe_for("fixed", METHODS["fine-tune"]()).lr
    )


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_declares_of_itself_holds_beside_another(name: str) -> None:
    method = METHODS[name]()
    both = Together(LinearProbe(), method)
    declared = [member for member in Method.__annotations__ if not member.startswith("_")]
    assert {"several_labels", "text_penalty", "head_share"} <= set(declared)
    assert {member: getattr(both, member) for member in declared} == {m: getattr(method, m) for m in declared}


def test_two_that_want_the_head_trained_in_different_ways_are_refused() -> None:
    both = Together(KgCoOp(), METHODS["2sfs"](head_share=0.25))
    assert (both.text_penalty, both.head_share) == (8.0, 0.25)
    with pytest.raises(ConfigError, match="2sfs and 2sfs differ in head_share; give both the same, or name one"):
        parse_method("2sfs:head_share=0.2+2sfs:head_share=0.3")


def test_a_run_is_recorded_saved_and_merged(tmp_path: Path) -> None:
    method = parse_method("lora:blocks=last:1+layernorm")
    config = va.RunConfig("random:tiny", method, "digits", 1, recipe=va.Recipe(lr=3e-2, epochs=3, probe_epochs=1))
    record = va.run(config, tmp_path / "runs")
    assert record.label == "lora:blocks=last:1+layernorm" and va.RunConfig.from_dict(record.config) == config.resolved()
    model = va.load_adapter(
        va.Store(tmp_path / "runs").path("adapters", record.digest), va.load_backbone("random:tiny")
    )
    assert "blocks.0.attention.qkv.deltas.q.a" not in merge(model.backbone).state_dict()
