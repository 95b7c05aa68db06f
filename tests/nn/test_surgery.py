from __future__ import annotations

import copy

import pytest
import torch
from families import ALL, ConvNet, build, random_images
from torch import nn

from vitadapt.methods import METHODS, Adapter, BitFit, FineTune, KAdaptation, LinearProbe, LoRA
from vitadapt.nn.attribution import with_attention
from vitadapt.nn.block import PLACES
from vitadapt.nn.deltas import ChannelScale, ScaleShift, ThinDelta, goes_in_place, separate_branches
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.head_spec import TEXT, ZERO, HeadSpec
from vitadapt.nn.surgery import (
    adapt,
    add_delta,
    add_side,
    add_tokens,
    check_slots,
    constants,
    insert,
    is_adapted,
    is_norm,
    load_trainable_state,
    merge,
    parameters_of,
    seeded,
    slot_layer,
    trainable,
    trainable_state,
    unchanged_blocks,
)
from vitadapt.utils.errors import ConfigError, NotApplicable, NotMergeable, WeightsError


class RankOne(ThinDelta):
    """A delta that is not zero from the start."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.p, self.q = nn.Parameter(torch.ones(shape[0], 1)), nn.Parameter(torch.ones(shape[1], 1))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.1 * self.p, self.q


def wake(model: nn.Module) -> nn.Module:
    """Move every trainable tensor away from its start, so that the deltas are not zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def same_bytes(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", METHODS)
def test_adapting_leaves_the_original_as_it_was(name: str) -> None:
    original = build("clip-like")
    before = copy.deepcopy(original.state_dict())
    adapted = wake(adapt(original, METHODS[name]()))
    assert same_bytes(original.state_dict(), before)
    assert not trainable(original) and type(adapted) is type(original)


@pytest.mark.parametrize("name", METHODS)
def test_frozen_tensors_share_memory_with_the_original_and_trainable_ones_do_not(name: str) -> None:
    original = build("clip-like")
    known = {p.data_ptr(): n for n, p in original.named_parameters()}
    adapted = adapt(original, METHODS[name]())
    frozen = {n: p for n, p in adapted.named_parameters() if not p.requires_grad}
    assert {n: known.get(p.data_ptr()) for n, p in frozen.items()} == {n: n for n in frozen}
    assert not {p.data_ptr() for p in trainable(adapted).values()} & known.keys()


def test_adapting_a_trainable_backbone_freezes_the_copy_alone() -> None:
    original = build("deit-like").requires_grad_(True)
    assert not trainable(adapt(original, LinearProbe()))
    assert len(trainable(original)) == len(list(original.parameters()))


def test_an_adapted_backbone_is_merged_before_it_is_adapted_again() -> None:
    once = adapt(build("deit-like"), LoRA(targets=("q",)))
    for method in (LoRA(targets=("v",)), LinearProbe()):  # saving would forget the first change
        with pytest.raises(NotApplicable, match="already adapted; merge it first"):
            adapt(once, method)
    assert trainable(adapt(merge(once), LoRA(targets=("v",))))


def test_a_delta_changes_the_rows_of_its_slot_and_no_others() -> None:
    block = build("deit-like").blocks[0]
    x = torch.randn(2, 5, 64)
    before = block.attention.qkv(x)
    add_delta(block, "k", RankOne((64, 64)))
    after = block.attention.qkv(x)
    assert torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])
    torch.testing.assert_close(after[1] - before[1], 0.1 * x.sum(-1, keepdim=True).expand_as(x), rtol=0, atol=1e-5)


def test_merging_a_copy_leaves_the_adapted_model_and_the_original_alone() -> None:
    original = build("clip-like")
    adapted = wake(adapt(original, KAdaptation()))
    state, before = copy.deepcopy(adapted.state_dict()), copy.deepcopy(original.state_dict())
    merged = merge(copy.deepcopy(adapted))
    assert same_bytes(adapted.state_dict(), state) and same_bytes(original.state_dict(), before)
    assert merged.state_dict().keys() == before.keys() and not same_bytes(merged.state_dict(), before)


def test_merging_in_place_leaves_the_original_alone_though_they_share_memory() -> None:
    original = build("clip-like")
    before = copy.deepcopy(original.state_dict())
    merge(wake(adapt(original, LoRA())))
    assert same_bytes(original.state_dict(), before)


def test_merged_rows_are_the_weight_plus_the_matrix() -> None:
    original = build("clip-like")
    adapted = wake(adapt(original, LoRA(targets=("v",))))
    matrix = adapted.blocks[1].attention.qkv.deltas["v"].matrix()
    merged = merge(adapted)
    change = merged.blocks[1].attention.qkv.weight - original.blocks[1].attention.qkv.weight
    torch.testing.assert_close(change[128:], matrix.detach(), rtol=0, atol=1e-6)
    assert not change[:128].any()
    assert not trainable(merged) and not trainable(merge(adapt(original, KAdaptation())))


