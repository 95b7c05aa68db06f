"""What the server can do, apart from HTTP: answer, explain, add and remove models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...classifier.explain import Explanation, class_index, explain_pixels, heat_map_png, visible_part
from ...classifier.model import probabilities_of
from ...classifier.predict import prediction
from ...data import Geometry
from ...data.images import UnreadableImage, open_image, to_pixels
from ...nn.attribution import overlay, side_by_side
from ...nn.setting import Setting
from ...utils.errors import WeightsError
from .batching import Batches, Room
from .limits import EXPLANATION, Limits
from .malloc import give_back
from .metrics import Metrics
from .model_groups import Pool, look_at
from .model_repository import Shelf, Tell, Version
from .refusal import Refusal
from .requests import Asked, Picture

Made = TypeVar("Made")
_SIDE = 448  # pixels of a side of a drawn heat map, at least
_TIDY = 10.0  # seconds between looks for memory that can be given back
_VERSION = 12  # letters of a version's digest that are told


class Service:
    """The models of a folder, ready to be asked. One thread computes, one changes the models, a few decode."""

    def __init__(
        self,
        root: Path,
        setting: Setting,
        limits: Limits,
        resident: int | None = None,
        poll: float = 1.0,
        tell: Tell = lambda _: None,
    ) -> None:
        self.setting, self.limits, self.poll = setting, limits, poll
        self.shelf = Shelf(root, setting, resident, limits.models, tell)
        self.metrics = Metrics()
        self.room = Room(limits.queue)
        self.ready = self._loaded = False
        self._network = ThreadPoolExecutor(1, "network")
        self._loading = ThreadPoolExecutor(1, "models")
        self._decoding = ThreadPoolExecutor(limits.decoders, "decode")
        self._tasks: list[asyncio.Task[None]] = []
        self._batches: Batches[tuple[Version, Tensor], Tensor]
        self.metrics.watch("models", "Models served.", lambda: len(self.shelf.models))
        self.metrics.watch("model_problems", "Files that cannot be served.", lambda: len(self.shelf.problems))
        self.metrics.watch("model_changes", "Models added, replaced or removed since the start.", self._changes)
        self.metrics.watch("queued_images", "Images accepted and not answered yet.", lambda: self.room.taken)

    def _changes(self) -> float:
        return self.shelf.changes

    def load(self) -> None:
        """Take what lies in the folder. Raises StorageError when it cannot be read, WeightsError when it is one model
        that cannot be used; of several, those that can be are served.
        """
        self.shelf.refresh(patient=False)
        if self.shelf.single and self.shelf.problems:
            raise WeightsError("; ".join(self.shelf.problems.values()))
        self._loaded = True

    async def start(self) -> None:
        """Take what lies in the folder, if that was not done yet, and begin to watch it and to answer."""
        compute = partial(_computed, self.setting)
        told = self.metrics.batches.observe
        self._batches = Batches(compute, self._network, self.limits.batch, self.limits.wait, told)
        if not self._loaded:
            await self._in(self._loading, self.load)
        self._tasks = [asyncio.create_task(work) for work in (self._batches.run(), self._watch(), self._tidy())]
        self.ready = True

    async def stop(self) -> None:
        """To be called when every request is answered."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for threads in (self._decoding, self._network, self._loading):
            threads.shutdown(wait=True, cancel_futures=True)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY)
            await self._in(self._loading, give_back)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.poll)
            await self._in(self._loading, self.shelf.refresh)
            self.metrics.keep(self.shelf.models)

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    # ---- answers

    async def predict(self, name: str, asked: Asked) -> dict[str, Any]:
        """All pictures answered by the version that `name` stands for now. Raises UnknownName, Refusal, DataError."""
        with self.shelf.lease(name) as version, self.room.of(len(asked.pictures)):
            found = await asyncio.gather(
                *(self._logits(version, one) for one in asked.pictures), return_exceptions=True
            )
            logits = _all_good(found)
            probabilities = probabilities_of(torch.stack(logits))
            rows = [
                prediction(picture.name, version.classes, own, asked.top, asked.threshold)
                for picture, own in zip(asked.pictures, probabilities, strict=True)
            ]
            self.metrics.answered(name, len(rows))
            return {"model": name, "version": version.digest[:_VERSION], "answers": rows}

    async def _logits(self, version: Version, picture: Picture) -> Tensor:
        square = await self._in(self._decoding, partial(_square, picture, version.geometry, self.limits.pixels))
        return await self._batches.ask((version, square))

    async def explain(self, name: str, picture: Picture, kind: str, wanted: str | None, draw: str | None) -> Any:
        """(version, `Explanation`, heat (h, w), PNG or None) of one picture; draw: "both", "overlay" or None.

        Raises UnknownName for a model, class or kind that does not exist, NotApplicable, Refusal, DataError.
        """
        with self.shelf.lease(name) as version, self.room.of(EXPLANATION):
            side = _SIDE if draw else 0
            decode = partial(_square_and_seen, picture, version.geometry, self.limits.pixels, side)
            square, seen = await self._in(self._decoding, decode)
            found, heat = await self._in(self._network, partial(_looked, version, square, kind, wanted))
            png = await self._in(self._decoding, partial(_drawn, seen, found, heat, kind, draw)) if draw else None
            self.metrics.answered(name, 1)
            return version, found, heat, png

    # ---- models

    async def upload(self, name: str, data: bytes) -> tuple[Version, bool]:
        """As `Shelf.upload`."""
        return await self._in(self._loading, partial(self.shelf.upload, name, data))

    async def remove(self, name: str) -> None:
        """As `Shelf.remove`."""
        await self._in(self._loading, partial(self.shelf.remove, name))


