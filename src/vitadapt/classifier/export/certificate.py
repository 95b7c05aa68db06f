"""Where models can be exported to, and the certificate: how far an exported model, run by its library, is from ours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...nn.vit import Preprocess
from ...training.adapter_checks import enlarged, pictures_of_the_test
from ...training.adapter_file import adapter_bytes
from ...utils.errors import WeightsError
from ...utils.files import bytes_digest, parse_json, read_text
from ...utils.registry import Registry
from .deployed import DeployedModel, TrainedModel

Run = Callable[[Tensor], Tensor]
"""uint8 images (B, 3, S, S) -> logits (B, C)."""


@dataclass(frozen=True)
class Target:
    """A format of another program: how it is written, and how that program itself opens and runs what was written.

    packages: the distributions that run it, named in the certificate.
    """

    title: str
    packages: tuple[str, ...]
    write: Callable[[TrainedModel, Path], None]
    reopen: Callable[[Path, TrainedModel], Run]


TARGETS: Registry[Target] = Registry("export target")


def write_json(path: Path, content: Any) -> None:
    """One JSON value, readable by people too."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def normaliser(preprocess: Preprocess | Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """uint8 images (B, 3, S, S) -> what a library's own image processor gives a model of this mean and std."""
    known = preprocess if isinstance(preprocess, Mapping) else {"mean": preprocess.mean, "std": preprocess.std}
    mean, std = (torch.tensor(known[name], dtype=torch.float32).view(3, 1, 1) for name in ("mean", "std"))
    return lambda images: (images.float() / 255 - mean) / std


FILE = "certificate.json"
TOLERANCE = 1e-3
"""Largest difference that is let through: this part of the largest logit, and of 1 at least."""
_RANDOM_IMAGES = 4
_REPEATS = 3


@dataclass(frozen=True)
class Certificate:
    """What was found when the exported files were opened again and run by the library they are for.

    source: digest of the adapter that was exported. self_test, random: largest absolute difference of the logits on the
    two pictures of the adapter's self-test and on random images. largest_logit: what to compare them with. bytes: of
    all files. milliseconds and speed_ratio: the median time of a batch of random images, ours merged, theirs, and
    ours / theirs.
    """

    target: str
    source: str
    library: str
    self_test: float
    random: float
    largest_logit: float
    bytes: int
    milliseconds: tuple[float, float]
    speed_ratio: float
    files: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        ours, theirs = self.milliseconds
        return [
            f"run by          {self.library}",
            f"difference      {self.self_test:.1e} on the self-test, {self.random:.1e} on random images "
            f"(largest logit {self.largest_logit:.3g})",
            f"size            {self.bytes / 1e6:.2f} MB in {len(self.files)} files: {', '.join(self.files)}",
            f"speed           {theirs:.1f} ms for {_RANDOM_IMAGES} images, vitadapt's own {ours:.1f} ms "
            f"(x {self.speed_ratio:.2f})",
        ]


@torch.no_grad()
def certify(target: str, packages: tuple[str, ...], trained: TrainedModel, run: Run, folder: Path) -> Certificate:
    """Compare `run`, which uses the files in `folder`, with our own classifier, and write certificate.json there.

    Raises WeightsError when they differ by more than the tolerance.
    """
    ours = DeployedModel(trained).eval()
    size = trained.image_size
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(0, 256, (_RANDOM_IMAGES, 3, size, size), dtype=torch.uint8, generator=generator)
    groups = {"self_test": enlarged(pictures_of_the_test(), size), "random": random}
    device = next(trained.classifier.parameters()).device
    wanted = {name: trained.classifier(images.to(device)).float().cpu() for name, images in groups.items()}
    found = {name: run(images) for name, images in groups.items()}
    differences = {name: float((found[name] - wanted[name]).abs().max()) for name in groups}
    largest = max(float(logits.abs().max()) for logits in wanted.values())
    if not max(differences.values()) <= TOLERANCE * max(1.0, largest):
        raise WeightsError(
            f"export to {target}: the exported model's answers differ by {max(differences.values()):.2g} "
            f"(largest logit {largest:.2g}); nothing was written; please report it with the backbone and the method"
        )
    times = _milliseconds(ours, random), _milliseconds(run, random)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    bytes_ = sum((folder / name).stat().st_size for name in files)
    library = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    certificate = Certificate(
        target, source_of(trained), library, **differences, largest_logit=largest, bytes=bytes_, milliseconds=times,
        speed_ratio=times[0] / times[1], files=tuple(files),
    )  # fmt: skip
    (folder / FILE).write_text(json.dumps(asdict(certificate), indent=1) + "\n", "utf-8")
    return certificate


def source_of(trained: TrainedModel) -> str:
    """What tells a trained model from all others: the digest of its adapter file, which names its base."""
    return bytes_digest(adapter_bytes(trained.classifier, trained.info))


def read_certificate(folder: Path) -> Certificate | None:
    """The certificate in a folder; None when there is none that can be read."""
    try:
        known: dict[str, Any] = parse_json(read_text(folder / FILE))
        for name in ("milliseconds", "files"):
            known[name] = tuple(known[name])
        return Certificate(**known)
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _milliseconds(run: Run, images: Tensor) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds)
