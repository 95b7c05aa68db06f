"""The field `blocks`: read, counted, refused; and what lies before the first adapted block is computed once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from documented import documented_count
from families import FAMILIES, build, common, random_images
from torch import nn

from vitadapt.methods import (
    METHODS,
    Attention,
    BitFit,
    BlockMethod,
    FineTune,
    LayerNorm,
    LinearProbe,
    LoRA,
)
from vitadapt.methods.spec import method_of, method_text, parse_method, plain_method
from vitadapt.methods.testing import Case
from vitadapt.nn.changes import trains_end_alone, unchanged_blocks
from vitadapt.nn.surgery import Method, adapt, add_tokens, trainable
from vitadapt.nn.vit import ViT
from vitadapt.utils.errors import ConfigError

IN_BLOCKS = [name for name, kind in METHODS.items() if issubclass(kind, BlockMethod)]
DEEP = replace(FAMILIES["dinov2-like"], depth=4)


def test_a_choice_of_blocks_is_a_text_and_plain_values() -> None:
    for text in ("lora", "lora:blocks=last:4", "lora:rank=8,blocks=8+9", "lora:targets=q+k,blocks=3"):
        method = parse_method(text)
        assert method_text(method) == text and method_of(plain_method(method)) == method
    assert LoRA(blocks=[9, 8, 9]) == parse_method("lora:blocks=8+9") == LoRA(blocks=(8, 9))
    assert "blocks" not in plain_method(LoRA()), "records and adapter files from before this field keep their digests"


@pytest.mark.parametrize("choice", ["last", "last:0", "first:4", "8", (), "last:-1", (0, -1)])
def test_what_is_no_choice_of_blocks_is_refused_at_once(choice: object) -> None:
    with pytest.raises(ConfigError, match="write all, last:4 for the last four, or numbers"):
        LoRA(blocks=choice)


@pytest.mark.parametrize("choice", ["last:3", (2,)])
def test_blocks_that_a_network_lacks_are_refused(choice: object) -> None:
    with pytest.raises(ConfigError, match="the network has 2 blocks, counted from 0"):
        adapt(common("clip-like"), LoRA(blocks=choice))


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_every_method_acts_in_the_chosen_blocks_alone_and_counts_so(name: str) -> None:
    method = METHODS[name](blocks=(2,))
    model = adapt(ViT(DEEP), method)
    own = trainable(model)
    assert sum(p.numel() for p in own.values()) == documented_count(DEEP, method)
    assert all(key.startswith(("blocks.2.", "shared.", "side.")) for key in own) and unchanged_blocks(model) == 2
    with pytest.raises(ConfigError):
        adapt(ViT(DEEP), METHODS[name](blocks="last:5"))


def changed(method: Method, **config: object) -> ViT:
    return Case(method, ViT(replace(DEEP, **config)).eval()).perturbed()


@pytest.mark.parametrize("config", [{}, {"mirror": True}, {"pooled_blocks": 2, "pooling": "average"}], ids=str)
def test_what_lies_before_the_first_adapted_block_needs_no_gradient_and_is_computed_once(config: dict) -> None:
    model, images = changed(LoRA(blocks="last:2"), **config), random_images()
    tokens = model.forward_to(images, unchanged_blocks(model))
    assert not tokens.requires_grad and len(tokens) == len(images)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(model.forward_from(tokens[rows], 2), model(images[rows]), atol=1e-6, rtol=1e-6)


def test_a_projection_and_what_is_behind_it_may_train_without_running_the_network_again() -> None:
    config = replace(DEEP, projection=24)
    for method, alone in {LinearProbe(): True, METHODS["clip-adapter"](): True, LoRA(): False, BitFit(): False}.items():
        assert trains_end_alone(changed(method, projection=24)) == alone, method
    model = ViT(config).requires_grad_(False)
    model.projection.requires_grad_(True)
    assert trains_end_alone(model)
    model.norm.requires_grad_(True)
    assert not trains_end_alone(model)


def test_how_many_blocks_a_method_leaves_unchanged() -> None:
    limit = DEEP.depth - 1
    found = {BitFit(): None, FineTune(): None, Attention(): 0, LayerNorm(blocks="last:1"): limit, LoRA(): 0}
    assert {method: unchanged_blocks(changed(method)) for method in found} == found
    assert unchanged_blocks(ViT(DEEP).requires_grad_(False)) == limit
    assert unchanged_blocks(changed(LoRA(blocks=(3,)), pooled_blocks=3)) == 1, "tokens of three blocks are read"
    assert unchanged_blocks(build("convnet")) is None
    prompted = ViT(DEEP).requires_grad_(False)
    add_tokens(prompted, [nn.Parameter(torch.zeros(2, DEEP.width)) for _ in range(DEEP.depth)])
    assert unchanged_blocks(prompted) == 0
