"""Adapters of every method under a right checksum, statistics of a model, a served folder, and bodies of requests."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import elevater_cases
import families
import numpy as np
import server_cases
import torch
from law import TARGETS, Target, check_message, target
from safetensors.torch import load, save
from starlette.requests import Request
from torch import Tensor

from vitadapt.classifier.statistics_file import (
    STATISTICS,
    ModelStatistics,
    directions_of,
    read_statistics,
    statistics_bytes,
)
from vitadapt.data.image_file import open_image
from vitadapt.data.images import Geometry, to_pixels
from vitadapt.methods import METHODS, Method
from vitadapt.methods.class_statistics import ClassStatistics
from vitadapt.nn.backbone import backbone_digest
from vitadapt.nn.class_texts import ClassTexts
from vitadapt.nn.head import TextStart, backbone_of
from vitadapt.nn.setting import Setting
from vitadapt.nn.surgery import towers_of, trainable
from vitadapt.serving.server.limits import Limits
from vitadapt.serving.server.model_repository import ModelRepository
from vitadapt.serving.server.refusal import Refusal
from vitadapt.serving.server.requests import parse_request
from vitadapt.text import TextTower
from vitadapt.training.adapter_file import (
    ADAPTER,
    AdapterInfo,
    adapted_text_tower,
    adapter_bytes,
    checksum_of,
    load_adapter,
)
from vitadapt.training.config import TrainConfig
from vitadapt.training.loop import TensorInputs
from vitadapt.training.task import Task
from vitadapt.utils.files import bytes_digest

ADAPTERS, REQUESTS = "adapters and models", "requests to the server"
CLASSES = ("a", "b", "c")


def unsealed(data: bytes) -> dict[str, bytes]:
    """A sealed safetensors file as two files that may be damaged without breaking its checksum."""
    about = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["vitadapt"])
    return {"about.json": json.dumps(about).encode(), "tensors": save(load(data))}


def seal(folder: Path, name: str) -> None:
    """Make the file `name` of `unsealed` files, with a right checksum wherever one can be computed."""
    data, text = (folder / "tensors").read_bytes(), (folder / "about.json").read_bytes().decode("utf-8", "replace")
    with suppress(Exception):
        tensors = load(data)
        with suppress(ValueError, RecursionError, AttributeError):
            about = json.loads(text)
            about.pop("checksum", None)
            text = json.dumps({**about, "checksum": checksum_of(about, tensors)})
        data = save(tensors, {"vitadapt": text})
    (folder / name).write_bytes(data)


# Adapters


class Letters:
    """A tokeniser: a start, the letters of a text, the end."""

    def __call__(self, texts: Any) -> Tensor:
        rows = torch.zeros(len(texts), 9, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text) + 2] = torch.tensor([38, *(ord(letter) - 96 for letter in text), 39])
        return rows

    def lengths(self, texts: Any) -> list[int]:
        return [len(text) + 2 for text in texts]


@cache
def _backbone() -> tuple[Any, str]:
    backbone: Any = families.common("clip-like")
    return backbone, backbone_digest(backbone)


@cache
def _tower() -> TextTower:
    network: Any = families.common("clip-text-like")
    return TextTower(network, Letters(), 100.0)


@cache
def adapter_of(method: Method) -> bytes:
    """An adapter of three classes whose every trainable tensor has moved."""
    protocol = "elevater-released" if "released" in type(method).__module__ else "fixed"
    config = TrainConfig.of("clip-like", method, protocol)
    plain, base = _backbone()
    backbone: Any = backbone_of(plain, config.head)
    tower, labels = _tower(), torch.arange(6) % 3
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        features, tokens = backbone(images), tower.tokenise(["abc", "abd", "abe"])
        texts = ClassTexts(tower.network, tokens, [1, 1, 1])
        start = TextStart(texts(), 100.0, texts)
    task = Task(config, backbone, TensorInputs(images), labels, 3, features, Setting(), text=start)
    model = task.build(0)
    with torch.no_grad():
        for parameter in (*trainable(model).values(), model.head.linear.weight):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return adapter_bytes(model, AdapterInfo(method, "clip-like", 32, CLASSES, base, config.head))


def _adapter_target(name: str, method: Method) -> None:
    def prepare(folder: Path) -> list[Path]:
        for file, data in unsealed(adapter_of(method)).items():
            (folder / file).write_bytes(data)
        return [folder / "about.json", folder / "tensors"]

    def read(folder: Path) -> None:
        seal(folder, ADAPTER)
        model = load_adapter(folder / ADAPTER, *_backbone())
        assert torch.isfinite(model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))).all()
        if towers_of(method) != "image":
            adapted_text_tower(folder / ADAPTER, _backbone()[0], _tower()).encode(["abc"])

    TARGETS[f"adapter {name}"] = Target(f"adapter {name}", ADAPTERS, prepare, read)


def methods() -> dict[str, Method]:
    """Every method at its defaults, small where a default is too large for this backbone."""
    from vitadapt.methods import LoRA

    small = {"kadaptation": {"n": 4}, "compacter": {"n": 4}}
    made = {name: kind(**small.get(name, {})) for name, kind in METHODS.items()}
    return {**made, "lora both towers": LoRA(rank=2, towers="both")}


for _name, _method in methods().items():
    _adapter_target(_name, _method)


def _statistics(folder: Path) -> None:
    seal(folder, STATISTICS)
    read_statistics(folder, 3)


@target("statistics of a model", ADAPTERS, _statistics)
def _known(folder: Path) -> list[Path]:
    x, labels = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), np.arange(6) % 3
    centre = torch.zeros(4)
    features = ClassStatistics.of(x, labels, 3)
    directions = ClassStatistics.of(directions_of(x, centre), labels, 3)
    scores = np.linspace(0, 1, 6)
    known = ModelStatistics(features, directions, centre, labels, scores, scores, 0.1, 1.0, 1.0, 6)
    adapter = adapter_of(methods()["discriminant"])
    (folder / ADAPTER).write_bytes(adapter)
    for file, data in unsealed(statistics_bytes(known, bytes_digest(adapter))).items():
        (folder / file).write_bytes(data)
    return [folder / "about.json", folder / "tensors"]


# The server


def _served(folder: Path) -> None:
    repository = ModelRepository(folder / "models", Setting())
    repository.refresh(first=True)
    for name, problem in repository.problems.items():
        check_message(problem, None)
        assert str(folder) not in problem and name == "pets", repository.problems
    assert set(repository.models) == {"cars", *({"pets"} - repository.problems.keys())}


@target("served folder", ADAPTERS, _served)
def _folder(folder: Path) -> list[Path]:
    (folder / "models").mkdir()
    for seed, (name, classes) in enumerate({"pets": server_cases.PETS, "cars": server_cases.CARS}.items()):
        (folder / "models" / f"{name}.safetensors").write_bytes(server_cases.adapter(seed, classes))
    return [folder / "models" / "pets.safetensors"]


def _request(folder: Path) -> None:
    """The body and its type as they come over the network, up to the squares that a network gets."""
    kind, body = ((folder / name).read_bytes() for name in ("type", "body"))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", kind)], "query_string": b""}
    try:
        found = asyncio.run(parse_request(Request(scope, receive), Limits(max_images=4)))
    except Refusal as error:
        check_message(error.message, None)
        assert error.status in (413, 415, 422)
        return
    for image in found.images:
        assert len(image.name) <= 100 and image.name.isprintable()
        to_pixels(open_image(image.data, image.name, 1 << 20), Geometry(8), image.name)


def _request_target(name: str, kind: str, body: bytes) -> None:
    @target(f"request {name}", REQUESTS, _request, names=False)
    def _body(folder: Path) -> list[Path]:
        (folder / "type").write_text(kind)
        (folder / "body").write_bytes(body)
        return [folder / "type", folder / "body"]


_PICTURE = elevater_cases.png(0)
_ENCODED = {"images": [base64.b64encode(_PICTURE).decode()], "top": 2, "refuse": 0.1}
_FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + _PICTURE
_FORM += b'\r\n--x\r\nContent-Disposition: form-data; name="top"\r\n\r\n2\r\n--x--\r\n'
_request_target("image", "image/png", _PICTURE)
_request_target("json", "application/json", json.dumps(_ENCODED).encode())
_request_target("form", "multipart/form-data; boundary=x", _FORM)
