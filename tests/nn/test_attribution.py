"""Heat maps: the blocks they are made from compute what the network computes, and they point at what decides."""

from __future__ import annotations

import pytest
import torch
from families import build, random_images
from more_methods import Beside
from PIL import Image

from vitadapt.methods import SSF, VPT, AdapterPlus, DoRA, FineTune, KAdaptation, LoRA, MaPLe, PHMAdapter
from vitadapt.nn.attribution import HEATS, explain, overlay, side_by_side, with_attention
from vitadapt.nn.head import Classifier, Head, backbone_of
from vitadapt.nn.head_spec import HeadSpec
from vitadapt.nn.surgery import adapt, seeded, trainable
from vitadapt.nn.vit import Rotary, ViT, ViTConfig
from vitadapt.utils.errors import ConfigError, NotApplicable, UnknownName

BASE = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "image_size": 32}
SHAPES = {
    "clip": ViTConfig(**BASE, activation="quick_gelu", ln_pre=True, projection=24, patch_bias=False),
    "dinov2 with registers": ViTConfig(**BASE, layer_scale=True, registers=4, pooling="class+average"),
    "average": ViTConfig(**BASE, pooling="average", class_token=False, final_norm="affine"),
    "rotary, by attention": ViTConfig(**BASE, rotary=Rotary(), positions=False, pooling="attention", pool_heads=2),
}


def network(config, method=None, classes=3):
    """Random weights, and deltas that change something."""
    with seeded(0):
        backbone = ViT(config).eval()
        adapted = adapt(backbone, method) if method is not None else backbone.requires_grad_(False)
        for parameter in trainable(adapted).values():
            parameter.data += 0.3 * torch.randn_like(parameter)
        head = Head(adapted.features, classes)
        torch.nn.init.normal_(head.linear.weight)
    return Classifier(adapted, head).eval()


def images(count=2, size=32, seed=0):
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize(
    "method",
    [
        *(None, KAdaptation(), LoRA(targets=("q", "k", "v", "o", "fc1", "fc2")), PHMAdapter()),
        *(VPT(), VPT(deep=False), Beside(), Beside(place="attention-parallel"), DoRA(), SSF(), AdapterPlus()),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_block_part_by_part_is_what_the_block_computes(shape, method):
    vit = network(SHAPES[shape], method).backbone
    with torch.no_grad():
        x, places = vit.embed(images()), vit.places(images())
        for block in vit.blocks:
            again, weights = with_attention(block, x, places=places)
            x = block(x, places=places)
            torch.testing.assert_close(again, x, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("method", [KAdaptation(), VPT(), MaPLe()])
@pytest.mark.parametrize("kind", HEATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_a_map_of_its_patches(shape, kind, method):
    heat = explain(network(SHAPES[shape], method), images(), kind)
    assert heat.shape == (2, 4, 4) and heat.min() == 0 and heat.max() == 1
    assert not torch.allclose(heat[0], heat[1])


@pytest.mark.parametrize("kind", HEATS)
def test_an_image_is_explained_alone(kind):
    model = network(SHAPES["clip"], KAdaptation())
    together, alone = explain(model, images(), kind), [explain(model, image[None], kind)[0] for image in images()]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", HEATS)
def test_other_weights_give_another_map(kind):
    model = network(SHAPES["clip"])
    before = explain(model, images(1), kind)
    with seeded(1):
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * parameter.std().nan_to_num(1.0).clamp_min(0.02) * 3
    after = explain(model, images(1), kind)
    correlation = torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]
    assert correlation < 0.8


@pytest.mark.parametrize(("kind", "same"), [("gradient", False), ("input", False), ("rollout", True)])
def test_classes_have_maps_of_their_own_but_for_rollout(kind, same):
    model = network(SHAPES["clip"])
    first, second = (explain(model, images(1), kind, target) for target in (0, 1))
    assert torch.equal(first, second) is same


def marked(count, seed):
    """Grey noise with one bright patch at a random place, red or green; the colour is the label."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(90, 130, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 2, (count,), generator=generator)
    places = torch.randint(0, 16, (count,), generator=generator)
    for picture, label, place in zip(pictures, labels.tolist(), places.tolist(), strict=True):
        row, column = 8 * (place // 4), 8 * (place % 4)
        picture[:, row : row + 8, column : column + 8] = 0
        picture[label, row : row + 8, column : column + 8] = 255
    return pictures, labels, places


@pytest.fixture(scope="module")
def trained():
    """A tiny network that tells the colour of the patch."""
    with seeded(0):
        backbone = adapt(ViT(ViTConfig(**BASE)), FineTune())
        model = Classifier(backbone, Head(backbone.features, 2)).train()
        pictures, labels, _ = marked(256, 0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for epoch in range(12):
            for rows in torch.randperm(256, generator=torch.Generator().manual_seed(epoch)).split(32):
                loss = torch.nn.functional.cross_entropy(model(pictures[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("kind", "least"), [("gradient", 0.95), ("input", 0.9), ("rollout", 0.9)])
def test_the_patch_that_decides_is_the_warmest(trained, kind, least):
    pictures, labels, places = marked(40, 1)
    assert (trained(pictures).argmax(dim=1) == labels).float().mean() > 0.95
    warmest = explain(trained, pictures, kind).flatten(1).argmax(dim=1)
    assert (warmest == places).float().mean() >= least


def test_explaining_leaves_no_trace():
    model = network(SHAPES["clip"], KAdaptation()).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    explain(model, images(1), "gradient")
    assert model.training and flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Plain(torch.nn.Module):
    """A network that is no vision transformer."""

    features, image_size = 4, 32

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.layer(x.float()).relu().mean(dim=(2, 3))


def test_other_networks_have_the_gradient_of_their_input_only():
    model = Classifier(Plain(), network(SHAPES["average"]).head.__class__(4, 3))
    torch.nn.init.normal_(model.head.linear.weight)
    assert explain(model, images(1), "input").shape == (1, 16, 16)
    for kind in ("gradient", "rollout"):
        with pytest.raises(NotApplicable, match="--kind input"):
            explain(model, images(1), kind)


def test_unknown_kinds_and_classes_are_refused():
    model = network(SHAPES["clip"])
    with pytest.raises(UnknownName, match="rollout"):
        explain(model, images(1), "rolout")
    with pytest.raises(ConfigError, match="class 3"):
        explain(model, images(1), "gradient", 3)


def test_the_overlay_is_warm_where_the_heat_is():
    heat = torch.zeros(4, 4)
    heat[0, 0] = 1
    picture = overlay(Image.new("RGB", (64, 64), "grey"), heat)
    warm, cold = picture.getpixel((6, 6)), picture.getpixel((56, 56))
    assert warm[0] > warm[2] + 60 and cold[2] >= cold[0]
    assert side_by_side(Image.new("RGB", (64, 64), "grey"), heat).size == (140, 64)


@pytest.mark.parametrize("kind", ["gradient", "rollout", "input"])
def test_a_head_that_reads_several_blocks_and_the_mirror_image_is_explained(kind):
    spec = HeadSpec(blocks=2, mirror=True)
    backbone = backbone_of(build("clip-like"), spec)
    head = Head(backbone.features, 3, spec)
    torch.nn.init.normal_(head.linear.weight)
    heat = explain(Classifier(backbone, head), random_images(2), kind)
    assert heat.shape == (2, 4, 4) and heat.isfinite().all() and heat.max() > 0
