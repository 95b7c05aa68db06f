"""Every registered method, on every family of backbones, keeps every law; and the documentation counts right."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache

import more_methods
import pytest
import torch
from documented import ROWS, TABLE, documented_count
from families import ALL, CLIP_LIKE, FAMILIES, PARTS, TEXTS, build, common
from fault_cases import TASTE
from pairs import turns
from torch import nn

from vitadapt.methods import (
    BOFT,
    DTL,
    METHODS,
    OFT,
    SVD,
    VPT,
    Adapter,
    AdapterPlus,
    Attention,
    BitFit,
    CLIPAdapter,
    Compacter,
    Convpass,
    CoOp,
    DoRA,
    FactTK,
    FineTune,
    KAdaptation,
    LayerNorm,
    LinearProbe,
    LoHa,
    LoKr,
    LoRA,
    MaPLe,
    PartialK,
    PHMAdapter,
    ProLIP,
    RepAdapter,
    SideTuning,
    TextPrior,
    Together,
    VeRA,
)
from vitadapt.methods.audit import LEARNABLE, TensorReport, audit, probe, require_learnable
from vitadapt.methods.depth import BlockMethod
from vitadapt.methods.kadaptation import FullRuleKronecker, ThinKronecker
from vitadapt.methods.laws import LAWS, check_method
from vitadapt.methods.spec import method_text, parse_method
from vitadapt.methods.testing import Case
from vitadapt.nn.block import SLOTS
from vitadapt.nn.surgery import Method, adapt, towers_of, trainable
from vitadapt.nn.vit import Preprocess, ViT, ViTConfig
from vitadapt.utils.errors import ConfigError, MethodDefect, NotApplicable

PLAIN = tuple(slot for slot in SLOTS if slot != "gate")
VARIANTS: list[Method] = [
    KAdaptation(rule_rank=0),
    KAdaptation(n=16, rank=2, rule_rank=3, scale=2.0, bias=False, blocks=(0,)),
    KAdaptation(targets=PLAIN),
    KAdaptation(rule_rank=0, bias=False, targets=PLAIN),
    KAdaptation(bias=False, targets=("k",)),
    LoRA(rank=2, alpha=8.0, targets=PLAIN, blocks="last:1"),
    Adapter(bottleneck=8, activation="gelu", blocks=[1]),
    Compacter(bottleneck=32, n=2, rank=3),
    PHMAdapter(bottleneck=32, n=8),
]
NETWORK_FREE = {"discriminant", "linear-probe", "zero-shot", "bitfit", "layernorm", "fine-tune"}  # need no slots
WORDS = {name for name, kind in METHODS.items() if towers_of(kind()) == "text"}
HEADS = {name for name, kind in METHODS.items() if issubclass(kind, TextPrior) and kind.adapt is TextPrior.adapt}
OF_PARTS: dict[str, list[Method]] = {  # a family with unusual parts -> what could go wrong with them
    "dinov3-like": [KAdaptation(), BitFit(), VPT()],
    "dinov3-plus-like": [LoRA(targets=SLOTS), more_methods.Scaled(targets=("gate", "fc2"))],
    "siglip-like": [KAdaptation(), FineTune(), VPT(deep=False)],
    "pe-like": [LoRA(), more_methods.Beside(place="attention-parallel"), VPT(deep=False)],
    "eva02-like": [KAdaptation(n=16, targets=("k", "gate"), bias=False), LayerNorm(), Attention()],
    "aimv2-like": [LoRA(targets=SLOTS), LayerNorm(), FineTune()],
    "beit-like": [LoRA(targets=PLAIN), Attention(), FineTune(), VPT(), Adapter(bottleneck=8)],
    "radio-like": [LoRA(), FineTune(), VPT(deep=False)],
}
PRESETS = {"clip-lora", "clip-svd", "2sfs"}  # other methods with other defaults
ELSEWHERE = {*PRESETS, *HEADS, *WORDS, "prolip"}  # HEADS change no network; WORDS need texts, prolip a projection
NAMES = [name for name, kind in METHODS.items() if name not in ELSEWHERE and not kind.breaks]
OF_TEXT: list[Method] = [
    *(kind(towers="text") for kind in (LoRA, KAdaptation, LayerNorm, Adapter)),
    SVD(towers="both", blocks="last:1"),
    Together(BitFit(), LoRA(towers="both", targets=PLAIN)),
]
PAIRS: list[tuple[Method, str]] = [
    *turns([METHODS[name]() for name in NAMES], list(FAMILIES)),
    *((METHODS[name](), "convnet") for name in sorted(NETWORK_FREE)),
    *turns(VARIANTS, ["clip-like", "class+average"]),
    *((method, family) for family, methods in OF_PARTS.items() for method in methods),
    *turns(more_methods.OWN.values(), ["dinov2-like", "gap-like"]),
    *turns(OF_TEXT[:2], list(TEXTS)),
    *turns([CoOp(tokens=2), MaPLe()], list(TEXTS)),
    *((method, "clip-text-like") for method in OF_TEXT[2:]),
]
UNUSUAL: list[tuple[Method, str]] = [
    (VPT(tokens=2, deep=False), "class+average"),
    (VPT(tokens=2, blocks=(1,)), "gap-like"),
    (RepAdapter(rank=6, groups=1, scale=0.5), "dinov2-like"),
    (FactTK(rank=3, blocks=(0,)), "class+average"),
    (DoRA(rank=2, targets=PLAIN), "no-qkv-bias"),
    (VeRA(rank=5, targets=PLAIN), "class+average"),
    (LoKr(factor=4, rank=2, targets=PLAIN), "clip-like"),
    (LoHa(rank=2, targets=PLAIN), "gap-like"),
    (OFT(group=8, targets=PLAIN), "deit-like"),
    (BOFT(group=4, factors=3, targets=PLAIN), "class+average"),
    (PartialK(k=2), "dinov2-like"),
    (SideTuning(reduction=4, blocks=(1,)), "class+average"),
    (DTL(rank=1, blocks=(0,)), "clip-like"),
    (MaPLe(tokens=3, depth=1), "class+average"),
    (ProLIP(), "clip-like"),
    (ProLIP(), "pe-like"),
    (CLIPAdapter(reduction=2), "clip-like"),
    (CLIPAdapter(), "siglip-like"),
]


def name_in_report(value: object) -> str | None:
    if type(value).__module__ == more_methods.__name__:
        return str(value)
    return method_text(value) if isinstance(value, Method) else getattr(value, "__name__", None)


def expected_count(method: Method, family: str) -> int | None:
    """None where docs/methods.md has no formula: for other methods, and networks that are no ViTs."""
    named = type(method).__module__ != more_methods.__name__
    documented = family in ALL or (family in TEXTS and (hasattr(method, "targets") or isinstance(method, CoOp)))
    return documented_count((ALL | TEXTS)[family], method) if documented and named else None


@pytest.mark.parametrize(("method", "family"), [*PAIRS, *UNUSUAL], ids=name_in_report)
def test_a_method_keeps_every_law(method: Method, family: str) -> None:
    check_method(method, common(family), expected_count(method, family))


def test_every_method_and_every_family_is_tried() -> None:
    tried = [*PAIRS, *UNUSUAL]
    assert {type(method) for method, _ in tried} >= {METHODS[name] for name in NAMES}
    assert {family for _, family in tried} == {*ALL, *TEXTS, "convnet"}


def test_every_family_with_unusual_parts_is_tried() -> None:
    assert OF_PARTS.keys() == PARTS.keys()


def test_a_gate_is_asked_of_those_that_have_one_alone() -> None:
    with pytest.raises(NotApplicable, match="have no gate; leave gate out of targets"):
        adapt(build("deit-like"), LoRA(targets=("q", "gate")))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - NETWORK_FREE - HEADS - WORDS - {"2sfs"}))
def test_checking_a_method_on_a_network_it_cannot_adapt_says_not_applicable(name: str) -> None:
    with pytest.raises(NotApplicable):
        check_method(METHODS[name](), build("convnet"))


def test_a_method_excuses_itself_from_the_audit_by_the_name_of_a_law() -> None:
    assert LEARNABLE in {law.__name__ for law in LAWS}


def test_the_page_documents_every_method_once() -> None:
    assert [name for name, *_ in ROWS] == list(dict.fromkeys(TABLE)) and TABLE.keys() == METHODS.keys()


CLIP_B32 = ViTConfig(
    width=768,
    depth=12,
    heads=12,
    patch=32,
    patch_bias=False,
    ln_pre=True,
    projection=512,
    activation="quick_gelu",
    norm_eps=1e-5,
)
FIGURES = {
    "kadaptation": 50_176,
    "lora": 147_456,
    "adapter": 1_208_064,
    "compacter": 48_448,
    "fine-tune": 87_849_216,
    "linear-probe": 0,
    "zero-shot": 0,
    "kadaptation-released": 50_176,
    "lora-released": 147_456,
    "adapter-released": 1_208_064,
    "compacter-released": 48_384,
    "adapter-plus": 165_984,  # these as published: docs/methods.md
    "dtl": 36_864,
    "fact-tk": 30_976,
    "prolip": 393_216,
    "svd": 55_296,
    "vpt": 92_160,
}


@cache
def full_size() -> ViT:
    with torch.device("meta"):
        return ViT(CLIP_B32).requires_grad_(False)


@pytest.mark.parametrize("name", METHODS)
def test_documented_count_at_full_size(name: str) -> None:
    with torch.device("meta"):
        adapted = adapt(full_size(), METHODS[name]())
    real = sum(p.numel() for p in trainable(adapted).values())
    assert documented_count(CLIP_B32, METHODS[name]()) == TABLE[name][1] == real == FIGURES.get(name, real)


PUBLISHED = {  # on ViT-B/16: inserted parameters in the result files of the comparison by OSU (docs/methods.md)
    "adaptformer:bottleneck=4": 82_992,
    "adaptformer:bottleneck=16": 304_320,
    "houlsby:bottleneck=4": 165_984,
    "houlsby": 313_536,
    "pfeiffer": 156_768,
    "pfeiffer:bottleneck=64": 1_189_632,
    "convpass": 327_552,
    "convpass:bottleneck=16": 664_320,
    "repadapter": 239_808,
    "repadapter:rank=32": 903_936,
    "fact-tk:rank=32": 86_528,
    "fact-tk:rank=64": 369_664,
    "fact-tt:rank=8": 21_504,
    "fact-tt:rank=32": 196_608,
    "vpt:tokens=100": 921_600,
    "vpt:tokens=5,deep=false": 3_840,
    "diff-fit": 140_544,
    "bitfit": 102_912,
    "layernorm": 38_400,
}


ODD = replace(
    PARTS["pe-like"],
    **{"channels": 5, "preprocess": Preprocess((0.5,) * 5, (0.5,) * 5), "norm": "rms", "projection_bias": True},
    **{"patch_norm": True, "pool_hidden": 48, "qk_norm": True, "gated": True, "hidden": 96},
)
"""Parts that no family has together."""


@pytest.mark.parametrize("family", ["clip-like", "aimv2-like", "odd"] if TASTE else [*ALL, "odd"])
def test_documented_counts_hold_for_every_family(family: str) -> None:
    config = ODD if family == "odd" else ALL[family]
    vit, found = ViT(config).requires_grad_(False), {}
    for name, kind in METHODS.items():
        with suppress(NotApplicable, ConfigError):
            found[name] = sum(parameter.numel() for parameter in trainable(adapt(vit, kind())).values())
    assert found == {name: documented_count(config, METHODS[name]()) for name in found} and len(found) > 25


def test_counts_are_those_of_published_comparisons() -> None:
    config = ViTConfig(width=768, depth=12, heads=12, patch=16)
    assert {text: documented_count(config, parse_method(text)) for text in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("name", ["kadaptation", "lora", "adapter", "compacter"])
def test_documented_count_does_not_depend_on_the_patch_size(name: str) -> None:
    assert documented_count(replace(CLIP_B32, patch=16), METHODS[name]()) == FIGURES[name]
    assert documented_count(replace(CLIP_B32, patch=16), FineTune()) == 86_192_640


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LoRA(rank=0), "rank must be in 1..64, got 0"),
        (LoRA(rank=65), "rank must be in 1..64, got 65"),
        (LoRA(targets=("x",)), "'x' is not a slot; the slots are q, k"),
        (LoRA(targets=()), "at least one slot"),
        (LoRA(targets=("q", "q")), "only once"),
        (KAdaptation(n=0), "n=0 must divide the sides of q"),
        (KAdaptation(n=-2), "n=-2 must divide"),
        (KAdaptation(n=48), "n=48 must divide the sides of q"),
        (KAdaptation(rank=0), r"rank must be 1\.\.2"),
        (KAdaptation(rank=3), r"rank must be 1\.\.2"),
        (KAdaptation(rule_rank=-1), r"rule_rank 0\.\.32"),
        (KAdaptation(rule_rank=33), r"rule_rank 0\.\.32"),
        (KAdaptation(targets=("q", "qkv")), "'qkv' is not a slot"),
        (KAdaptation(targets=()), "at least one slot"),
        (KAdaptation(targets=("v", "v")), "only once"),
        (Adapter(bottleneck=0), "bottleneck must be at least 1"),
        (Adapter(activation="swish"), "'swish' is unknown; choose one of gelu"),
        (Compacter(rank=0), "full-rank weights are the method phm-adapter"),
        (Compacter(rank=17), "rank=17 must not exceed 16"),
        (Compacter(n=3), "n=3 must divide the width 64"),
        (Compacter(n=0), "n=0 must divide"),
        (Compacter(bottleneck=6), "must divide the width 64 and the bottleneck 6"),
        (PHMAdapter(bottleneck=0), "bottleneck 0"),
        (PHMAdapter(n=128), "n=128 must divide"),
        (AdapterPlus(bottleneck=0), "bottleneck=0 must be at least 1"),
        (Convpass(bottleneck=0), "bottleneck must be at least 1"),
        (VPT(tokens=0), "tokens=0 must be at least 1"),
        (VPT(deep=False, blocks=(0,)), "deep=false is for all blocks"),
        (RepAdapter(rank=3), "groups=2 must divide rank=3"),
        (FactTK(rank=65), r"rank must be in 1\.\.64"),
        (DoRA(rank=0), r"dora: rank must be in 1\.\.64"),
        (VeRA(rank=0), "rank=0 must be at least 1"),
        (LoKr(factor=5), "factor=5 must divide"),
        (OFT(group=5), "group=5 must be 2 or more and divide the 64 inputs of q"),
        (BOFT(group=8, factors=5), r"group \* 2\^\(factors - 1\) must divide the 64 inputs of q"),
        (PartialK(k=3), r"k must be in 1\.\.2, got 3"),
        (SideTuning(reduction=5), "reduction=5 must divide the width 64"),
        (DTL(rank=0), r"rank must be in 1\.\.64"),
        (CLIPAdapter(reduction=65), r"reduction must be in 1\.\.64, got 65"),
    ],
    ids=str,
)
def test_impossible_hyper_parameters_are_refused_in_one_line_with_the_remedy(method: Method, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        adapt(build("deit-like"), method)
    assert "\n" not in str(refusal.value)


BOUNDS: list[Method] = [
    *(LoRA(rank=1), LoRA(rank=64), LoHa(rank=1), DoRA(rank=1), DTL(rank=1), DTL(rank=64), FactTK(rank=1)),
    *(KAdaptation(n=1), KAdaptation(n=32, rank=2), KAdaptation(rule_rank=32), KAdaptation(n=64, rank=1)),
    *(Adapter(bottleneck=1), AdapterPlus(bottleneck=1), Convpass(bottleneck=1), PHMAdapter(n=1, bottleneck=1)),
    *(Compacter(n=1, bottleneck=1, rank=1), Compacter(rank=16), RepAdapter(rank=1, groups=1), VPT(tokens=1)),
    *(VeRA(rank=1), VeRA(seed=2**32 - 1), LoKr(rank=1), LoKr(factor=1), OFT(group=2), OFT(group=64)),
    *(BOFT(group=2, factors=1), BOFT(group=32, factors=2), PartialK(k=1), PartialK(k=2), SideTuning(reduction=1)),
]
"""What is just allowed."""


@pytest.mark.parametrize("method", BOUNDS, ids=method_text)
def test_hyper_parameters_may_be_as_small_and_as_large_as_their_bounds(method: Method) -> None:
    backbone = common("deit-like")
    adapted, images = adapt(backbone, method), torch.rand(2, 3, 32, 32)
    assert trainable(adapted)
    if getattr(method, "starts_as_identity", True):
        torch.testing.assert_close(adapted(images), backbone(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rule_rank", "kind"), [(1, ThinKronecker), (3, ThinKronecker), (0, FullRuleKronecker)])
def test_kadaptation_is_the_papers_sum_of_kronecker_products(rule_rank: int, kind: type) -> None:
    method = KAdaptation(n=16, rank=2, rule_rank=rule_rank, scale=3.0, targets=("fc1",))
    model = Case(method, build("clip-like")).perturbed()
    delta = model.blocks[1].mlp.fc1.deltas["fc1"]
    rule = model.shared["rule_fc1"]
    assert type(delta) is kind
    terms = []
    for i in range(16):
        slow = rule.full[i] if rule_rank == 0 else rule.s[i] @ rule.t[i].T
        terms.append(torch.kron(slow, delta.u[i] @ delta.v[i].T))
    torch.testing.assert_close(delta.matrix(), 3.0 * torch.stack(terms).sum(0))


def test_kadaptation_has_the_rank_that_the_page_promises() -> None:
    model = Case(KAdaptation(n=8, rank=2, rule_rank=3), build("clip-like")).perturbed().double()
    assert torch.linalg.matrix_rank(model.blocks[0].attention.qkv.deltas["v"].matrix()) == 8 * 2 * 3


def test_compacter_is_the_papers_sum_of_kronecker_products() -> None:
    model = Case(Compacter(bottleneck=32, n=4, rank=2), build("clip-like")).perturbed()
    inserted = model.blocks[0].inserted["mlp"]
    x = torch.randn(2, 5, 64)
    for layer, inputs in ((inserted.down, x), (inserted.up, x[..., :32])):
        whole = sum(torch.kron(layer.rules.weight[i], layer.left[i] @ layer.right[i]) for i in range(4))
        torch.testing.assert_close(layer(inputs), inputs @ whole + layer.bias)
    assert inserted.down.rules is model.blocks[1].inserted["mlp"].up.rules is model.shared["rules"]


def test_lora_is_the_papers_formula() -> None:
    delta = Case(LoRA(rank=4, alpha=8.0), build("clip-like")).perturbed().blocks[0].attention.qkv.deltas["q"]
    torch.testing.assert_close(delta.matrix(), 8.0 / 4 * delta.b @ delta.a)


def test_initial_sizes_are_the_documented_ones() -> None:
    wide = ViT(replace(CLIP_LIKE, width=512, heads=8))
    lora, adapter, kron = (adapt(wide, m) for m in (LoRA(), Adapter(bottleneck=64), KAdaptation()))
    a = lora.blocks[0].attention.qkv.deltas["q"].a
    assert a.abs().max() <= 512**-0.5 and a.std().item() == pytest.approx((3 * 512) ** -0.5, rel=0.05)
    assert adapter.blocks[0].inserted["mlp"].down.weight.std().item() == pytest.approx(512**-0.5, rel=0.05)
    delta = kron.blocks[0].attention.qkv.deltas["q"]
    slow = delta.rule.s @ delta.rule.t.mT
    assert delta.v.std().item() == pytest.approx((32 / 512) ** 0.5, rel=0.15)
    assert slow.std().item() == pytest.approx(1 / 32, rel=0.1)
    thick, full = (
        adapt(wide, KAdaptation(rule_rank=rank)).blocks[0].attention.qkv.deltas["q"] for rank in (8, 0)
    )  # the sizes of A_i and B_i do not depend on their ranks
    assert (thick.rule.s @ thick.rule.t.mT).std().item() == pytest.approx(1 / 32, rel=0.1)
    assert full.rule.full.std().item() == pytest.approx(1 / 32, rel=0.1)
    assert full.v.std().item() == pytest.approx((32 / 512) ** 0.5, rel=0.15)
    assert not adapter.blocks[0].inserted["mlp"].down.bias.any()
    generator = torch.Generator().manual_seed(0)
    for method in (PHMAdapter(), Compacter(), Compacter(rank=8)):
        down = adapt(wide, method).blocks[0].inserted["mlp"].down
        assert down(torch.randn(64, 512, generator=generator)).std().item() == pytest.approx(1.0, rel=0.2)


def test_one_kronecker_term_is_enough() -> None:
    adapted = adapt(build("clip-like"), KAdaptation(n=1))
    assert adapted.blocks[0].attention.qkv.deltas["q"].u.shape == (1, 64, 1)


def test_a_bottleneck_adds_what_its_formula_says() -> None:
    module, y = adapt(build("clip-like"), Adapter(activation="relu")).blocks[0].inserted["mlp"], torch.randn(2, 5, 64)
    nn.init.normal_(module.up.weight)
    assert module.tokenwise  # so that the last block computes one token only
    torch.testing.assert_close(module(y), y + module.up(module.down(module.norm(y)).relu()))


def test_only_zero_shot_leaves_the_head_untrained() -> None:
    assert [name for name, kind in METHODS.items() if not kind().trains_head] == ["zero-shot"]


def test_slow_factors_are_shared_by_blocks_and_not_by_targets() -> None:
    model = adapt(build("clip-like"), KAdaptation())
    deltas = [block.attention.qkv.deltas for block in model.blocks]
    assert deltas[0]["q"].rule is deltas[1]["q"].rule is not deltas[0]["v"].rule
    assert deltas[0]["q"].shift is deltas[0]["v"].shift is not deltas[1]["q"].shift


def test_audit_tells_that_lora_a_waits_and_is_not_stuck() -> None:
    reports = {report.name: report for report in probe(build("clip-like"), LoRA())}
    waiting = reports["blocks.0.attention.qkv.deltas.q.a"]
    assert waiting == TensorReport(waiting.name, (4, 64), 256, "live", shared=False)


def test_audit_tells_which_tensors_are_used_in_several_places() -> None:
    shared = {report.name for report in probe(build("clip-like"), KAdaptation()) if report.shared}
    rules = {f"shared.rule_{slot}.{side}" for slot in "qv" for side in "st"}
    assert shared == rules | {f"blocks.{i}.attention.qkv.deltas.q.shift" for i in range(2)}


@pytest.mark.parametrize("family", FAMILIES)
def test_audit_sees_through_rounding_that_a_shift_of_all_keys_has_no_effect(family: str) -> None:
    reports = probe(build(family), KAdaptation(targets=("k",)))
    assert {r.name.rsplit(".", 1)[1] for r in reports if r.status == "stuck"} == {"shift"}
    with pytest.raises(MethodDefect, match=r"blocks\.0\.attention\.qkv\.deltas\.k\.shift \(its gradient stays zero\)"):
        require_learnable(reports)


def test_audit_judges_in_float32_too() -> None:
    model, images = adapt(build("clip-like"), KAdaptation(targets=("k",))), torch.rand(4, 3, 32, 32)
    reports = audit(model, lambda m, step: m(images).square().sum())
    assert {r.name.rsplit(".", 1)[1] for r in reports if r.status != "live"} == {"shift"}


def test_audit_of_a_switched_off_method_finds_everything_stuck() -> None:
    assert {r.status for r in probe(build("clip-like"), LoRA(alpha=0.0))} == {"stuck"}


def test_audit_of_a_loss_that_nothing_reaches_finds_everything_dead() -> None:
    reports = audit(adapt(build("clip-like"), LoRA()), lambda model, step: torch.ones(()))
    assert {report.status for report in reports} == {"dead"}


def test_audit_leaves_the_model_alone() -> None:
    model, images = adapt(build("clip-like"), LoRA()), torch.rand(4, 3, 32, 32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    audit(model, lambda m, step: m(images).sum())
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_audit_of_nothing_trainable_is_empty_and_sound() -> None:
    require_learnable(probe(build("convnet"), LinearProbe()))
    assert probe(build("convnet"), LinearProbe()) == []


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if issubclass(kind, BlockMethod)])
def test_a_block_method_acts_on_the_towers_that_it_is_told_to(name: str) -> None:
    image, text = common("clip-like"), common("clip-text-like")
    assert not trainable(adapt(image, METHODS[name](towers="text")))
    assert not trainable(adapt(text, METHODS[name](towers="image")))
    method = METHODS[name](towers="both")
    assert trainable(adapt(image, method)) and parse_method(method_text(method)) == method
    try:
        assert trainable(adapt(text, method))
    except NotApplicable as refusal:
        assert "text tower" in str(refusal) and name in ("convpass", "ssf", "vpt")
