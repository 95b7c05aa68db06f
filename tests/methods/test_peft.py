"""Methods that PEFT has, too, on the same network: the same outputs, gradients, training and merged weights."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch

from vitadapt.methods import BOFT, IA3, OFT, DoRA, LoHa, LoKr, LoRA, VeRA
from vitadapt.methods.boft import Butterfly
from vitadapt.nn.surgery import Method, adapt, merge, trainable
from vitadapt.weights import from_module

peft: Any = pytest.importorskip("peft")
transformers: Any = pytest.importorskip("transformers")

RANK, ALPHA = 4, 8.0

SLOTS = {
    "q": r"q_proj|attention\.query",
    "k": r"k_proj|attention\.key",
    "v": r"v_proj|attention\.value",
    "fc1": r"fc1|intermediate\.dense",
    "fc2": r"fc2|\d\.output\.dense",
}
"""Our layers -> their names in transformers 5 and 4, as a pattern."""


def targets(*slots: str) -> str:
    """What PEFT compares with the whole name of a layer."""
    return rf".*\.({'|'.join(SLOTS[slot] for slot in slots)})"


@pytest.fixture
def pair():
    """(ours, PEFT's) adapted networks with the same weights and the same factors."""
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=32, patch_size=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        source = transformers.ViTModel(config, add_pooling_layer=False).eval()
        for parameter in source.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        ours = adapt(from_module(source), LoRA(rank=RANK, alpha=ALPHA), seed=1)
        for parameter in trainable(ours).values():
            parameter.data += 0.1 * torch.randn_like(parameter)
        theirs = peft.get_peft_model(
            source, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets("q", "v"), lora_dropout=0.0)
        )
    for layer, slot, factor, tensor in factors(theirs):
        tensor.data.copy_(getattr(ours.blocks[layer].attention.qkv.deltas[slot], factor))
    return ours, theirs


def slot_of(name: str) -> str:
    """Our layer, of the name of a tensor of PEFT's model."""
    (slot,) = [slot for slot, names in SLOTS.items() if re.search(rf"\.({names})\.", name)]
    return slot


def factors(theirs):
    """(layer, slot, "a" or "b", tensor) for every factor of PEFT's model."""
    for name, tensor in theirs.named_parameters():
        if "lora_" in name:
            parts = name.split(".")
            layer = next(int(part) for part in parts if part.isdigit())
            yield layer, slot_of(name), "a" if "lora_A" in parts else "b", tensor


def outputs(ours, theirs, images):
    pixels = ours.normalise(images)
    return ours(images), theirs(pixel_values=pixels).last_hidden_state[:, 0]


def images():
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_same_outputs_and_same_gradients(pair):
    ours, theirs = pair
    mine, yours = outputs(ours, theirs, images())
    torch.testing.assert_close(mine, yours, atol=1e-5, rtol=1e-5)
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(3))
    (mine * weights).sum().backward()
    (yours * weights).sum().backward()
    count = 0
    for layer, slot, factor, tensor in factors(theirs):
        own = getattr(ours.blocks[layer].attention.qkv.deltas[slot], factor)
        torch.testing.assert_close(own.grad, tensor.grad, atol=1e-4, rtol=1e-4)
        count += 1
    assert count == len(trainable(ours)) == 8


def test_the_same_training_ends_in_the_same_place(pair):
    ours, theirs = pair
    own = list(trainable(ours).values())
    other = [tensor for *_, tensor in factors(theirs)]
    optimisers = [torch.optim.AdamW(parameters, lr=1e-3) for parameters in (own, other)]
    start = outputs(ours, theirs, images())[0].detach()
    for _ in range(5):
        for optimiser, output in zip(optimisers, outputs(ours, theirs, images()), strict=True):
            optimiser.zero_grad()
            (output - 1).square().mean().backward()
            optimiser.step()
    mine, yours = outputs(ours, theirs, images())
    torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-4)
    assert float((mine.detach() - start).abs().max()) > 1e-2


