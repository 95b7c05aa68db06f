"""Export for transformers.js: a folder that its `pipeline("image-classification", ...)` opens in node and in browsers.

transformers.js resizes with sharp in node and with a canvas in browsers, and neither gives the pixels of Pillow.
So `preprocessor_config.json` asks it for nothing, and all of it is part of `onnx/model.onnx`. It knows a model by its
`model_type` alone, and runs any file with the input `pixel_values` and the output `logits`: "vit" stands for all.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import Tensor

from ...utils.errors import ConfigError, NotApplicable, WeightsError
from ...utils.optional import package
from .certificate import TARGETS, Options, Program, Target, write_json
from .comparison import Comparison
from .deployed import TrainedModel
from .graphs import onnx_model, write_examples
from .preprocessing import with_pixel_values

PACKAGE = "@huggingface/transformers"
_STEPS = ("do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")
_VERSION = f"""const {{ env }} = await import("{PACKAGE}"); console.log(env.version);"""
_ANSWERS = f"""
import {{ createInterface }} from "node:readline";
const {{ AutoImageProcessor, AutoModelForImageClassification, RawImage, env }} = await import("{PACKAGE}");
const folder = process.argv.at(-1);
env.localModelPath = "";
env.allowRemoteModels = false;
const processor = await AutoImageProcessor.from_pretrained(folder);
const model = await AutoModelForImageClassification.from_pretrained(folder);
for await (const line of createInterface({{ input: process.stdin }})) {{
  const asked = JSON.parse(line);
  try {{
    const image = asked.file ? await RawImage.read(asked.file)
      : new RawImage(new Uint8Array(Buffer.from(asked.pixels, "base64")), asked.width, asked.height, 3);
    const {{ pixel_values }} = await processor(image);
    const {{ logits }} = await model({{ pixel_values }});
    console.log(JSON.stringify([...logits.data]));
  }} catch (error) {{
    console.log(JSON.stringify({{ error: String(error) }}));
  }}
}}"""


def _write(trained: TrainedModel, folder: Path, options: Options) -> Comparison | None:
    if trained.info.thresholds:
        raise NotApplicable("transformers.js gives one class to a picture; export a model of several labels --to onnx")
    _version(options.runtime)
    model, comparison = onnx_model(trained, folder, replace(options, preprocessing="inside"))
    kind, end = ("q8", "_quantized") if options.quantize else (options.precision, "")
    end = "_fp16" if kind == "fp16" else end  # where transformers.js looks for each kind
    (folder / "onnx").mkdir()
    package("onnx", "onnx").save(with_pixel_values(model), str(folder / "onnx" / f"model{end}.onnx"))
    names = dict(enumerate(trained.info.classes))
    about = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "id2label": names}
    about |= {"label2id": {name: i for i, name in names.items()}, "transformers.js_config": {"dtype": kind}}
    write_json(folder / "config.json", about)
    steps = {"image_processor_type": "ViTImageProcessor", **dict.fromkeys(_STEPS, False)}
    write_json(folder / "preprocessor_config.json", steps)
    write_examples(folder, "transformers", ("mjs",))
    return comparison


def _node(place: Path | None, code: str, *words: str, **pipes: Any) -> subprocess.Popen[str]:
    """A node that runs `code` in the folder `place`, where packages are looked for. Raises WeightsError without one."""
    node = shutil.which("node")
    if node is None:
        raise WeightsError("transformers.js is certified in node; install it (nodejs.org)")
    line = [node, "--input-type=module", "-e", code, "--", *words]
    return subprocess.Popen(line, cwd=place or Path.cwd(), text=True, encoding="utf-8", **pipes)


def _version(place: Path | None) -> str:
    """Of transformers.js. Raises ConfigError where there is none."""
    hint = f"'npm install {PACKAGE}' in a folder gets it; name that folder with --runtime"
    if place is not None and not place.is_dir():
        raise ConfigError(f"{place} is no folder; {hint}")
    started = _node(place, _VERSION, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    version = started.communicate()[0].strip()
    if started.returncode or not version:
        raise ConfigError(f"{place or Path.cwd()} has no {PACKAGE} that node can open; {hint}")
    return version


def _reopen(folder: Path, trained: TrainedModel, options: Options) -> Program:
    version, said = _version(options.runtime), TemporaryFile("w+")  # noqa: SIM115 - closed with the program
    words = str(folder.resolve())
    live = _node(options.runtime, _ANSWERS, words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)

    def ask(question: dict[str, Any]) -> Tensor:
        assert live.stdin is not None and live.stdout is not None
        try:
            live.stdin.write(json.dumps(question) + "\n")
            live.stdin.flush()
        except BrokenPipeError:  # what it said tells why
            pass
        if not (line := live.stdout.readline()):
            said.seek(0)
            reason = next((text for text in said.read().splitlines() if "Error" in text), "it ended")
            raise WeightsError(f"transformers.js cannot open the exported folder ({reason}); nothing was written")
        if isinstance(found := json.loads(line), dict):
            raise ValueError(found["error"])
        return torch.tensor(found)

    def run(images: Tensor) -> Tensor:
        pictures = [image.permute(1, 2, 0).contiguous().numpy() for image in images]  # (H, W, 3)
        sizes = [{"height": one.shape[0], "width": one.shape[1]} for one in pictures]
        given = [base64.b64encode(one.tobytes()).decode() for one in pictures]
        return torch.stack([ask({"pixels": one, **size}) for one, size in zip(given, sizes, strict=True)])

    def close() -> None:
        live.kill()
        live.communicate()
        said.close()

    return Program(run, lambda file: ask({"file": str(file.resolve())}), close, (f"transformers.js {version}",))


_TAKES = frozenset(("quantize", "precision", "runtime"))
TARGETS.register("transformers-js")(Target("transformers.js", (), _write, _reopen, _TAKES, inside=True))
