"""Picture files of all shapes and kinds, and how far a program's own reading and preparing of them is from ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.image_file import open_image
from ...data.images import Geometry, to_pixels
from ...training.loop import probabilities_of
from ...utils.errors import WeightsError
from .deployed import TrainedModel

Answer = Callable[[Path], Tensor]
"""A picture file -> logits (C,), read and prepared by the program itself."""
PHOTOGRAPHS, MARGIN = "photographs", "margin of 3 pixels"
TOLERANCE = 0.25
"""Largest difference of a probability of a photograph that is let through: more is no rounding."""
_SHOWN = 0.01
_REAL = 16  # photographs of the user's own at most


@dataclass(frozen=True)
class Difference:
    """Of some pictures: the largest difference of a probability, and how many get another class first.

    failed: pictures that the program could not read.
    """

    pictures: int
    probability: float
    classes: int
    failed: int = 0


def differences(
    trained: TrainedModel, answer: Answer, own: Sequence[Path] = (), strict: bool = True
) -> dict[str, Difference]:
    """What `answer` and our own model say of the same files, for each kind of picture; `own` are photographs, too.

    Raises WeightsError when `strict` and a photograph gets probabilities that another preparation alone explains.
    """
    with TemporaryDirectory(prefix="vitadapt-") as folder:
        kinds = write_pictures(Path(folder), trained.geometry)
        for file in (own[i * len(own) // _REAL] for i in range(min(len(own), _REAL))):
            kinds[_kind(Image.open(file).size, trained.geometry)].append(file)
        found = {kind: _difference(trained, answer, files) for kind, files in kinds.items() if files}
    photographs = found[PHOTOGRAPHS]
    if photographs.failed or (strict and not photographs.probability <= TOLERANCE):
        raise WeightsError(
            f"the program prepares photographs in another way: probabilities differ by {photographs.probability:.2f}, "
            f"and {photographs.failed} files cannot be read; nothing was written; please report it with the backbone"
        )
    return found


def difference_lines(found: dict[str, Difference]) -> list[str]:
    """For people: the photographs, and what else the program reads otherwise."""
    photographs, others = found[PHOTOGRAPHS], []
    for kind, one in found.items():
        if kind != PHOTOGRAPHS and (one.failed or one.classes or one.probability > _SHOWN):
            others.append(f"{kind} ({'cannot be read' if one.failed else f'by {one.probability:.2f}'})")
    rest = f"; it reads otherwise: {', '.join(others)}; save such files as upright RGB" if others else ""
    return [
        f"pictures        {photographs.pictures} photographs of all shapes, prepared by the program itself: "
        f"probabilities differ by {photographs.probability:.3f} at most, {photographs.classes} get another class{rest}"
    ]


@torch.no_grad()
def _difference(trained: TrainedModel, answer: Answer, files: Sequence[Path]) -> Difference:
    device = next(trained.classifier.parameters()).device
    pixels = np.stack([to_pixels(open_image(file.read_bytes(), file.name), trained.geometry) for file in files])
    ours = trained.classifier(torch.from_numpy(pixels).to(device)).float().cpu()
    theirs = [_read(answer, file) for file in files]
    rows = [row for row, one in enumerate(theirs) if one is not None]
    if not rows:
        return Difference(len(files), 0.0, 0, len(files))
    several = bool(trained.info.thresholds)
    wanted = probabilities_of(ours[rows], several)
    found = probabilities_of(torch.stack([one for one in theirs if one is not None]).float(), several)
    other = int((wanted.argmax(dim=1) != found.argmax(dim=1)).sum())
    return Difference(len(files), float((wanted - found).abs().max()), other, len(files) - len(rows))


def _read(answer: Answer, file: Path) -> Tensor | None:
    try:
        return answer(file)
    except (OSError, ValueError, TypeError, RuntimeError):  # what image libraries raise for a mode they do not take
        return None


def write_pictures(folder: Path, geometry: Geometry) -> dict[str, list[Path]]:
    """Files of every kind into `folder`; the photographs are upright and lying, larger and smaller than the model's."""
    short = geometry.side
    shapes = [(short, short), (short + 6, short), (short + 1, short), (short, short + 5), (short * 7, short)]
    shapes += [(2 * short + 5, 3 * short // 2), (5 * short // 4, 3 * short + 1), (short // 2, short // 3)]
    shapes += [(short + margin, short) for margin in range(2, 5)] + [(short, short + 7)]
    rng, found = np.random.default_rng(0), {PHOTOGRAPHS: list[Path](), MARGIN: list[Path]()}
    for number, shape in enumerate(shapes):
        path = folder / f"photograph-{number}.png"
        _scene(rng, *shape).save(path)
        found[_kind(shape, geometry)].append(path)
    usual = _scene(rng, 3 * short // 2, 2 * short)
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = Image.linear_gradient("L").resize(usual.size)
    clear = usual.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    deep = Image.fromarray(np.asarray(usual.convert("L")).astype(np.uint16) * 257)
    for kind, image, suffix, options in (
        ("turned by EXIF", usual, "jpg", {"exif": turned}),
        ("grey", usual.convert("L"), "png", {}),
        ("CMYK", usual.convert("CMYK"), "jpg", {}),
        ("transparent", Image.merge("RGBA", (*usual.split(), alpha)), "png", {}),
        ("transparent palette", clear, "png", {"transparency": 0}),
        ("16-bit grey", deep, "png", {}),
    ):
        path = folder / f"{kind.replace(' ', '-')}.{suffix}"
        image.save(path, **options)
        found[kind] = [path]
    return found


def _kind(shape: tuple[int, int], geometry: Geometry) -> str:
    """Which photograph a picture of (width, height) is.

    Libraries round half a pixel in two ways, which makes a difference where the margin around the crop leaves 3 by 4.
    """
    short = geometry.side
    margins = [int(short * side / min(shape)) - geometry.size for side in shape]
    return MARGIN if not geometry.squash and any(margin % 4 == 3 for margin in margins) else PHOTOGRAPHS


def _scene(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A picture with large soft shapes and some fine grain, as photographs have."""
    few = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    soft = few.resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))