def test_the_constants_are_the_buffers_that_a_method_created_each_once() -> None:
    adapted = adapt(build("clip-like"), METHODS["compacter-released"]())  # its rules are used by all blocks
    found = constants(adapted)
    assert found.keys() == {"shared.rules.weight"} and found["shared.rules.weight"] is adapted.shared.rules.weight
    assert constants(adapt(build("clip-like"), LoRA())) == {}


def test_branches_go_in_place_in_one_precision_and_not_under_autocast() -> None:
    x, weight = torch.zeros(1, 2, 4), torch.zeros(4, 4)
    assert goes_in_place(x, weight) and not goes_in_place(x.double(), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not goes_in_place(x, weight)
    with separate_branches():
        assert not goes_in_place(x, weight)
    assert goes_in_place(x, weight)


@pytest.mark.parametrize("method", [Adapter(), KAdaptation()])
def test_a_refused_merge_folds_nothing(method: object) -> None:
    family = "deit-like" if isinstance(method, Adapter) else "no-qkv-bias"  # where the delta's bias has no place
    adapted, images = wake(adapt(build(family), method)), random_images()
    before, state = adapted(images), copy.deepcopy(adapted.state_dict())
    with pytest.raises(NotMergeable):
        merge(adapted)
    assert torch.equal(adapted(images), before) and same_bytes(adapted.state_dict(), state)


def test_merging_what_carries_no_delta_changes_nothing() -> None:
    for backbone in (build("convnet"), build("deit-like")):
        adapted = wake(adapt(backbone, BitFit()))
        before = copy.deepcopy(adapted.state_dict())
        assert same_bytes(merge(adapted).state_dict(), before)


def test_hooks_of_the_user_do_not_prevent_merging() -> None:
    original = build("deit-like")
    original.blocks[0].register_forward_hook(lambda module, inputs, output: None)
    adapted = wake(adapt(original, LoRA()))
    adapted.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: None)
    images = random_images()
    expected = adapted(images)
    torch.testing.assert_close(merge(adapted)(images), expected)


def test_a_second_delta_on_a_slot_is_refused() -> None:
    block = build("deit-like").blocks[0]
    add_delta(block, "q", RankOne((64, 64)))
    with pytest.raises(ValueError, match="already carries a delta"):
        add_delta(block, "q", RankOne((64, 64)))


def test_places_are_known_and_hold_one_module() -> None:
    block = build("deit-like").blocks[0]
    insert(block, "attention", nn.Identity())
    for place in ("attention", "head"):
        with pytest.raises(ValueError, match="the places are attention, mlp, block, attention-input"):
            insert(block, place, nn.Identity())


def test_every_place_of_a_block_acts_where_the_page_says() -> None:
    model, x = build("dinov2-like").double(), torch.randn(2, 19, 64, dtype=torch.float64)
    block = model.blocks[0]
    f = {place: nn.Linear(64, 64).double() for place in PLACES}
    for place in PLACES:
        insert(block, place, f[place])
    expected = x
    for layer, norm, part, scale in (
        ("attention", block.norm1, block.attention, block.scale1),
        ("mlp", block.norm2, block.mlp, block.scale2),
    ):
        n = f[f"{layer}-input"](norm(expected))
        change = f[layer](scale(part(n))) + f[f"{layer}-parallel"](n) + f[f"{layer}-residual"](expected)
        expected = expected + change
    torch.testing.assert_close(block(x), f["block"](expected))
    torch.testing.assert_close(with_attention(block, x)[0], block(x))


@pytest.mark.parametrize("family", ["clip-like", "deit-like", "gap-like"])  # without a bias of patches; with; norm last
def test_affine_maps_before_layers_and_at_both_ends_fold_exactly(family: str) -> None:
    model, images = build(family).double(), random_images()
    parts = [(block, f"{layer}-input") for block in model.blocks for layer in ("attention", "mlp")]
    for part, place in [*parts, (model, "patches"), (model, "norm")]:
        change = ChannelScale(64).double()
        for parameter in change.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        insert(part, place, change)
    add_delta(model.blocks[1], "fc1", ScaleShift(256).double())
    nn.init.normal_(model.blocks[1].mlp.fc1.deltas["fc1"].scale)
    keys, before = build(family).state_dict().keys(), model(images)
    assert is_adapted(model) and unchanged_blocks(model) is None
    torch.testing.assert_close(merge(model)(images), before)
    assert model.state_dict().keys() == keys and not is_adapted(model)


