"""Our LoRA against Hugging Face PEFT's on the same network: same outputs, same gradients, same training."""

import pytest
import torch

from vitadapt.methods import LoRA
from vitadapt.nn.surgery import adapt, trainable
from vitadapt.weights import from_module

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

RANK, ALPHA = 4, 8.0


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
        names = [name for name, _ in source.named_modules()]
        query, value = ("query", "value") if any(name.endswith("query") for name in names) else ("q_proj", "v_proj")
        theirs = peft.get_peft_model(
            source, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=[query, value], lora_dropout=0.0)
        )
    for layer, slot, factor, tensor in factors(theirs, {query: "q", value: "v"}):
        tensor.data.copy_(getattr(ours.blocks[layer].attention.qkv.deltas[slot], factor))
    return ours, theirs, {query: "q", value: "v"}


def factors(theirs, slots):
    """(layer, slot, "a" or "b", tensor) for every factor of PEFT's model."""
    for name, tensor in theirs.named_parameters():
        if "lora_" in name:
            parts = name.split(".")
            layer = next(int(part) for part in parts if part.isdigit())
            slot = next(slots[part] for part in parts if part in slots)
            yield layer, slot, "a" if "lora_A" in parts else "b", tensor


def outputs(ours, theirs, images):
    pixels = ours.normalise(images)
    return ours(images), theirs(pixel_values=pixels).last_hidden_state[:, 0]


def images():
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_same_outputs_and_same_gradients(pair):
    ours, theirs, slots = pair
    mine, yours = outputs(ours, theirs, images())
    torch.testing.assert_close(mine, yours, atol=1e-5, rtol=1e-5)
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(3))
    (mine * weights).sum().backward()
    (yours * weights).sum().backward()
    count = 0
    for layer, slot, factor, tensor in factors(theirs, slots):
        own = getattr(ours.blocks[layer].attention.qkv.deltas[slot], factor)
        torch.testing.assert_close(own.grad, tensor.grad, atol=1e-4, rtol=1e-4)
        count += 1
    assert count == len(trainable(ours)) == 8


def test_the_same_training_ends_in_the_same_place(pair):
    ours, theirs, slots = pair
    own = list(trainable(ours).values())
    other = [tensor for *_, tensor in factors(theirs, slots)]
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
