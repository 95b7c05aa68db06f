from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from families import ALL, CLIP_LIKE, TINY, build, random_images
from torch import Tensor

from vitadapt.nn.block import SLOTS, Attention, Block, SlotLinear
from vitadapt.nn.surgery import seeded
from vitadapt.nn.vit import ACTIVATIONS, Preprocess, Rotary, ViT, ViTConfig, resample_positions

POOLED_WIDTHS = {"clip-like": 48, "gap-like": 64, "class+average": 128, "deit-like": 64, "dinov2-like": 64}


@pytest.mark.parametrize("family", ALL)
def test_uint8_and_float_images_give_the_same_features(family: str) -> None:
    model, images = build(family).double(), random_images()
    torch.testing.assert_close(model(images), model(images.double() / 255), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_other_integer_images_are_refused_for_their_scale_is_unknown(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="uint8"):
        build("deit-like")(random_images().to(dtype))


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (1, 1, 32, 32), (1, 4, 32, 32), (1, 3, 30, 32), (1, 3, 32, 30), (1, 3, 0, 8)]
)
def test_images_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        build("deit-like")(torch.zeros(shape))


@pytest.mark.parametrize(("family", "width"), POOLED_WIDTHS.items())
def test_width_of_the_features(family: str, width: int) -> None:
    model = build(family)
    assert model.features == width and model(random_images()).shape == (3, width)


@pytest.mark.parametrize("family", ["clip-like", "dinov2-like", "gap-like"])
def test_resampling_to_the_own_grid_changes_nothing(family: str) -> None:
    model = build(family)
    same = resample_positions(model.position, 4, (4, 4), model.config.antialias)
    assert torch.equal(same, model.position)


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("family", ALL)
def test_resized_once_equals_resized_on_the_fly(family: str, size: int) -> None:
    on_the_fly, once, images = build(family), build(family), random_images(size=size)
    once.resize(size)
    assert once.image_size == size and once.config.grid == size // 8
    assert torch.equal(once(images), on_the_fly(images))


def test_resizing_to_the_own_size_keeps_the_very_tensor_and_to_a_partial_patch_is_refused() -> None:
    model = build("clip-like")
    before = model.position
    model.resize(32)
    assert model.position is before
    with pytest.raises(ValueError, match="patch"):
        model.resize(36)
    assert model.position is before and model.image_size == 32


def test_oblong_images_use_a_position_grid_of_their_shape() -> None:
    model = build("dinov2-like")
    wide, tall = torch.rand(1, 3, 16, 48), torch.rand(1, 3, 48, 16)
    assert model(wide).shape == model(tall).shape == (1, 64)
    assert model.embed(wide).shape[1] == 3 + 2 * 6


def test_resampled_rows_of_the_class_token_are_kept() -> None:
    model = build("clip-like")
    resized = resample_positions(model.position, 4, (2, 6), False)
    assert resized.shape == (1 + 12, 64) and torch.equal(resized[0], model.position[0])


