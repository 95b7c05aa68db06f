"""Export for a browser: a page that classifies pictures where they are, opened from the disk, without any server.

`index.html` is the page, `model.js` the ONNX file, preprocessing inside, and `runtime.js` onnxruntime-web, which
is Microsoft's and no part of this package: it is copied from a folder or an archive, or fetched from npm. A page from
the disk may not read files beside it, but it may run scripts; so both are scripts that hold the files in base64.
"""

from __future__ import annotations

import base64
import json
import shutil
import tarfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ...data.download.files import download
from ...utils.errors import ConfigError, WeightsError
from ...utils.optional import package
from .certificate import TARGETS, Options, Program, Target
from .comparison import Comparison
from .deployed import TrainedModel
from .graphs import onnx_model

VERSION = "1.30.0"
_ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_SCRIPT, _LOADER, _BINARY = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
_MOST = 64 << 20  # bytes of one file of the runtime
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def _write(trained: TrainedModel, folder: Path, options: Options) -> Comparison | None:
    package("playwright.sync_api", "browser")
    script, loader, binary = _runtime(options.runtime)
    model, comparison = onnx_model(trained, folder, replace(options, preprocessing="inside"))
    known = {"labels": trained.info.classes, "onnx": _base64(model.SerializeToString())}
    (folder / "model.js").write_text(f"const MODEL = {json.dumps(known)};\n", "utf-8")
    parts = {"mjs": _base64(loader), "wasm": _base64(binary)}
    (folder / "runtime.js").write_bytes(script + f"\nconst RUNTIME = {json.dumps(parts)};\n".encode())
    (folder / "index.html").write_bytes((files(__package__) / "examples" / "index.html.txt").read_bytes())
    return comparison


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _runtime(place: Path | None) -> list[bytes]:
    """The script, its loader and its WebAssembly: from a folder or archive of onnxruntime-web, or from npm.

    Raises ConfigError when they are not there, and what `download` raises.
    """
    with TemporaryDirectory(prefix="vitadapt-") as folder:
        place = place or download(_ADDRESS, Path(folder, "onnxruntime-web.tgz"), _SHA256)
        try:
            if place.is_dir():
                return [(place / "dist" / name).read_bytes() for name in (_SCRIPT, _LOADER, _BINARY)]
            with tarfile.open(place) as archive:
                members = [archive.extractfile(f"package/dist/{name}") for name in (_SCRIPT, _LOADER, _BINARY)]
                return [member.read(_MOST) for member in members if member is not None]
        except (OSError, KeyError, tarfile.TarError) as error:
            raise ConfigError(
                f"{place} is no onnxruntime-web with dist/{_SCRIPT}; name what 'npm pack onnxruntime-web@{VERSION}' "
                "writes with --runtime, or leave it out to fetch it"
            ) from error


def chromium() -> str | None:
    """Where a Chromium or Chrome is on this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _reopen(folder: Path, trained: TrainedModel, _: Options) -> Program:
    """By a Chromium without a window, from the disk, as a user opens it."""
    playwright, found = package("playwright.sync_api", "browser"), chromium()
    if found is None:
        raise WeightsError(f"the page is certified in a browser; install one of {', '.join(BROWSERS)}")
    driver = playwright.sync_playwright().start()
    opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
    page = opened.new_page()
    page.goto((folder / "index.html").resolve().as_uri())

    def call(code: str, *values: Any) -> Tensor:
        return torch.tensor(page.evaluate(f"async (given) => (await {code}).logits", values))

    def run(images: Tensor) -> Tensor:
        pictures = [image.permute(1, 2, 0).contiguous().numpy() for image in images]  # (H, W, 3)
        given = "run(bytes(given[0]), given[1], given[2], 3)"
        return torch.stack([call(given, _base64(one.tobytes()), *one.shape[:2]) for one in pictures])

    def close() -> None:
        opened.close()
        driver.stop()

    def answer(file: Path) -> Tensor:
        return call("classify(new Blob([bytes(given[0])]))", _base64(file.read_bytes()))

    library = (f"onnxruntime-web {page.evaluate('ort.env.versions.web')}", f"Chromium {opened.version}")
    return Program(run, answer, close, library)


_TAKES = frozenset(("quantize", "precision", "runtime"))
TARGETS.register("browser")(Target("a page for browsers", (), _write, _reopen, _TAKES, inside=True))
