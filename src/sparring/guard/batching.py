"""Micro-batching: images of many requests go to the model together, and no more wait than may wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sparring.guard.refusal import RefusedError

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True, eq=False)
class Job(Generic[K, T]):
    """Images (N, C, H, W) of one request, how many, who sent them, and where the result goes."""

    images: Tensor
    count: int
    key: K
    done: asyncio.Future[T]


class Batcher(Generic[K, T]):
    """Runs `work` in one thread on lists of jobs of at most `most` images together.

    While the thread is busy, jobs gather. When it is free, the first job waits up to `wait` seconds, and only as long
    as further requests are on their way (`expected`); so a lone client never waits. More than `queue_most` images
    waiting are refused with 429. inline_most: so few images are worked on in the event loop's own thread instead, where
    that takes less time than to hand them over.
    """

    def __init__(
        self, work: Callable[[list[Job[K, T]]], list[T]], most: int = 64, wait: float = 0.002, queue_most: int = 512
    ) -> None:
        self.work, self.most, self.wait, self.queue_most = work, most, wait, queue_most
        self.inline_most = 0
        self.waiting = 0
        self.expected = 0
        self._jobs: deque[Job[K, T]] = deque()
        self._queued = 0
        self._news = asyncio.Event()
        self._full: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "guard-model")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, inside a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Finish what was taken, then stop."""
        while self.waiting:
            await asyncio.sleep(0.005)
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=True)

    async def submit(self, images: Tensor, key: K) -> T:
        """The result for one request's images. Raises `RefusedError` where too many wait already."""
        count = len(images)
        if self.waiting and self.waiting + count > self.queue_most:
            raise RefusedError(429, "queue", "too many images are waiting: try again", retry_after=1)
        job = Job(images, count, key, asyncio.get_running_loop().create_future())
        self.waiting += count
        self._queued += count
        self._jobs.append(job)
        self._news.set()
        self.expected -= 1  # it is here now
        if self._full is not None and (self._queued >= self.most or not self.expected):
            _settle(self._full, None, None)
        try:
            result: T = await job.done
        finally:
            self.expected += 1
        return result

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            if self.wait and self.expected and self._queued < self.most:
                await self._gather(loop)
            jobs, count = self._taken()
            try:
                if count <= self.inline_most:
                    results = self.work(jobs)
                    await asyncio.sleep(0)  # let what arrived meanwhile be read
                else:
                    results = await loop.run_in_executor(self._thread, self.work, jobs)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whoever asked is told
                for job in jobs:
                    _settle(job.done, None, error)
            else:
                for job, result in zip(jobs, results, strict=True):
                    _settle(job.done, result, None)
            self.waiting -= count

    async def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until the batch is full, nobody is on the way any more, or the first has waited long enough."""
        self._full = loop.create_future()
        timer = loop.call_later(self.wait, _settle, self._full, None, None)
        await self._full
        timer.cancel()
        self._full = None

    def _taken(self) -> tuple[list[Job[K, T]], int]:
        """The oldest jobs that fit together, one at least, and how many images they have."""
        jobs = [self._jobs.popleft()]
        count = jobs[0].count
        while self._jobs and count + self._jobs[0].count <= self.most:
            jobs.append(self._jobs.popleft())
            count += jobs[-1].count
        self._queued -= count
        if not self._jobs:
            self._news.clear()
        return jobs, count


def together(jobs: list[Job[K, T]]) -> Tensor:
    """The images of all jobs."""
    return jobs[0].images if len(jobs) == 1 else torch.cat([job.images for job in jobs])


def _settle(done: asyncio.Future[T], result: T | None, error: Exception | None) -> None:
    if done.done():  # the client left
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)  # type: ignore[arg-type]
