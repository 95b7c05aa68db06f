"""Images of many requests, looked at together: who waits, who goes next, and how an error stays with its own.

Everything but the network runs on the event loop, so that nothing here needs a lock. While the network looks at one
batch the next one gathers; only when it is idle does an image wait for company, and then `wait` seconds at most.
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

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Job(Generic[Asked, Answer]):
    asked: Asked
    future: asyncio.Future[Answer]
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class Room:
    """Places for images that were accepted and are not answered yet."""

    def __init__(self, places: int) -> None:
        self.places, self.taken = places, 0

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        """`count` places for as long as the block runs. Raises Refusal (503) when there are not so many."""
        if self.taken + count > self.places:
            raise busy(f"{self.taken} images are waiting already")
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count


class Batches(Generic[Asked, Answer]):
    """Gathers what is asked one by one and has `compute` answer up to `most` of it in one call, in `thread`."""

    def __init__(
        self,
        compute: Callable[[Sequence[Asked]], Sequence[Answer]],
        thread: Executor,
        most: int,
        wait: float,
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._compute, self._thread, self._most, self._wait, self._told = compute, thread, most, wait, told
        self._waiting: deque[_Job[Asked, Answer]] = deque()
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, asked: Asked) -> asyncio.Future[Answer]:
        """The answer, later. Cancelling it takes the question back, if it was not looked at yet."""
        job: _Job[Asked, Answer] = _Job(asked, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return job.future

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._gathered()
            await self._answer([self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))])

    async def _gathered(self) -> None:
        """Returns when a batch is full, or its oldest image has waited long enough."""
        clock = asyncio.get_running_loop().time
        while len(self._waiting) < self._most:
            self._arrived.clear()
            left = self._waiting[0].since + self._wait - clock() if self._waiting else None
            if left is not None and left <= 0:
                return
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    async def _answer(self, jobs: Sequence[_Job[Asked, Answer]]) -> None:
        """An error of several is tried again one by one, so that it reaches only whom it concerns."""
        done = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._thread, self._computed, jobs))
        await asyncio.wait([done])
        error = done.exception()
        if error is None:
            for job, answer in done.result():
                if not job.future.done():  # else whoever asked has gone
                    job.future.set_result(answer)
        elif len(jobs) > 1:
            for job in jobs:
                await self._answer([job])
        elif not jobs[0].future.done():
            jobs[0].future.set_exception(error)

    def _computed(self, jobs: Sequence[_Job[Asked, Answer]]) -> list[tuple[_Job[Asked, Answer], Answer]]:
        """Answers to those that somebody still waits for when it is their turn. In the thread, which may be busy with
        other things before; a future is only looked at.
        """
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return []
        self._told(len(jobs))
        return list(zip(jobs, self._compute([job.asked for job in jobs]), strict=True))
