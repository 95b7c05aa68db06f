"""Networks that are not plain ViTs: exact features, rows that do not see each other, and the methods that apply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from weights_cases import images, largest

from vitadapt.methods import METHODS
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.surgery import adapt, trainable
from vitadapt.nn.vit import Preprocess
from vitadapt.utils.errors import ConfigError, NotApplicable, WeightsError
from vitadapt.weights import FeatureExtractor, load_backbone
from vitadapt.weights.feature_extractor import extractor

timm = pytest.importorskip("timm")
NETWORKS = ("test_resnet", "test_convnext", "test_efficientnet", "test_byobnet")


def network(name: str, size: int | None = 64) -> FeatureExtractor:
    backbone = load_backbone(f"random:timm/{name}", image_size=size)
    assert isinstance(backbone, FeatureExtractor)
    return backbone


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_the_network_on_normalised_images(name: str) -> None:
    net, x = network(name), images(64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (net.preprocess.mean, net.preprocess.std))
    with torch.no_grad():
        assert torch.equal(net(x), net.network((x - mean) / std))
        assert net(x).shape == (2, net.features)
        pixels = (x * 255).round().to(torch.uint8)
        assert largest(net(pixels), net(pixels / 255)) <= 1e-4


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_rows_do_not_depend_on_each_other_and_no_statistics_move(name: str, training: bool) -> None:
    net = network(name).train(training)
    x = images(64, count=3)
    before = {key: t.clone() for key, t in net.state_dict().items()}
    with torch.no_grad():
        whole = net(x)
        for row in range(3):
            assert largest(whole[row : row + 1], net(x[row : row + 1])) <= 1e-5
    assert all(torch.equal(t, before[key]) for key, t in net.state_dict().items())


@pytest.mark.parametrize("method", ["linear-probe", "bitfit", "layernorm", "fine-tune"])
def test_methods_without_slots_apply(method: str) -> None:
    net = network("test_resnet")
    adapted = adapt(net, METHODS[method]())
    names = set(trainable(adapted))
    assert bool(names) == (method != "linear-probe")
    if names:
        adapted(images(64)).square().sum().backward()
        assert all(p.grad is not None for p in trainable(adapted).values())
    assert not trainable(net)


@pytest.mark.parametrize("method", ["lora", "kadaptation", "adapter"])
def test_methods_with_slots_say_that_they_do_not_apply(method: str) -> None:
    with pytest.raises(NotApplicable, match="FeatureExtractor"):
        adapt(network("test_resnet"), METHODS[method]())


def test_sizes() -> None:
    assert network("test_resnet", None).image_size == 160
    assert network("test_resnet", 96).image_size == 96
    pooled = network("test_vit3", 128)  # a transformer that pools by attention: its positions are resampled
    with torch.no_grad():
        assert pooled(images(128)).shape == (2, pooled.features) and pooled.image_size == 128
    with pytest.raises(ConfigError, match="cannot take images of 30 pixels"):
        load_backbone("random:timm/mixer_s32_224", image_size=30)


def test_digest_depends_on_the_size_and_the_weights() -> None:
    digests = {backbone_digest(network("test_resnet", size)) for size in (64, 96)}
    assert len(digests | {backbone_digest(load_backbone("random:timm/test_resnet@1", image_size=64))}) == 3


def test_a_network_without_pooling_is_refused() -> None:
    unpooled: Any = timm.create_model("test_resnet", num_classes=0, global_pool="")
    with pytest.raises(WeightsError, match="no single vector per image"):
        extractor("unpooled", unpooled, 64, Preprocess())
