"""Model folders to export, and the command line to do it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import torch
from typer.testing import CliRunner

from vitadapt.classifier.export.deployed import TrainedModel
from vitadapt.cli.main import app
from vitadapt.methods import KAdaptation
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head, backbone_of
from vitadapt.nn.head_spec import ZERO, HeadSpec
from vitadapt.nn.surgery import Method, adapt, seeded, trainable
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes
from vitadapt.weights import load_backbone

BACKBONE = "random:tiny"


CARD = "---\nlicense: apache-2.0\nlibrary_name: vitadapt\npipeline_tag: image-classification\n---\n# A model\n"


def model_folder(folder: Path, method: Method) -> Path:
    base: Any = load_backbone(BACKBONE)
    with seeded(2):
        adapted = adapt(base, method)
        for parameter in trainable(adapted).values():
            parameter.data = parameter.data + 0.05 * torch.randn(parameter.shape)
        head = Head(base.features, 3)
        head.linear.weight.data.normal_()
        head.linear.bias.data.normal_()
    info = AdapterInfo(method, BACKBONE, base.image_size, ("a", "b", "c"), backbone_digest(base))
    folder.mkdir()
    (folder / "adapter.safetensors").write_bytes(adapter_bytes(Classifier(adapted, head).eval(), info))
    (folder / "README.md").write_text(CARD, "utf-8")
    return folder


def typed(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


CLASSES = ("cat", "dog", 'a "quoted" name', "Ärger")


KRONECKER = KAdaptation(n=8)


def trained_model(family: str, method: Method = KRONECKER, spec: HeadSpec = ZERO) -> TrainedModel:
    """A trained-looking classifier: no tensor that the method made or the head has is zero."""
    base: Any = families.common(family)
    if family in families.PARTS and base.config.qkv_bias:  # keys have none there
        base = families.build(family)
        for block in base.blocks:
            block.attention.qkv.bias.data[base.config.width : 2 * base.config.width] = 0
    base = backbone_of(base, spec)
    with seeded(1):
        adapted = adapt(base, method)
        for parameter in trainable(adapted).values():
            parameter.data = parameter.data + 0.05 * torch.randn(parameter.shape)
        head = Head(base.features, len(CLASSES), spec)
        head.linear.weight.data.normal_()
        head.linear.bias.data.normal_()
        if spec.norm == "standard":
            head.standardise(torch.randn(20, base.features) + 0.3)
    info = AdapterInfo(method, "random:tiny", 32, CLASSES, "0" * 32, spec)
    return TrainedModel(Classifier(adapted, head).eval(), base, info)
