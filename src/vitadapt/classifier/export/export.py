"""Write an adapted model for another program, run it there, and certify the agreement."""

from __future__ import annotations

import errno
from pathlib import Path

from safetensors import SafetensorError

from ...utils.atomic import atomic_folder, make_folder
from ...utils.errors import ConfigError, NotApplicable, StorageError
from ...utils.files import read_text, sha256_of, storage_error
from . import (  # noqa: F401 - each registers its target
    browser,
    executorch,
    graphs,
    hugging_face,
    open_clip,
    openvino,
    peft_lora,
    timm,
    transformers_js,
)
from .certificate import TARGETS, Certificate, Options, certify, read_certificate, source_of, write_json
from .deployed import TrainedModel

SUMS = "SHA256SUMS"


def export(
    trained: TrainedModel,
    to: str,
    folder: Path | str,
    options: Options = Options(),  # noqa: B008 - frozen
) -> Certificate:
    """Write the model for `to` into the new `folder`, all or nothing, and certify it.

    A folder that already holds this very export, whole, is left as it is: the command that was killed after its last
    step can be repeated.
    Raises UnknownName, ConfigError when `folder` is in use, NotApplicable and NotMergeable when the target cannot hold
    the model or the options, WeightsError when its library is missing or computes something else, or a smaller file
    loses too much or is slower, and StorageError.
    """
    target, folder = TARGETS[to], Path(folder)
    if trained.geometry.channels != 3:
        raise NotApplicable(f"exports are for RGB pictures, and this model sees {trained.geometry.channels} channels")
    target.check(to, options)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if finished := _finished(folder, to, trained, options):
            return finished
        raise ConfigError(f"{folder} is in use already; choose another folder with -o, or empty it")
    try:
        make_folder(folder.parent)
        with atomic_folder(folder) as new:
            comparison = target.write(trained, new, options)
            write_json(new / "labels.json", list(trained.info.classes))
            if trained.info.thresholds:  # of the sigmoids of the logits
                write_json(
                    new / "thresholds.json", dict(zip(trained.info.classes, trained.info.thresholds, strict=True))
                )
            certificate = certify(to, target, trained, new, options, comparison)
            (new / SUMS).write_text(_sums(new), "utf-8")
    except (OSError, SafetensorError) as error:
        raise _refusal(folder, error) from error
    return certificate


def _finished(folder: Path, to: str, trained: TrainedModel, options: Options) -> Certificate | None:
    """The certificate of `folder` when it holds an export of `trained` to `to` so, in which no byte has changed."""
    certificate = read_certificate(folder)
    wanted = (to, source_of(trained), options.chosen)
    if certificate is None or (certificate.target, certificate.source, certificate.options) != wanted:
        return None
    return certificate if (folder / SUMS).is_file() and read_text(folder / SUMS) == _sums(folder) else None


def _sums(folder: Path) -> str:
    """SHA256SUMS of all other files in `folder`, as `sha256sum --check SHA256SUMS` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return "".join(f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)


def _refusal(folder: Path, error: OSError | SafetensorError) -> StorageError:
    """safetensors reports a full disk in words of its own."""
    if isinstance(error, OSError):
        return storage_error(folder, error)
    full = "No space left" in str(error) or "StorageFull" in str(error)
    return storage_error(folder, OSError(errno.ENOSPC if full else errno.EIO, str(error)))
