"""Somebody else's program, for mypy alone: what it may rely on about the types of the public names.

`test_typing.py` checks it strictly as an outside user of the package would, away from the sources. Nothing runs it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.utils.data import DataLoader

import vitadapt as va
from vitadapt.data import ImageRef
from vitadapt.methods import LAWS, Case, check_method
from vitadapt.methods.audit import TensorReport, probe
from vitadapt.methods.laws import Law, broken_laws
from vitadapt.serving.bank import AdapterSummary
from vitadapt.text import TextTower
from vitadapt.training.adapter_file import AdapterInfo
from vitadapt.training.loop import FitLog
from vitadapt.utils.registry import Registry

Labels = npt.NDArray[Any]  # of one class each, or multi-hot
Rows = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]


def networks(path: Path, model: nn.Module) -> None:
    assert_type(va.__version__, str)
    backbone = va.load_backbone("dinov2-s14-offline", image_size=98)
    assert_type(backbone, va.Backbone)
    assert_type((backbone.features, backbone.image_size), tuple[int, int])
    assert_type(va.backbone_digest(backbone), str)
    vit = va.ViT(va.ViTConfig(width=64, depth=2, heads=2, patch=8))
    assert_type(va.adapt(vit, va.LoRA(rank=2), seed=None), va.ViT)  # whatever is given comes back, and not a Module
    assert_type(va.merge(vit), va.ViT)
    assert_type(va.adapt(model, va.KAdaptation()), nn.Module)
    assert_type(va.trainable_state(vit), dict[str, Tensor])
    assert_type(vit.config, va.ViTConfig)
    assert_type(va.read_adapter(path), tuple[AdapterInfo, dict[str, Tensor]])
    loaded = va.load_adapter(path, backbone)
    assert_type(loaded, va.Classifier)
    assert_type(va.save_adapter(path, loaded, va.LoRA(), "dinov2-s14-offline", classes=["a", "b"]), Path)
    classifier = va.Classifier(backbone, va.Head(vit.features, 10, va.HeadSpec(start="zero")))
    assert_type(classifier.head, va.Head)
    assert_type(classifier.head.to_linear(), nn.Linear)


def methods() -> list[va.Method]:
    registry: Registry[type[va.Method]] = va.METHODS
    assert_type(registry["lora"], type[va.Method])
    assert_type(va.METHODS["lora"], type[va.Method])
    assert_type(va.parse_method("lora:rank=8"), va.Method)
    assert_type(va.KAdaptation().n, int)
    assert_type(va.LoRA().alpha, float)
    adapters: list[va.Method] = [va.Adapter(), va.Compacter(), va.PHMAdapter()]
    newer: list[va.Method] = [
        va.DTL(),
        va.SSText(),
        va.TipAdapter(),
        va.TipAdapterF(),
        va.GDAClip(),
        va.ProKeR(),
        va.LPPlusPlus(),
        va.CLAP(),
        va.ProLIP(),
        va.TaskRes(),
        va.CLIPAdapter(),
        va.TextDiscriminant(),
        va.IA3(),
        va.OFT(),
        va.BOFT(),
        va.SSF(),
        va.SVD(),
        va.CLIPLoRA(),
        va.CLIPSVD(),
        va.TwoStage(),
        va.CoOp(),
        va.KgCoOp(),
        va.MaPLe(),
        va.VPT(),
        va.AdapterPlus(),
        va.AdaptFormer(),
        va.Convpass(),
        va.DiffFit(),
        va.DoRA(),
        va.FactTK(),
        va.FactTT(),
        va.Houlsby(),
        va.LoHa(),
        va.LoKr(),
        va.PartialK(),
        va.Pfeiffer(),
        va.RepAdapter(),
        va.SideTuning(),
        va.VeRA(),
    ]
    together: list[va.Method] = [va.Together(va.LoRA(), va.BitFit())]
    adapters += [*newer, *together]
    return [*adapters, va.Attention(), va.BitFit(), va.LayerNorm(), va.FineTune(), va.LinearProbe(), va.ZeroShot()]


class Half(va.ThinDelta):
    """A delta of one's own."""

    def factors(self) -> tuple[Tensor, Tensor]:
        p, q = super().factors()
        return p / 2, q


