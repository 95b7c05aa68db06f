"""Throughput and memory of the adapter bank: a batch of images of many tasks against one merged model.

    python benchmarks/bank.py --backbone random:vit-b32 --adapters 1 10 100 1000 --batch 64 --rounds 5

Random weights and images, heads of 2 to 31 classes. In every round each bank answers a batch whose adapters are drawn
anew (all different where the bank holds as many), right behind a merged model of ten classes on the same images; the
ratio is the median over rounds of merged time / bank time, in time of the processor, so that neither a machine that
slows down nor other programs count. Ratios of one run can be compared, times of two runs cannot. `on disk` keeps only
a batch's worth of adapters resident and reads the others from their files. `separate` is one merged model per image of
the batch. KB is what one adapter takes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitadapt import Bank
from vitadapt.methods.spec import parse_method
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.head import Classifier, Head
from vitadapt.nn.surgery import adapt, merge, trainable
from vitadapt.nn.vit import ViT
from vitadapt.training.adapter_file import AdapterInfo, adapter_bytes
from vitadapt.utils.system import peak_memory_mb
from vitadapt.weights import load_backbone

CLASSES = 10
MIXED = ("kadaptation", "lora", "adapter", "bitfit")


@dataclass(frozen=True)
class Line:
    """A contender: how fast it is relative to the merged model, milliseconds of a batch, and memory per adapter."""

    backbone: str
    contender: str
    adapters: int
    ratio: float
    milliseconds: float
    kilobytes: float

    def __str__(self) -> str:
        start = f"{self.backbone:16s} {self.contender:30s} {self.adapters:5d}"
        return f"{start} {self.ratio:6.2f} {self.milliseconds:9.1f} ms {self.kilobytes:9.1f} KB"


@dataclass(frozen=True)
class Contender:
    name: str
    adapters: int
    kilobytes: float
    answer: Callable[[Tensor, Sequence[str]], object]


def filled(vit: ViT, methods: Sequence[str], count: int, folder: Path | None = None, resident: int = 1) -> Bank:
    """A bank of `count` adapters of these methods in turn, all of whose numbers differ; from files of a `folder`."""
    bank = Bank(vit, resident=resident if folder else None)
    parsed = [parse_method(method) for method in methods]
    models, base = [adapt(vit, method) for method in parsed], backbone_digest(vit)
    for i in range(count):
        classes = tuple(map(str, range(2 + i % 30)))
        model = Classifier(models[i % len(models)], Head(vit.features, len(classes)))
        with torch.no_grad():
            for tensor in trainable(model).values():
                tensor.copy_(0.02 * torch.randn_like(tensor))
        if folder is None:
            bank.add(str(i), model)
        else:
            info = AdapterInfo(parsed[i % len(parsed)], "random", vit.image_size, classes, base)
            path = folder / f"{i}.safetensors"
            path.write_bytes(adapter_bytes(model.eval(), info))
            bank.add(str(i), path)
    return bank


def of_bank(name: str, bank: Bank) -> Contender:
    each = statistics.mean(bank.info(own).bytes for own in bank.names) / 1024
    return Contender(name, len(bank), each, bank.logits)


def merged_model(vit: ViT) -> Classifier:
    model = Classifier(merge(adapt(vit, parse_method("kadaptation"))), Head(vit.features, CLASSES))
    return model.requires_grad_(False).eval()


def separate(models: Sequence[Classifier], images: Tensor) -> list[Tensor]:
    return [model(image.unsqueeze(0)) for model, image in zip(models, images, strict=True)]


def contenders(vit: ViT, arguments: argparse.Namespace, folder: Path) -> list[Contender]:
    whole = sum(p.numel() * p.element_size() for p in vit.parameters()) / 1024
    found = [of_bank(name, filled(vit, [name], count)) for name in arguments.methods for count in arguments.adapters]
    most, first = max(arguments.adapters), arguments.methods[0]
    found.append(of_bank("+".join(MIXED), filled(vit, MIXED, most)))
    found.append(of_bank(f"{first}, on disk", filled(vit, [first], most, folder, arguments.batch)))
    models = [merged_model(vit)] * arguments.batch
    found.append(Contender("separate", arguments.batch, whole, lambda images, names: separate(models, images)))
    return found


def drawn(generator: random.Random, count: int, batch: int) -> list[str]:
    """Names of a batch: as different as the bank allows, in any order."""
    names = [str(i % count) for i in range(batch)] if count < batch else map(str, generator.sample(range(count), batch))
    shuffled = list(names)
    generator.shuffle(shuffled)
    return shuffled


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, arguments: argparse.Namespace) -> list[Line]:
    vit = load_backbone(name)
    assert isinstance(vit, ViT)
    images = torch.randint(0, 256, (arguments.batch, 3, vit.image_size, vit.image_size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        times = timed(contenders(vit, arguments, Path(folder)), merged_model(vit), images, arguments.rounds)
    return [line(name, rival, pairs) for rival, pairs in times.items()]


@torch.inference_mode()
def timed(
    rivals: Sequence[Contender], merged: Classifier, images: Tensor, rounds: int
) -> dict[Contender, list[tuple[float, float]]]:
    """Seconds of the merged model and of the contender right behind it, round by round."""
    generator, times = random.Random(0), {rival: list[tuple[float, float]]() for rival in rivals}
    for turn in range(rounds + 1):
        for rival in rivals:
            names = drawn(generator, rival.adapters, len(images))
            base = seconds(lambda: merged(images))
            own = seconds(lambda: rival.answer(images, names))  # noqa: B023 - called at once
            if turn:  # the first is for warming up
                times[rival].append((base, own))
    return times


def line(backbone: str, rival: Contender, pairs: Sequence[tuple[float, float]]) -> Line:
    ratio = statistics.median(base / own for base, own in pairs)
    took = 1000 * statistics.median(own for _, own in pairs)
    return Line(backbone, rival.name, rival.adapters, ratio, took, rival.kilobytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=["random:tiny", "random:vit-b32"])
    parser.add_argument("--methods", nargs="+", default=["kadaptation"])
    parser.add_argument("--adapters", nargs="+", type=int, default=[1, 10, 100, 1000])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'backbone':16s} {'adapters of':30s} {'':5s} {'ratio':>6s} {'a batch of ' + str(arguments.batch):>12s}")
    found = []
    for name in arguments.backbone:
        for one in measure(name, arguments):
            print(one, flush=True)
            found.append(one)
    print(f"peak memory of this process: {peak_memory_mb():.0f} MB, all banks above held at once")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=1))


if __name__ == "__main__":
    main()