def test_a_shift_before_a_layer_without_a_bias_is_not_folded() -> None:
    model = build("no-qkv-bias")
    insert(model.blocks[0], "attention-input", ChannelScale(64))
    with pytest.raises(NotMergeable, match="the layer no bias"):
        merge(model)


class Ladder(nn.Module):
    def forward(self, number: int, x: torch.Tensor, state: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        state = x if state is None else state + x
        return (x + state if number else x), state


def test_a_network_beside_the_blocks_gets_what_each_block_makes() -> None:
    model, images = build("deit-like"), random_images()
    x = first = model.blocks[0](model.embed(images))
    x = model.blocks[1](x)
    expected = model.pool(x + (first + x))
    add_side(model, Ladder())
    torch.testing.assert_close(model(images), expected)
    assert unchanged_blocks(model) == 0
    with pytest.raises(ValueError, match="already"):
        add_side(model, Ladder())
    with pytest.raises(NotMergeable, match="beside the blocks"):
        merge(model)


def test_inserted_modules_act_where_their_place_says() -> None:
    model, x = build("deit-like"), torch.randn(2, 17, 64)
    block = model.blocks[0]
    for place in ("attention", "mlp"):
        insert(block, place, nn.Threshold(float("inf"), 0.0))  # makes everything zero
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("slots", [(), ("q", "q"), ("query",), ("q", "V"), ("qkv",)])
def test_slots_that_cannot_work_are_refused_with_the_known_ones(slots: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="the slots are q, k, v, o, fc1, fc2"):
        check_slots(slots)


def test_slot_layer_refuses_a_strange_slot() -> None:
    with pytest.raises(ValueError, match="unknown slot 'x'"):
        slot_layer(build("deit-like").blocks[0], "x")


def break_missing(state: dict[str, torch.Tensor]) -> None:
    del state["blocks.1.attention.qkv.deltas.v.b"]


def break_extra(state: dict[str, torch.Tensor]) -> None:
    state["blocks.2.attention.qkv.deltas.v.b"] = torch.zeros(1)


def break_shape(state: dict[str, torch.Tensor]) -> None:
    state["blocks.1.attention.qkv.deltas.v.b"] = torch.zeros(64, 3)


@pytest.mark.parametrize("damage", [break_missing, break_extra, break_shape])
def test_a_state_that_does_not_fit_is_refused_whole(damage) -> None:
    model = adapt(build("deit-like"), LoRA())
    before = trainable_state(model)
    state = {name: torch.ones_like(tensor) for name, tensor in before.items()}
    damage(state)
    with pytest.raises(WeightsError, match=r"blocks\.[12]\.attention\.qkv\.deltas\.v\.b"):
        load_trainable_state(model, state)
    assert same_bytes(trainable_state(model), before)


def test_trainable_state_is_a_copy_that_names_every_tensor_once() -> None:
    model = adapt(build("deit-like"), KAdaptation())
    state = trainable_state(model)
    assert sum(t.numel() for t in state.values()) == sum(
        {id(p): p.numel() for p in model.parameters() if p.requires_grad}.values()
    )
    for tensor in state.values():
        tensor.fill_(7)
    assert not any((p == 7).any() for p in trainable(model).values())


@pytest.mark.parametrize("name", ["lora", "kadaptation", "adapter", "compacter", "phm-adapter", "attention"])
def test_methods_that_need_blocks_say_so_on_other_networks(name: str) -> None:
    with pytest.raises(NotApplicable, match="ConvNet has none; use linear-probe, bitfit, layernorm or fine-tune"):
        adapt(build("convnet"), METHODS[name]())


@pytest.mark.parametrize("name", ["linear-probe", "zero-shot", "bitfit", "layernorm", "fine-tune"])
def test_the_other_methods_work_on_any_network(name: str) -> None:
    expected = {"bitfit": 4, "layernorm": 4, "fine-tune": 8}.get(name, 0)
    assert len(trainable(adapt(build("convnet"), METHODS[name]()))) == expected


@pytest.mark.parametrize("mode", [False, True])
def test_created_modules_are_in_the_mode_of_the_original(mode: bool) -> None:
    adapted = adapt(build("deit-like").train(mode), Adapter())
    assert {module.training for module in adapted.modules()} == {mode}


def test_seeded_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(9):
        inside = torch.rand(4)
    assert torch.equal(torch.rand(4), expected) and not torch.equal(inside, expected)


def test_different_seeds_start_differently() -> None:
    first, second = (trainable_state(adapt(build("deit-like"), LoRA(), seed)) for seed in (0, 1))
    assert first.keys() == second.keys() and not same_bytes(first, second)


def test_parameters_of_yields_a_tied_tensor_once() -> None:
    layer = nn.Linear(4, 4)
    tied = nn.Sequential(layer, nn.Linear(4, 4))
    tied[1].weight = layer.weight
    assert len(list(parameters_of(tied, lambda owner, name: name == "weight"))) == 1


def test_parameters_are_asked_for_by_their_owner_alone() -> None:
    assert not list(parameters_of(build("deit-like"), lambda owner, name: "." in name))


def test_norm_layers_are_recognised_by_type_or_by_name() -> None:
    class ChannelNorm(nn.Module):
        weight = nn.Parameter(torch.ones(3))

    norms = [nn.LayerNorm(3), nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3), nn.RMSNorm(3), ChannelNorm()]
    others = [nn.Linear(3, 3), nn.Identity(), ConvNet(), nn.Conv2d(3, 3, 1)]
    assert all(is_norm(m) for m in norms) and not any(is_norm(m) for m in others)


