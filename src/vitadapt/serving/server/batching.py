"""Images of many requests, computed together.

Everything but the network runs on the event loop, so nothing here needs a lock. While the network computes one batch
the next one gathers. Only when it is idle does an image wait for others, and then `wait` seconds at most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .refusal import busy

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    start: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class Queue:
    """Counts the images that were accepted and are not answered yet."""

    def __init__(self, size: int) -> None:
        self.size, self.used = size, 0

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Use `count` places while the block runs. Raises Refusal (503) when fewer are free."""
        if self.used + count > self.size:
            raise busy(f"{self.used} images are waiting already")
        self.used += count
        try:
            yield
        finally:
            self.used -= count


class Batcher(Generic[Item, Result]):
    """Gathers single items and lets `compute` answer up to `size` of them in one call, in `executor`.

    observe: is called with the size of every batch.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        executor: Executor,
        size: int,
        wait: float,
        observe: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._compute, self._executor, self._size, self._wait, self._observe = compute, executor, size, wait, observe
        self._waiting: deque[_Job[Item, Result]] = deque()
        self._arrived = asyncio.Event()

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """The result, later. When it is cancelled before its batch begins, the item is not computed."""
        job: _Job[Item, Result] = _Job(item, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return job.future

    async def run(self) -> None:
        """Compute batches until cancelled."""
        while True:
            await self._wait_for_batch()
            await self._process([self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))])

    async def _wait_for_batch(self) -> None:
        """Returns when a batch is full, or its oldest item has waited long enough."""
        clock = asyncio.get_running_loop().time
        while len(self._waiting) < self._size:
            self._arrived.clear()
            left = self._waiting[0].start + self._wait - clock() if self._waiting else None
            if left is not None and left <= 0:
                return
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    async def _process(self, jobs: Sequence[_Job[Item, Result]]) -> None:
        """When a batch fails its items are computed one by one, so that an error reaches only its own request."""
        work = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._executor, self._run, jobs))
        await asyncio.wait([work])
        error = work.exception()
        if error is None:
            for job, result in work.result():
                if not job.future.done():  # else the client has gone
                    job.future.set_result(result)
        elif len(jobs) > 1:
            for job in jobs:
                await self._process([job])
        elif not jobs[0].future.done():
            jobs[0].future.set_exception(error)

    def _run(self, jobs: Sequence[_Job[Item, Result]]) -> list[tuple[_Job[Item, Result], Result]]:
        """In the executor, which may have been busy before: items that nobody waits for any more are left out."""
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return []
        self._observe(len(jobs))
        return list(zip(jobs, self._compute([job.item for job in jobs]), strict=True))