def test_images_with_other_than_three_channels() -> None:
    five = Preprocess((0.1, 0.2, 0.3, 0.4, 0.5), (0.5,) * 5)
    model = ViT(ViTConfig(**TINY, channels=5, preprocess=five)).eval()
    images = torch.randint(0, 256, (2, 5, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model(images), model(images.float() / 255), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"expected images \(B, 5, S, S\)"):
        model(random_images())


@pytest.mark.parametrize("rotary", [Rotary(), Rotary(10000.0, "patches", 8, 1.0, "xy", "neighbours")])
def test_rotary_positions_are_the_formula_and_leave_the_prefix_alone(rotary: Rotary) -> None:
    x = torch.randn(1, 2, 3 + 2 * 4 + 5, 8)  # 3 prefix tokens, a grid of 2 x 4, 5 added tokens; heads of width 8
    turned = rotary.turn(x, rotary.rotation((2, 4), 3, 8, x))
    assert torch.equal(turned[:, :, :3], x[:, :, :3]) and torch.equal(turned[:, :, 11:], x[:, :, 11:])
    for place in range(8):
        rows, columns = divmod(place, 4)
        if rotary.scale == "relative":
            c = {"y": 2 * math.pi * (2 * (rows + 0.5) / 2 - 1), "x": 2 * math.pi * (2 * (columns + 0.5) / 4 - 1)}
        else:
            c = {"y": (rows + rotary.offset) / 2 * 8, "x": (columns + rotary.offset) / 4 * 8}
        angles = [c[axis] * rotary.temperature ** (-4 * i / 8) for axis in rotary.order for i in range(2)]
        for i, angle in enumerate(angles):
            a, b = (i, i + 4) if rotary.pairs == "halves" else (2 * i, 2 * i + 1)
            old, new = x[0, :, 3 + place], turned[0, :, 3 + place]
            torch.testing.assert_close(new[:, a], old[:, a] * math.cos(angle) - old[:, b] * math.sin(angle))
            torch.testing.assert_close(new[:, b], old[:, b] * math.cos(angle) + old[:, a] * math.sin(angle))


def test_cropped_positions_are_those_of_the_upper_left_of_the_square() -> None:
    position = torch.randn(64, 6)
    square = resample_positions(position, 8, (4, 4), False, "crop").unflatten(0, (4, 4))
    assert torch.equal(resample_positions(position, 8, (2, 4), False, "crop").unflatten(0, (2, 4)), square[:2])
    assert torch.equal(resample_positions(position, 8, (4, 3), False, "crop").unflatten(0, (4, 3)), square[:, :3])
    bilinear = resample_positions(position, 8, (4, 4), False, "bilinear").unflatten(0, (4, 4))
    assert torch.equal(bilinear, square)


def norm_by_hand(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def attention_by_hand(x: Tensor, attention: Attention) -> Tensor:
    """(B, N, D) -> (B, N, D), one image, head and token at a time, by the definition."""
    D, H = x.shape[-1], attention.heads
    weight, bias = attention.qkv.weight, attention.qkv.bias
    q, k, v = (x @ weight[i * D : (i + 1) * D].T + bias[i * D : (i + 1) * D] for i in range(3))
    mixed = torch.zeros_like(x)
    for image in range(x.shape[0]):
        for head in range(H):
            cols = slice(head * D // H, (head + 1) * D // H)
            for token in range(x.shape[1]):
                scores = torch.stack([q[image, token, cols] @ row for row in k[image, :, cols]]) / math.sqrt(D / H)
                shares = (scores - scores.max()).exp()
                mixed[image, token, cols] = (shares / shares.sum()) @ v[image, :, cols]
    return mixed @ attention.out.weight.T + attention.out.bias


def activation_by_hand(x: Tensor, name: str) -> Tensor:
    return {
        "gelu": lambda: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        "gelu_tanh": lambda: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "quick_gelu": lambda: x / (1 + torch.exp(-1.702 * x)),
        "relu": lambda: x * (x > 0),
        "silu": lambda: x / (1 + torch.exp(-x)),
    }[name]()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_block_is_the_textbook_formula(activation: str) -> None:
    config = replace(CLIP_LIKE, layer_scale=True, activation=activation)
    torch.manual_seed(0)
    block = Block(config).double()
    for parameter in block.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    with torch.no_grad():
        y = x + attention_by_hand(norm_by_hand(x, block.norm1), block.attention) * block.scale1.gamma
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        hidden = activation_by_hand(norm_by_hand(y, block.norm2) @ fc1.weight.T + fc1.bias, activation)
        y = y + (hidden @ fc2.weight.T + fc2.bias) * block.scale2.gamma
        torch.testing.assert_close(block(x), y, rtol=1e-12, atol=1e-12)


def test_embedding_is_a_linear_map_of_each_patch_plus_its_position() -> None:
    model, images = build("dinov2-like").double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    tokens = model.embed(images)
    patch = ((images - model.mean) / model.std)[1, :, 8:16, 24:32]  # row 1, column 3 of the 4 x 4 grid
    expected = model.patches.weight.flatten(1) @ patch.flatten() + model.patches.bias + model.position[4 + 3]
    torch.testing.assert_close(tokens[1, 3 + 4 + 3], expected)
    assert torch.equal(tokens[0, 0], model.class_token) and torch.equal(tokens[0, 1:3], model.registers)


@pytest.mark.parametrize("family", ["gap-like", "class+average", "deit-like", "clip-like"])
def test_pooling_is_what_its_name_says(family: str) -> None:
    model, tokens = build(family), torch.randn(2, 16 + (family != "gap-like"), 64)
    normed = model.norm(tokens)
    expected = {
        "gap-like": lambda: model.norm(tokens.mean(1)),
        "class+average": lambda: torch.cat([normed[:, 0], normed[:, 1:].mean(1)], dim=1),
        "deit-like": lambda: normed[:, 0],
        "clip-like": lambda: normed[:, 0] @ model.projection.weight.T,
    }[family]()
    torch.testing.assert_close(model.pool(tokens), expected)


def test_running_some_blocks_then_the_others_is_running_all() -> None:
    model, tokens = build("deit-like"), torch.randn(2, 17, 64)
    halves = model.run_blocks(model.run_blocks(tokens, last=1), first=1)
    assert torch.equal(halves, model.run_blocks(tokens)) and not torch.equal(halves, tokens)


def test_the_slots_of_a_block_are_disjoint_rows_that_cover_every_linear_layer() -> None:
    layers = [m for m in build("deit-like").blocks[0].modules() if isinstance(m, SlotLinear)]
    assert [slot for layer in layers for slot in layer.slots] == [slot for slot in SLOTS if slot != "gate"]
    layers += [m for m in build("eva02-like").blocks[0].modules() if isinstance(m, SlotLinear)]
    assert {slot for layer in layers for slot in layer.slots} == set(SLOTS)
    for layer in layers:
        rows = [row for slot in layer.slots for row in range(*layer.rows(slot).indices(layer.out_features))]
        assert rows == list(range(layer.out_features))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads does not divide"),
        ({"patch": 7}, "patch does not divide"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"class_token": False}, "needs a class token"),
        ({"class_token": False, "pooling": "class+average"}, "needs a class token"),
        ({"pooling": "class+average", "norm_after_pool": True}, "norm_after_pool"),
        ({"pooling": "attention"}, "pool_heads"),
        ({"pool_heads": 2}, "pool_heads"),
        ({"class_tokens": 2}, "class_tokens"),
        ({"rotary": Rotary(), "heads": 32}, "rotary"),
        ({"channels": 5}, "no mean and std for each of the 5"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ViTConfig(**TINY), **change)


def test_random_weights_come_from_the_global_generator_alone() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(ViT(CLIP_LIKE).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_new_network_has_small_random_weights() -> None:
    with seeded(0):
        model = ViT(CLIP_LIKE)
    for tensor in (model.position, model.class_token, model.blocks[0].mlp.fc1.weight):
        assert float(tensor.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert not model.blocks[0].mlp.fc1.bias.any()