def test_fine_tuning_trains_a_copy() -> None:
    original = build("deit-like")
    before = copy.deepcopy(original.state_dict())
    adapted = adapt(original, FineTune())
    for parameter in trainable(adapted).values():
        parameter.data.zero_()
    assert same_bytes(original.state_dict(), before)


def test_a_module_beside_a_layer_sees_its_input_and_is_added_behind_the_layer_scale() -> None:
    model, x = build("dinov2-like"), torch.randn(2, 19, 64)
    block = model.blocks[0]
    before = block(x)
    insert(block, "mlp-parallel", nn.Linear(64, 64))
    middle = x + block.scale1(block.attention(block.norm1(x)))
    torch.testing.assert_close(block(x), before + block.inserted["mlp-parallel"](block.norm2(middle)))


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("deep", [True, False])
def test_added_tokens_act_as_tokens_and_are_not_pooled(family: str, deep: bool) -> None:
    model = build(family).double()
    depth = len(model.blocks)
    tokens = [nn.Parameter(torch.randn(3, 64, dtype=torch.float64)) for _ in range(depth if deep else 1)]
    images = random_images()
    x, places = model.embed(images), model.places(images)
    n = x.shape[1]
    for i in range(depth):  # by hand, with the plain blocks
        if deep or not i:
            x = torch.cat([x[:, :n], tokens[i if deep else 0].expand(len(x), -1, -1)], dim=1)
        x = model.blocks[i](x, places=places)
    expected = model.pool(x[:, :n])
    add_tokens(model, tokens)
    torch.testing.assert_close(model(images), expected)
    with pytest.raises(ValueError, match="tokens already"):
        add_tokens(model, tokens)


@pytest.mark.parametrize("tokens", [[], [torch.zeros(2, 63)], [torch.zeros(2, 64)] * 3])
def test_tokens_that_do_not_fit_are_refused(tokens: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"one parameter \(P, 64\), or one for each of the 2 blocks"):
        add_tokens(build("deit-like"), [nn.Parameter(t) for t in tokens])


def test_a_scale_and_shift_is_that_of_the_layers_output() -> None:
    block, x = build("deit-like").blocks[0], torch.randn(2, 5, 64)
    (before,) = block.mlp.fc1(x)
    delta = ScaleShift(256)
    nn.init.normal_(delta.scale)
    nn.init.normal_(delta.shift)
    add_delta(block, "fc1", delta)
    torch.testing.assert_close(block.mlp.fc1(x)[0], before * delta.scale + delta.shift, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_created_has_the_precision_of_the_backbone_and_is_saved_in_float32(
    name: str, dtype: torch.dtype
) -> None:
    adapted = adapt(build("clip-like").to(dtype), METHODS[name]())
    assert {tensor.dtype for tensor in adapted.state_dict().values()} == {dtype}
    state = trainable_state(wake(adapted))
    assert {tensor.dtype for tensor in state.values()} <= {torch.float32}
    other = adapt(build("clip-like").to(dtype), METHODS[name](), seed=3)
    load_trainable_state(other, state)
    assert same_bytes(trainable_state(other), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_classifier_in_another_precision_has_its_head_in_float32_or_more(dtype: torch.dtype) -> None:
    for spec in (ZERO, TEXT, HeadSpec(norm="batch")):
        backbone = adapt(build("clip-like"), KAdaptation())
        model = Classifier(backbone, Head(backbone.features, 3, spec))
        nn.init.normal_(model.head.linear.weight)
        expected, weight = model.eval()(random_images()).detach(), model.head.linear.weight.clone()
        found = model.to(dtype)(random_images())
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(model.head.linear.weight.float(), weight)
        torch.testing.assert_close(found.float(), expected, atol=0.1 * float(expected.abs().max()), rtol=0)
