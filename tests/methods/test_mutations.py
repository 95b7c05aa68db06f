"""Methods broken on purpose, some as published code was (Q numbers: docs/methods.md): the laws must notice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from families import build
from torch import Tensor, nn

from vitadapt.methods import METHODS, Adapter, Compacter, KAdaptation, LoRA
from vitadapt.methods.audit import probe, require_learnable
from vitadapt.methods.kadaptation import ThinKronecker
from vitadapt.methods.laws import LAWS, broken_laws, check_method
from vitadapt.methods.lora import LowRank
from vitadapt.nn.surgery import Method, add_delta, blocks, insert
from vitadapt.nn.vit import ViT
from vitadapt.utils.errors import MethodDefect


@dataclass(frozen=True)
class BothFactorsZero(KAdaptation):
    """Q1."""

    bias: bool = False

    def adapt(self, vit: ViT) -> None:
        super().adapt(vit)
        for module in vit.modules():
            if isinstance(module, ThinKronecker):
                nn.init.zeros_(module.v)


class BorrowedFactors(ThinKronecker):
    """Its own rule, and the factors of another delta."""

    lender: tuple[ThinKronecker]

    def factors(self) -> tuple[Tensor, Tensor]:
        mine = self.u, self.v
        self.u, self.v = self.lender[0].u, self.lender[0].v
        try:
            return super().factors()
        finally:
            self.u, self.v = mine


@dataclass(frozen=True)
class ValueFromQueryFactors(KAdaptation):
    """Q2."""

    def adapt(self, vit: ViT) -> None:
        super().adapt(vit)
        for block in blocks(vit):
            deltas = block.attention.qkv.deltas
            deltas["v"].__class__ = BorrowedFactors
            deltas["v"].lender = (deltas["q"],)


class Mixing(LowRank):
    def branch(self, x: Tensor) -> Tensor:
        return super().branch(x).transpose(0, 1).reshape(*x.shape[:-1], -1)  # tokens first, read as if images first


class AddedAfterScaling(LowRank):
    def branch(self, x: Tensor) -> Tensor:
        return super().branch(x) * 32**0.5  # what adding to q / sqrt(d) amounts to, d = 32


class WithBias(LowRank):
    def __init__(self, shape: tuple[int, int], rank: int, scale: float) -> None:
        super().__init__(shape, rank, scale)
        self.shift = nn.Parameter(torch.zeros(shape[0]))


class BiasForgottenInMerging(WithBias):
    def branch(self, x: Tensor) -> Tensor:
        return super().branch(x) + self.shift


class BiasForgottenInTraining(WithBias):
    def branch(self, x: Tensor) -> Tensor:
        return super().branch(x) - self.shift.detach()  # undoes what bias() brings

    def bias(self) -> Tensor:
        return self.shift.detach()


class BiasForgottenEverywhere(WithBias):
    pass


class DoubledGradient(LowRank):
    def factors(self) -> tuple[Tensor, Tensor]:
        p, q = super().factors()
        return p + p - p.detach(), q


class UnsavedConstant(LowRank):
    def __init__(self, shape: tuple[int, int], rank: int, scale: float) -> None:
        super().__init__(shape, rank, scale)
        self.register_buffer("mask", torch.rand(shape[0], 1), persistent=False)

    def factors(self) -> tuple[Tensor, Tensor]:
        p, q = super().factors()
        return p * self.mask, q


class StaysInFloat32(LowRank):
    def __init__(self, shape: tuple[int, int], rank: int, scale: float) -> None:
        super().__init__(shape, rank, scale)
        self.mask = torch.ones(shape[0], 1)  # no buffer: nothing brings it to the precision of the backbone

    def factors(self) -> tuple[Tensor, Tensor]:
        p, q = super().factors()
        return p * self.mask, q


class Unseeded(LowRank):
    def __init__(self, shape: tuple[int, int], rank: int, scale: float) -> None:
        super().__init__(shape, rank, scale)
        generator = torch.Generator()
        generator.seed()
        nn.init.normal_(self.a, generator=generator)


class WritesToItsHost(LowRank):
    host: tuple[nn.Linear]

    def branch(self, x: Tensor) -> Tensor:
        if self.training:
            self.host[0].weight.data.mul_(0.99)
        return super().branch(x)


@dataclass(frozen=True)
class WithDelta(Method):
    """Puts a delta of the given kind on q and v."""

    kind: type[LowRank] = LowRank

    def adapt(self, vit: ViT) -> None:
        for block in blocks(vit):
            for slot in ("q", "v"):
                delta = self.kind((64, 64), 4, 1.0)
                if isinstance(delta, WritesToItsHost):
                    delta.host = (block.attention.qkv,)
                add_delta(block, slot, delta)


@dataclass(frozen=True)
class HeldTwice(Method):
    """One tensor registered in two deltas: safetensors and Hugging Face refuse to save such a model."""

    def adapt(self, vit: ViT) -> None:
        for block in blocks(vit):
            deltas = LowRank((64, 64), 4, 1.0), LowRank((64, 64), 4, 1.0)
            deltas[1].b = deltas[0].b
            for slot, delta in zip(("q", "v"), deltas, strict=True):
                add_delta(block, slot, delta)


@dataclass(frozen=True)
class FrozenRule(Compacter):
    """Q8."""

    def adapt(self, vit: ViT) -> None:
        super().adapt(vit)
        vit.shared.requires_grad_(False)


@dataclass(frozen=True)
class DisturbedStart(Adapter):
    """Q9."""

    def adapt(self, vit: ViT) -> None:
        super().adapt(vit)
        for block in blocks(vit):
            nn.init.normal_(block.inserted["mlp"].up.weight, std=0.02)


@dataclass(frozen=True)
class DeclaredDisturbedStart(DisturbedStart):
    starts_as_identity: ClassVar[bool] = False


class AcrossTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(64))

    def forward(self, y: Tensor) -> Tensor:
        return y + self.gain * (y - y.mean(dim=(0, 1)))


@dataclass(frozen=True)
class BatchStatistics(Method):
    def adapt(self, vit: ViT) -> None:
        for block in blocks(vit):
            insert(block, "mlp", AcrossTheBatch())


class AcrossTheTokens(nn.Module):
    def __init__(self, tokenwise: bool) -> None:
        super().__init__()
        self.gain, self.tokenwise = nn.Parameter(torch.zeros(64)), tokenwise

    def forward(self, y: Tensor) -> Tensor:
        return y + self.gain * y.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class TokenStatistics(Method):
    """Lawful, unless it claims to treat every token by itself."""

    claims_tokenwise: bool = False

    def adapt(self, vit: ViT) -> None:
        for block in blocks(vit):
            insert(block, "mlp", AcrossTheTokens(self.claims_tokenwise))


@dataclass
class Mutable(Method):
    rank: int = 4

    def adapt(self, vit: ViT) -> None:
        LoRA(rank=self.rank).adapt(vit)


MERGE = {"law_merge_is_exact", "law_branch_is_matrix_and_bias"}
LEARN = {"law_trainable_tensors_learn"}
MUTANTS: list[tuple[Method, set[str]]] = [
    (BothFactorsZero(), LEARN),
    (ValueFromQueryFactors(), LEARN),
    (WithDelta(Mixing), {"law_rows_are_independent", "law_shortcuts_change_nothing", *MERGE}),
    (WithDelta(AddedAfterScaling), MERGE),
    (WithDelta(BiasForgottenInMerging), MERGE),
    (WithDelta(BiasForgottenInTraining), LEARN | MERGE),
    (WithDelta(BiasForgottenEverywhere), LEARN),
    (WithDelta(DoubledGradient), {"law_gradients_are_derivatives"}),
    (WithDelta(UnsavedConstant), {"law_state_round_trip"}),
    (WithDelta(StaysInFloat32), {"law_half_precision_works"}),
    (HeldTwice(), {"law_state_round_trip"}),
    (WithDelta(Unseeded), {"law_same_seed_same_bytes"}),
    (WithDelta(WritesToItsHost), {"law_frozen_tensors_stay"}),
    (FrozenRule(), {"law_created_parameters_train", "law_state_round_trip"}),
    (DisturbedStart(), {"law_starts_as_identity"}),
    (BatchStatistics(), {"law_rows_are_independent"}),
    (Mutable(), {"law_method_is_a_value"}),
    (TokenStatistics(claims_tokenwise=True), {"law_shortcuts_change_nothing"}),
]


def title(value: object) -> str | None:
    if isinstance(value, set):
        return "-"
    return value.kind.__name__ if isinstance(value, WithDelta) else type(value).__name__


@pytest.mark.parametrize(("mutant", "laws"), MUTANTS, ids=title)
def test_a_broken_method_breaks_exactly_its_laws(mutant: Method, laws: set[str]) -> None:
    assert broken_laws(mutant, build("clip-like")).keys() == laws


@pytest.mark.parametrize(
    "method",
    [WithDelta(LowRank), DeclaredDisturbedStart(), TokenStatistics()],
    ids=title,
)
def test_the_same_methods_unbroken_break_none(method: Method) -> None:
    check_method(method, build("clip-like"))


def test_every_law_has_a_method_that_breaks_it() -> None:
    named = set().union(*(laws for _, laws in MUTANTS)) | {"law_count_is_the_formula"}
    assert named == {law.__name__ for law in LAWS}


def test_a_frozen_rule_is_missing_from_the_count() -> None:
    count = 64 + 2 * (3 * 64 + 64 + 2 * 128)
    check_method(Compacter(), build("clip-like"), count)
    with pytest.raises(AssertionError, match=rf"law_count_is_the_formula: \[{count - 64}\] .* expected \[{count}\]"):
        check_method(FrozenRule(), build("clip-like"), count)


AUDITS = [
    (BothFactorsZero(), "stuck", {"s", "t", "u", "v"}),
    (replace(BothFactorsZero(), bias=True), "stuck", {"s", "t", "u", "v"}),
    (ValueFromQueryFactors(), "dead", {"u", "v"}),
    (WithDelta(BiasForgottenInTraining), "dead", {"shift"}),
    (WithDelta(BiasForgottenEverywhere), "dead", {"shift"}),
    (WithDelta(WritesToItsHost), "disturbed", {"weight"}),
]


@pytest.mark.parametrize(("mutant", "status", "leaves"), AUDITS, ids=title)
def test_the_audit_says_what_is_wrong_with_which_tensors(mutant: Method, status: str, leaves: set[str]) -> None:
    backbone = build("clip-like").train()
    reports = probe(backbone, mutant)
    faults = [report for report in reports if report.status != "live"]
    assert {report.status for report in faults} == {status}
    assert {report.name.rsplit(".", 1)[1] for report in faults} == leaves
    assert [p.requires_grad for p in backbone.parameters()] == [False] * len(list(backbone.parameters()))
    with pytest.raises(MethodDefect, match=r"tensors cannot learn as they should: \S+ \(") as defect:
        require_learnable(reports)
    assert "\n" not in str(defect.value)


def test_the_published_zero_start_trains_its_bias_alone() -> None:
    reports = probe(build("clip-like"), replace(BothFactorsZero(), bias=True))
    assert {report.name.rsplit(".", 1)[1] for report in reports if report.status == "live"} == {"shift"}


def test_the_unused_factors_are_those_of_the_value() -> None:
    dead = [report.name for report in probe(build("clip-like"), ValueFromQueryFactors()) if report.status == "dead"]
    assert dead == [f"blocks.{i}.attention.qkv.deltas.v.{side}" for i in (0, 1) for side in "uv"]


def test_no_mutant_is_registered() -> None:
    assert not {type(mutant) for mutant, _ in MUTANTS} & set(METHODS.values())
