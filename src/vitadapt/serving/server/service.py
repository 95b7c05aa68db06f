"""What the server does, apart from HTTP: predict, explain, add and remove models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ...classifier.answer import answer
from ...classifier.explain import Explanation, class_index, explain_pixels, heat_map_png, visible_part
from ...classifier.model import probabilities_of
from ...data.image_file import open_image
from ...data.images import UnreadableImage, to_pixels
from ...nn.attribution import overlay, side_by_side
from ...nn.setting import Setting
from ...utils.errors import WeightsError
from .batching import Batcher, Queue
from .limits import EXPLANATION, Limits
from .metrics import Metrics
from .model_groups import ModelGroup
from .model_repository import ModelRepository, ModelVersion
from .refusal import Refusal
from .requests import EncodedImage, ImageRequest

Result = TypeVar("Result")
Answer = tuple[Tensor, float | None]
"""The logits (C,) of one image and its novelty, where the model knows it."""
_SIDE = 448  # pixels of a side of a drawn heat map, at least


class Service:
    """The models of a folder behind threads: one for the network, one that changes the models, a few that decode."""

    def __init__(
        self,
        root: Path,
        setting: Setting,
        limits: Limits,
        resident: int | None = None,
        poll: float = 1.0,
        log: Callable[[str], None] = lambda _: None,
        backbone: str | None = None,
    ) -> None:
        self.limits, self.poll = limits, poll
        self.repository = ModelRepository(root, setting, resident, limits.max_models, log, backbone)
        self.queue = Queue(limits.queue)
        self.ready = False
        self._network = ThreadPoolExecutor(1, "network")
        self._loading = ThreadPoolExecutor(1, "models")
        self._decoding = ThreadPoolExecutor(limits.decoders, "decode")
        self._tasks: list[asyncio.Task[None]] = []
        self._batcher: Batcher[tuple[ModelVersion, Tensor], Answer]
        self.metrics = Metrics()
        self.metrics.add_gauge("models", "Models served.", lambda: len(self.repository.models))
        self.metrics.add_gauge("model_problems", "Files that cannot be served.", lambda: len(self.repository.problems))
        self.metrics.add_gauge(
            "model_changes", "Models added, replaced or removed since the start.", lambda: self.repository.changes
        )
        self.metrics.add_gauge("queued_images", "Images accepted and not answered yet.", lambda: self.queue.used)

    def load(self) -> None:
        """Load the models of the folder. Raises StorageError when it cannot be read, WeightsError when it is one model
        that cannot be used; of several, those that can be used are served.
        """
        self.repository.refresh(first=True)
        if self.repository.single and self.repository.problems:
            raise WeightsError("; ".join(self.repository.problems.values()))

    async def start(self) -> None:
        """Begin to watch the folder, after `load`, and to answer."""
        limits = self.limits
        self._batcher = Batcher(
            _answers, self._network, limits.batch, limits.wait_ms / 1000, self.metrics.batches.observe
        )
        self._tasks = [asyncio.create_task(work) for work in (self._batcher.run(), self._watch())]
        self.ready = True

    async def stop(self) -> None:
        """To be called when every request is answered."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for executor in (self._decoding, self._network, self._loading):
            executor.shutdown(wait=True, cancel_futures=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.poll)
            await self._in(self._loading, self.repository.refresh)
            self.metrics.forget_models(except_for=self.repository.models)

    async def _in(self, executor: ThreadPoolExecutor, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)

    # ---- answers

    async def predict(self, name: str, request: ImageRequest) -> dict[str, Any]:
        """All images answered by the version that `name` stands for now. Raises UnknownModel, Refusal, DataError."""
        with self.repository.lease(name) as version, self.queue.reserve(len(request.images)):
            found = await asyncio.gather(
                *(self._predict_one(version, image) for image in request.images), return_exceptions=True
            )
            answers, known = _require_all(found), version.group.novelty(version.key)
            probabilities = probabilities_of(torch.stack([logits for logits, _ in answers]), version.info)
            rows = [
                answer(image.name, version.info, scores, request.rules, known, novelty)
                for image, scores, (_, novelty) in zip(request.images, probabilities, answers, strict=True)
            ]
            self.metrics.count_images(name, len(rows))
            return {"model": name, "version": version_text(version), "answers": rows}

    async def _predict_one(self, version: ModelVersion, image: EncodedImage) -> Answer:
        square, _ = await self._in(self._decoding, _decode, version, image, self.limits.max_pixels, 0)
        return await self._batcher.submit((version, square))

    async def explain(
        self, name: str, image: EncodedImage, kind: str, class_name: str | None, drawing: str | None
    ) -> tuple[ModelVersion, Explanation, Tensor, bytes | None]:
        """The heat (h, w) of one image, and a PNG of it. drawing: "both", "overlay" or None.

        Raises UnknownName for a model, class or kind that does not exist, NotApplicable, Refusal, DataError.
        """
        with self.repository.lease(name) as version, self.queue.reserve(EXPLANATION):
            side = _SIDE if drawing else 0
            square, seen = await self._in(self._decoding, _decode, version, image, self.limits.max_pixels, side)
            explained, heat = await self._in(self._network, _explain, version, square, kind, class_name)
            png = None
            if seen is not None:
                draw = side_by_side if drawing == "both" else overlay
                png = await self._in(self._decoding, lambda: heat_map_png(draw(seen, heat), explained, kind))
            self.metrics.count_images(name, 1)
            return version, explained, heat, png

    # ---- models

    async def upload(self, name: str, data: bytes) -> tuple[ModelVersion, bool]:
        """As `ModelRepository.upload`."""
        return await self._in(self._loading, self.repository.upload, name, data)

    async def remove(self, name: str) -> None:
        """As `ModelRepository.remove`."""
        await self._in(self._loading, self.repository.remove, name)


def version_text(version: ModelVersion) -> str:
    """A short text that changes with the content of a model."""
    return version.digest[:12]


def _answers(items: Sequence[tuple[ModelVersion, Tensor]]) -> list[Answer]:
    """The answer to every pair of a version and a square, group by group."""
    groups: dict[ModelGroup, list[int]] = {}
    for place, (version, _) in enumerate(items):
        groups.setdefault(version.group, []).append(place)
    found: dict[int, Answer] = {}
    for group, places in groups.items():
        squares, keys = [items[place][1] for place in places], [items[place][0].key for place in places]
        found |= dict(zip(places, group.answers(squares, keys), strict=True))
    return [found[place] for place in range(len(items))]


def _require_all(found: Sequence[Answer | BaseException]) -> list[Answer]:
    """Raises the first error; of several unreadable images one that names them all."""
    unreadable = [one for one in found if isinstance(one, UnreadableImage)]
    if len(unreadable) > 1:
        names = "; ".join(f"{error.name} ({error.reason})" for error in unreadable)
        raise Refusal(422, "bad_image", f"{names}: cannot be read")
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]


def _decode(version: ModelVersion, image: EncodedImage, pixels: int, side: int) -> tuple[Tensor, Image.Image | None]:
    """The square (3, S, S) that the model gets, and the same part of the image with `side` pixels (0: None)."""
    picture = open_image(image.data, image.name, pixels)
    square = torch.from_numpy(to_pixels(picture, version.geometry, image.name))
    return square, visible_part(picture, version.geometry, image.name, side) if side else None


def _explain(version: ModelVersion, square: Tensor, kind: str, class_name: str | None) -> tuple[Explanation, Tensor]:
    model = version.model()
    class_index(model, class_name)  # before anything is computed
    return explain_pixels(model, square, kind, class_name)
