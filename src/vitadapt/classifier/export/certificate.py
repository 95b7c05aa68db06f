"""Where models can be exported to, and the certificate: how far an exported model, run by its library, is from ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.images import to_pixels
from ...nn.vit import Preprocess
from ...training.adapter_checks import enlarged, pictures_of_the_test
from ...training.adapter_file import adapter_bytes
from ...utils.errors import NotApplicable, WeightsError
from ...utils.files import bytes_digest, parse_json, read_text
from ...utils.registry import Registry
from .comparison import Comparison, Run, milliseconds
from .deployed import DeployedModel, TrainedModel
from .pictures import Answer, Difference, difference_lines, differences
from .samples import Samples
from .text import text_difference


@dataclass(frozen=True)
class Options:
    """What a target leaves to choose.

    quantize: linear layers in int8, with ranges measured before (int8) or from every image (dynamic). precision: of the
    stored weights. preprocessing: is resizing part of the file? max_loss: points of accuracy that a smaller file may
    lose. runtime: a folder or archive of the package onnxruntime-web, for the browser. samples: to measure with.
    """

    quantize: Literal["", "int8", "dynamic"] = ""
    precision: Literal["fp32", "fp16"] = "fp32"
    preprocessing: Literal["outside", "inside"] = "outside"
    max_loss: float = 1.0
    runtime: Path | None = None
    samples: Samples | None = field(default=None, repr=False, compare=False)

    @property
    def chosen(self) -> dict[str, str]:
        """What differs from the plain export, and changes the files."""
        usual = Options()
        names = ("quantize", "precision", "preprocessing")
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(usual, name)}

    @property
    def text(self) -> str:
        """The precision in a word, for messages."""
        return f"{self.quantize} int8" if self.quantize == "dynamic" else self.quantize or self.precision


@dataclass(frozen=True)
class Program:
    """An exported model, opened by the program it is for.

    answer: from a picture file on, if it prepares pictures. library: what else is named in the certificate. text: of
    token numbers (N, L), where a text tower was exported.
    """

    run: Run
    answer: Answer | None = None
    close: Callable[[], None] = lambda: None
    library: tuple[str, ...] = ()
    text: Run | None = None


@dataclass(frozen=True)
class Target:
    """A format of another program: how it is written, and how that program itself opens and runs what was written.

    packages: the distributions that run it, named in the certificate. options: names of those that it takes.
    inside: is the preprocessing always a part?
    """

    title: str
    packages: tuple[str, ...]
    write: Callable[[TrainedModel, Path, Options], Comparison | None]
    reopen: Callable[[Path, TrainedModel, Options], Program]
    options: frozenset[str] = frozenset()
    inside: bool = False

    def check(self, name: str, options: Options) -> None:
        """Raises NotApplicable for an option that this target does not take."""
        asked = options.chosen | ({"runtime": ""} if options.runtime else {})
        if strange := [key for key in asked if key not in self.options]:
            able = [other for other, target in TARGETS.items() if strange[0] in target.options]
            raise NotApplicable(f"export --to {name} has no --{strange[0]}; --to {' or '.join(able)} has")


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
    all files. milliseconds and speed_ratio: the least time of a batch of random images, ours merged, theirs, and
    ours / theirs. options: of the export. comparison: of a file of lower precision, with the fp32 one. pictures: by
    their kind, how far the program's own reading and preparing of picture files is from ours. text: largest difference
    of the features of the class sentences, in the largest of them; None where no text tower was exported.
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
    options: dict[str, str] = field(default_factory=dict)
    comparison: Comparison | None = None
    pictures: dict[str, Difference] = field(default_factory=dict)
    text: float | None = None

    def lines(self) -> list[str]:
        """For people."""
        ours, theirs = self.milliseconds
        return [
            f"run by          {self.library}",
            f"difference      {self.self_test:.1e} on the self-test, {self.random:.1e} on random images "
            f"(largest logit {self.largest_logit:.3g})",
            *(() if self.text is None else (f"text tower      differs by {self.text:.1e} of its largest feature",)),
            f"size            {self.bytes / 1e6:.2f} MB in {len(self.files)} files: {', '.join(self.files)}",
            f"speed           {theirs:.1f} ms for {_RANDOM_IMAGES} images, vitadapt's own {ours:.1f} ms "
            f"(x {self.speed_ratio:.2f})",
            *(difference_lines(self.pictures) if self.pictures else ()),
            *(self.comparison.lines() if self.comparison else ()),
        ]


@torch.no_grad()
def certify(
    to: str,
    target: Target,
    trained: TrainedModel,
    folder: Path,
    options: Options = Options(),
    comparison: Comparison | None = None,
) -> Certificate:
    """Compare what the program makes of the files in `folder` with our own classifier; write certificate.json there.

    Raises WeightsError when they differ by more than the tolerance; a file of lower precision was compared already.
    """
    program, own = target.reopen(folder, trained, options), options.samples.files if options.samples else ()
    try:
        inside = target.inside or options.preprocessing == "inside"
        apart, largest = _logit_differences(trained, program.run, inside)
        if comparison is None and not max(apart.values()) <= TOLERANCE * max(1.0, largest):
            raise WeightsError(
                f"export to {to}: the exported model's answers differ by {max(apart.values()):.2g} (largest logit "
                f"{largest:.2g}); nothing was written; please report it with the backbone and the method"
            )
        text = text_difference(trained, program.text) if program.text else None
        if text is not None and not text <= TOLERANCE:
            raise WeightsError(
                f"export to {to}: the exported text tower's features differ by {text:.2g} of the largest; nothing was "
                "written; please report it with the backbone and the method"
            )
        pictures = differences(trained, program.answer, own, comparison is None) if program.answer else {}
        random = _random_images(trained.image_size)
        times = milliseconds((DeployedModel(trained).eval(), program.run), random, _REPEATS)
    finally:
        program.close()
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    bytes_ = sum((folder / name).stat().st_size for name in files)
    library = ", ".join([f"{package} {metadata.version(package)}" for package in target.packages] + [*program.library])
    certificate = Certificate(
        to, source_of(trained), library, **apart, largest_logit=largest, bytes=bytes_, milliseconds=times,
        speed_ratio=times[0] / times[1], files=tuple(files), options=options.chosen, comparison=comparison,
        pictures=pictures, text=text,
    )  # fmt: skip
    (folder / FILE).write_text(json.dumps(asdict(certificate), indent=1) + "\n", "utf-8")
    return certificate


def _logit_differences(trained: TrainedModel, run: Run, inside: bool) -> tuple[dict[str, float], float]:
    """The largest difference on the pictures of the self-test and on random images, and our largest logit.

    inside: does `run` resize what it is given?
    """
    size, device = trained.image_size, next(trained.classifier.parameters()).device
    groups = {"self_test": enlarged(pictures_of_the_test(), size), "random": _random_images(size)}
    seen = {name: prepared(images, trained) for name, images in groups.items()} if inside else groups
    wanted = {name: trained.classifier(images.to(device)).float().cpu() for name, images in seen.items()}
    apart = {name: float((run(images) - wanted[name]).abs().max()) for name, images in groups.items()}
    return apart, max(float(logits.abs().max()) for logits in wanted.values())


def _random_images(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (_RANDOM_IMAGES, 3, size, size), dtype=torch.uint8, generator=generator)


def prepared(images: Tensor, trained: TrainedModel) -> Tensor:
    """Images (B, 3, H, W) as pictures, resized and cropped as `predict` does it: (B, 3, S, S)."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return torch.from_numpy(np.stack([to_pixels(picture, trained.geometry) for picture in pictures]))


def source_of(trained: TrainedModel) -> str:
    """What tells a trained model from all others: the digest of its adapter file, which names its base."""
    return bytes_digest(adapter_bytes(trained.classifier, trained.info))


def read_certificate(folder: Path) -> Certificate | None:
    """The certificate in a folder; None when there is none that can be read."""
    try:
        known: dict[str, Any] = parse_json(read_text(folder / FILE))
        known = {name: _frozen(value) for name, value in known.items()}
        if known["comparison"] is not None:
            known["comparison"] = Comparison(**known["comparison"])
        known["pictures"] = {kind: Difference(**one) for kind, one in known["pictures"].items()}
        return Certificate(**known)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples, as the certificate has them."""
    if isinstance(value, dict):
        return {name: _frozen(one) for name, one in value.items()}
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value
