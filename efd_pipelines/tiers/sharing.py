"""Sharing: who computes the slices of a tier: this process, some processes beside it, or the workers of Dask.

Whoever does, gives back names of files that nobody sees before they are committed, in the order in which they were
asked for. A worker that dies loses nothing: Dask gives its slices to another; here they are computed by this process.
Only some passes are on their way at a time, so that commits keep up. What is computed: `work.py`.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from efd_pipelines.archive.slices import Slice
from efd_pipelines.cluster import Cluster, cluster_at
from efd_pipelines.tiers.work import Computed, Work

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

Passes: TypeAlias = Iterable[Sequence[Slice]]
IsStale: TypeAlias = Callable[[Sequence[Slice]], bool]


class Sharing(Protocol):
    """Somebody who computes passes of some work; those that are no longer stale come back with no files.

    `at_once` is how many of them are computed at a time on one machine.
    """

    at_once: int

    def compute(self, work: Work, passes: Passes, is_stale: IsStale) -> Iterator[tuple[Sequence[Slice], Computed]]: ...


@contextmanager
def sharing(settings: Settings, processes: int = 1) -> Iterator[Sharing]:
    """Dask's workers where a scheduler is set; else so many processes, or this one alone.

    Raises:
        DaskUnavailable: the scheduler does not answer.
    """
    if settings.dask_scheduler:
        with cluster_at(settings.dask_scheduler) as cluster:
            yield _Dask(cluster)
    elif processes > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            yield _Processes(pool, processes)
    else:
        yield _Alone()


def _nothing() -> Computed:
    return Computed({}, 0)


class _Alone:
    at_once = 1

    def compute(self, work: Work, passes: Passes, is_stale: IsStale) -> Iterator[tuple[Sequence[Slice], Computed]]:
        for slices in passes:
            yield slices, work.compute(slices) if is_stale(slices) else _nothing()


class _Processes:
    """Processes that begin from nothing: a fork of a process with threads may hang."""

    def __init__(self, pool: ProcessPoolExecutor, processes: int) -> None:
        self._pool = pool
        self.at_once = processes
        # One waits while each computes: what is done holds names of files, no rows.
        self._ahead = processes + 1

    def compute(self, work: Work, passes: Passes, is_stale: IsStale) -> Iterator[tuple[Sequence[Slice], Computed]]:
        waiting: deque[tuple[Sequence[Slice], Future[Computed] | None]] = deque()
        for slices in passes:
            waiting.append((slices, self._submit(work, slices) if is_stale(slices) else None))
            if len(waiting) > self._ahead:
                yield self._taken(work, *waiting.popleft())
        while waiting:
            yield self._taken(work, *waiting.popleft())

    def _submit(self, work: Work, slices: Sequence[Slice]) -> Future[Computed]:
        try:
            return self._pool.submit(work.part(slices).compute, slices)
        except BrokenProcessPool as error:
            failed: Future[Computed] = Future()
            failed.set_exception(error)
            return failed

    def _taken(
        self, work: Work, slices: Sequence[Slice], future: Future[Computed] | None
    ) -> tuple[Sequence[Slice], Computed]:
        if future is None:
            return slices, _nothing()
        try:
            return slices, future.result()
        except BrokenProcessPool:
            return slices, work.compute(slices)


class _Dask:
    """Workers of a cluster; each needs this package and the way to the store, and has memory of its own."""

    at_once = 1

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ahead = 2 * cluster.cores

    def compute(self, work: Work, passes: Passes, is_stale: IsStale) -> Iterator[tuple[Sequence[Slice], Computed]]:
        waiting: deque[tuple[Sequence[Slice], Any]] = deque()
        for slices in passes:
            waiting.append((slices, self._submit(work, slices) if is_stale(slices) else None))
            if len(waiting) > self._ahead:
                yield self._taken(*waiting.popleft())
        while waiting:
            yield self._taken(*waiting.popleft())

    def _submit(self, work: Work, slices: Sequence[Slice]) -> Any:
        return self._cluster.submit(_computed, (work.part(slices), slices))

    def _taken(self, slices: Sequence[Slice], future: Any) -> tuple[Sequence[Slice], Computed]:
        return slices, _nothing() if future is None else self._cluster.taken(future)


def _computed(task: tuple[Work, Sequence[Slice]]) -> Computed:
    work, slices = task
    return work.compute(slices)
