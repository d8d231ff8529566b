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
from efd_pipelines.errors import ServiceUnavailable
from efd_pipelines.tiers.work import Computed, Work

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

Passes: TypeAlias = Iterable[Sequence[Slice]]
IsStale: TypeAlias = Callable[[Sequence[Slice]], bool]

_CONNECT_S = 30
_RETRIES = 3


class DaskUnavailable(ServiceUnavailable):
    """The Dask scheduler does not answer."""

    remedy = "Check EFD_DASK_SCHEDULER and that the scheduler runs, or unset it; then run again: nothing was lost."


class Sharing(Protocol):
    """Somebody who computes passes of some work; those that are no longer stale come back with no files."""

    def compute(self, work: Work, passes: Passes, is_stale: IsStale) -> Iterator[tuple[Sequence[Slice], Computed]]: ...


@contextmanager
def sharing(settings: Settings, processes: int = 1) -> Iterator[Sharing]:
    """Dask's workers where a scheduler is set; else so many processes, or this one alone.

    Raises:
        DaskUnavailable: the scheduler does not answer.
    """
    if settings.dask_scheduler:
        with _dask_client(settings.dask_scheduler) as client:
            yield _Dask(client)
    elif processes > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            yield _Processes(pool, processes)
    else:
        yield _Alone()


def _nothing() -> Computed:
    return Computed({}, 0)


class _Alone:
    def compute(self, work: Work, passes: Passes, is_stale: IsStale) -> Iterator[tuple[Sequence[Slice], Computed]]:
        for slices in passes:
            yield slices, work.compute(slices) if is_stale(slices) else _nothing()


class _Processes:
    """Processes that begin from nothing: a fork of a process with threads may hang."""

    def __init__(self, pool: ProcessPoolExecutor, processes: int) -> None:
        self._pool = pool
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
    """Workers of a cluster; each needs this package and the way to the store."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._ahead = 2 * max(1, sum(client.ncores().values()))

    def compute(self, work: Work, passes: Passes, is_stale: IsStale) -> Iterator[tuple[Sequence[Slice], Computed]]:
        waiting: deque[tuple[Sequence[Slice], Any]] = deque()
        for slices in passes:
            waiting.append((slices, self._submit(work, slices) if is_stale(slices) else None))
            if len(waiting) > self._ahead:
                yield self._taken(*waiting.popleft())
        while waiting:
            yield self._taken(*waiting.popleft())

    def _submit(self, work: Work, slices: Sequence[Slice]) -> Any:
        part = work.part(slices)
        return self._client.submit(_computed, part, slices, pure=False, retries=_RETRIES)

    def _taken(self, slices: Sequence[Slice], future: Any) -> tuple[Sequence[Slice], Computed]:
        return slices, _nothing() if future is None else future.result()


def _computed(work: Work, slices: Sequence[Slice]) -> Computed:
    return work.compute(slices)


@contextmanager
def _dask_client(address: str) -> Iterator[Any]:
    import distributed

    connect: Callable[..., Any] = distributed.Client
    try:
        client = connect(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise DaskUnavailable(f"The Dask scheduler at {address} does not answer ({error})") from error
    with client:
        yield client