def version_text(version: Version) -> str:
    """What tells one content of a model from another."""
    return version.digest[:_VERSION]


def _computed(setting: Setting, asked: Sequence[tuple[Version, Tensor]]) -> list[Tensor]:
    """The logits of every question, each pool asked once."""
    pools: dict[int, tuple[Pool, list[int]]] = {}
    for place, (version, _) in enumerate(asked):
        kind = id(version.pool)
        pools.setdefault(kind, (version.pool, []))[1].append(place)
    found: dict[int, Tensor] = {}
    for pool, places in pools.values():
        squares, names = [asked[place][1] for place in places], [asked[place][0].key for place in places]
        found |= dict(zip(places, look_at(pool, setting, squares, names), strict=True))
    return [found[place] for place in range(len(asked))]


def _all_good(found: Sequence[Tensor | BaseException]) -> list[Tensor]:
    """Raises the first error; of several unreadable pictures one that names all."""
    broken = [one for one in found if isinstance(one, UnreadableImage)]
    if len(broken) > 1:
        raise Refusal(422, "bad_image", "; ".join(f"{one.name} ({one.reason})" for one in broken) + ": cannot be read")
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, Tensor)]


def _square(picture: Picture, geometry: Geometry, most: int) -> Tensor:
    return torch.from_numpy(to_pixels(open_image(picture.data, picture.name, most), geometry, picture.name))


def _square_and_seen(picture: Picture, geometry: Geometry, most: int, side: int) -> tuple[Tensor, Any]:
    image = open_image(picture.data, picture.name, most)
    square = torch.from_numpy(to_pixels(image, geometry, picture.name))
    return square, visible_part(image, geometry, picture.name, side) if side else None


def _looked(version: Version, square: Tensor, kind: str, wanted: str | None) -> tuple[Explanation, Tensor]:
    model = version.model()
    class_index(model, wanted)
    return explain_pixels(model, square, kind, wanted)


def _drawn(seen: Any, found: Explanation, heat: Tensor, kind: str, draw: str) -> bytes:
    return heat_map_png(side_by_side(seen, heat) if draw == "both" else overlay(seen, heat), found, kind)