def laws(method: va.Method, backbone: va.Backbone, delta: va.Delta) -> None:
    assert_type(Half().matrix(), Tensor)
    assert_type(delta.bias(), Tensor | None)
    assert_type(LAWS, tuple[Law, ...])
    assert_type(broken_laws(method, backbone), dict[str, str])
    assert_type(Case(method, backbone).adapted(), va.Backbone)
    check_method(method, backbone, count=1)
    assert_type(probe(backbone, method), list[TensorReport])


def data(images: npt.NDArray[np.uint8], labels: Labels) -> va.Dataset:
    dataset = va.from_arrays(images, labels, images, labels, classes=["a", "b"])
    assert_type(dataset, va.Dataset)
    assert_type(dataset.splits, Mapping[str, va.Examples])
    assert_type(dataset.splits["train"].take([0, 1]), va.Examples)
    assert_type(va.sample_few_shot(labels, 5, seed=0), Rows)
    loader = va.make_loader(dataset.splits["train"], va.load_backbone("random:tiny"), shuffle=True)
    assert_type(loader, DataLoader[tuple[Tensor, Tensor]])
    assert_type(va.validation_split(labels, 0.2), tuple[Rows, Rows])
    return va.open_dataset("digits")


def training(classifier: va.Classifier, images: Tensor, labels: Tensor) -> list[float]:
    log = va.fit(classifier, images, labels, va.Recipe(epochs=1), setting=va.Setting(device="cpu"))
    assert_type(log, FitLog)
    return log.losses


def runs(store: va.Store, folder: Path) -> Iterable[str]:
    config = va.RunConfig("dinov2-s14-offline", va.LoRA(), "digits", shots=5, head=va.HeadSpec())
    assert_type(config.digest(), str)
    assert_type(config.resolved(), va.RunConfig)
    record = va.run(config, store, va.Environment(cache=folder))
    assert_type(record, va.Record)
    assert_type(record.score, float | None)
    assert_type(record.parameters, dict[str, int])
    assert_type(store.get(record.digest), va.Record | None)
    assert_type(store.predictions(record), tuple[Probabilities, Labels])
    records, damaged = store.records()
    assert_type(records, list[va.Record])
    return damaged


def own_models(folder: Path, refs: list[ImageRef]) -> None:
    model = va.load_model(folder)
    assert_type(model, va.Model)
    assert_type(model.classes, tuple[str, ...])
    assert_type(model.classifier, va.Classifier)
    assert_type(model.predict_proba(["cat.jpg"]), Probabilities)
    assert_type(va.load_images(["cat.jpg"], model), Tensor)
    assert_type(model.predict_refs(refs), Probabilities)


def estimator(paths: list[str], labels: list[str]) -> None:
    classifier = va.ImageClassifier("dinov2-s14-offline", va.KAdaptation(), recipe=va.Recipe()).fit(paths, labels)
    assert_type(classifier, va.ImageClassifier)
    assert_type(classifier.predict_proba(paths), Probabilities)
    assert_type(classifier.predict(paths), Labels)
    assert_type(classifier.transform(paths), Probabilities)
    assert_type(classifier.classifier_, va.Classifier)
    assert_type(classifier.save("model"), Path)
    assert_type(va.ImageClassifier.load("model"), va.ImageClassifier)


def bank(backbone: va.Backbone, images: Tensor) -> None:
    many = va.Bank(backbone, {"pets": "pets.safetensors"}, resident=100)
    many.add("cars", Path("cars.safetensors"))
    assert_type(many.backbone, va.ViT)
    assert_type(many.names, tuple[str, ...])
    assert_type(many.info("pets"), AdapterSummary)
    assert_type(many.info("pets").method, va.Method | None)
    assert_type(many.logits(images, ["pets"]), list[Tensor])
    assert_type(many.classifier("pets"), va.Classifier)
    assert_type(many.to("cpu"), va.Bank)


def language(backbone: va.Backbone) -> Tensor:
    prompts = va.Prompts(templates=("a photo of a {}.",), knowledge=va.Knowledge("knowledge.json", gpt3=2))
    texts = va.class_texts("digits", ["zero", "one"], prompts)
    assert_type(texts, list[list[str]])
    tower = va.load_text_tower("random:clip-b32", backbone)
    assert_type(tower, TextTower)
    assert_type(va.adapted_text_tower("adapter.safetensors", backbone), TextTower)
    assert_type(tower.encode(["a cat"]), Tensor)
    try:
        return va.text_matrix(tower, texts)
    except va.VitadaptError as error:
        assert_type(str(error), str)
        raise