LEAVES = {
    "lora_A": "low_rank.a",
    "lora_B": "low_rank.b",
    "lora_magnitude_vector": "size",
    "vera_lambda_b": "b",
    "vera_lambda_d": "d",
    "lokr_w1": "c",
    "lokr_w2_a": "a",
    "lokr_w2_b": "b",
    "hada_w1_a": "a1",
    "hada_w1_b": "b1",
    "hada_w2_a": "a2",
    "hada_w2_b": "b2",
    "oft_R": "upper",
    "ia3_l": "scale",
    "boft_R": "upper",
    "boft_s": "scale",
}
"""Of PEFT -> the name of the tensor in our delta."""
TARGETS = {"target_modules": targets("q", "v", "fc1")}
SAME: dict[str, tuple[Method, Any]] = {
    "dora": (
        DoRA(rank=3, alpha=6.0, targets=("q", "v", "fc1")),
        peft.LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, use_dora=True, **TARGETS),
    ),
    "vera": (VeRA(rank=6, targets=("q", "v", "fc1")), peft.VeraConfig(r=6, vera_dropout=0.0, **TARGETS)),
    "lokr": (
        LoKr(rank=3, alpha=6.0, factor=4, targets=("q", "v", "fc1")),
        peft.LoKrConfig(r=3, alpha=6, decompose_factor=4, **TARGETS),
    ),
    "loha": (LoHa(rank=3, alpha=6.0, targets=("q", "v", "fc1")), peft.LoHaConfig(r=3, alpha=6, **TARGETS)),
    "oft": (
        OFT(group=16, targets=("q", "v", "fc1")),
        peft.OFTConfig(r=0, oft_block_size=16, use_cayley_neumann=False, **TARGETS),
    ),
    "boft": (  # PEFT has several factors on a GPU alone, see below
        BOFT(group=16, factors=1, targets=("q", "v", "fc1")),
        peft.BOFTConfig(boft_block_size=16, boft_n_butterfly_factor=1, **TARGETS),
    ),
    "ia3": (
        IA3(),
        peft.IA3Config(target_modules=targets("k", "v", "fc2"), feedforward_modules=targets("fc2")),
    ),
}


def named_factors(theirs: Any, ours: Any) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """(PEFT's tensor, ours) for everything that PEFT trains."""
    own = trainable(ours)
    found = []
    for name, tensor in theirs.named_parameters():
        if tensor.requires_grad:
            parts = name.split(".")
            layer = next(part for part in parts if part.isdigit())
            slot = slot_of(name)
            leaf = next(LEAVES[part] for part in parts if part in LEAVES)
            (path,) = [n for n in own if n.startswith(f"blocks.{layer}.") and n.endswith(f".deltas.{slot}.{leaf}")]
            found.append((tensor, own[path]))
    assert len(found) == len(own)
    return found


def skew(upper: torch.Tensor, size: int) -> torch.Tensor:
    """The skew-symmetric matrices (..., size, size) with what is above their diagonal."""
    rows, columns = torch.triu_indices(size, size, 1)
    matrix = upper.new_zeros(*upper.shape[:-1], size, size)
    matrix[..., rows, columns] = upper.detach()
    return matrix - matrix.mT


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_boft_turns_by_the_factors_that_peft_multiplies(factors: int) -> None:
    """Its permutations, rotations and product, without the layer that asks for a GPU."""
    layer = peft.tuners.boft.layer.BOFTLayer(torch.nn.Linear(48, 20))
    delta = Butterfly(20, 48, 4, factors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        delta.upper.data.normal_()
        delta.scale.data.normal_()
        weight, turn = torch.randn(20, 48), torch.eye(48)
    for i, matrices in enumerate(skew(delta.upper, 4)):
        order = layer.block_butterfly_perm(48, 12 // 2**i, 2, factors - 1)
        permutation = layer.perm2mat(order)
        turn = permutation @ torch.block_diag(*layer.cayley_batch(matrices)) @ permutation.T @ turn
    found, bias = delta.transform(weight, None)
    torch.testing.assert_close(found, delta.scale[:, None] * weight @ turn.T, atol=1e-5, rtol=1e-5)
    assert bias is None


@pytest.mark.parametrize("name", SAME)
def test_the_same_numbers_as_peft_at_first_merged_and_after_three_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft.tuners.boft.layer, "get_fbd_cuda", lambda: None)  # which calls a compiler
    method, config = SAME[name]
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        source = transformers.ViTModel(
            transformers.ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False
        ).eval()
        for parameter in source.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        ours = adapt(from_module(source), method, seed=1)
        theirs = peft.get_peft_model(source, config)
        pairs = named_factors(theirs, ours)
        assert name != "vera" or all(torch.equal(own, tensor) for tensor, own in pairs)  # constants are trained alone
        for tensor, own in pairs:
            own.data += 0.1 * torch.randn_like(own)
            tensor.data.copy_(own.view_as(tensor) if name != "boft" or tensor.ndim < 4 else skew(own, 16))
    if name == "vera":
        shared = ours.shared["vera"]
        for buffer, drawn in ((theirs.base_model.vera_A, shared.a), (theirs.base_model.vera_B, shared.b)):
            buffer["default"].copy_(drawn)
    optimisers = [torch.optim.AdamW(tensors, lr=1e-2) for tensors in zip(*pairs, strict=True)]
    for _ in range(4):
        found = outputs(ours, theirs, images())
        torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
        for optimiser, output in zip(optimisers, found, strict=True):
            optimiser.zero_grad()
            (output - 1).square().mean().backward()
            optimiser.step()
    with torch.no_grad():
        plain = theirs.merge_and_unload()
        found = outputs(merge(copy.deepcopy(ours)), plain, images())
        torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[0], ours(images()), atol=1e-5, rtol=1e-5)
