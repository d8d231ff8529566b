"""The cluster: work done by the workers of Dask, where `EFD_DASK_SCHEDULER` names a scheduler.

Work is a function of the package and an argument; it may be done twice, for Dask gives a lost worker's to another. What
comes back comes in the order in which it was asked for, and only some is on its way at a time. A scheduler, or all
workers, that go away are an error and no wait without end. Every worker needs this package and the way to the stores.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from efd_pipelines.errors import EfdError, ServiceUnavailable

A = TypeVar("A")
B = TypeVar("B")

_CONNECT_S = 30
_LOOK_S = 5.0
_RETRIES = 3
WITHOUT_WORKERS_S = 60.0
"""How long a cluster may have no workers: one that scales itself takes some time to begin."""


class DaskUnavailable(ServiceUnavailable):
    """The Dask cluster does not answer."""

    remedy = (
        "Check EFD_DASK_SCHEDULER and that scheduler and workers run, or unset it; then run again: nothing was lost."
    )


class Cluster:
    """A Dask cluster; `cores` of its workers when it was asked."""

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self._address = address

    @property
    def cores(self) -> int:
        cores: dict[str, int] = self._client.ncores()
        return max(1, sum(cores.values()))

    def results(self, function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[tuple[A, B]]:
        """Each argument with what the function made of it, in order; twice as many as there are cores on the way.

        Raises:
            DaskUnavailable: the scheduler, or all workers, are gone.
        """
        waiting: deque[tuple[A, Any]] = deque()
        ahead = 2 * self.cores
        for argument in arguments:
            waiting.append((argument, self.submit(function, argument)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, self.taken(future)
        while waiting:
            first, future = waiting.popleft()
            yield first, self.taken(future)

    def submit(self, function: Callable[[A], Any], argument: A) -> Any:
        """Has something done; what comes of it, `taken` gives."""
        return self._client.submit(function, argument, pure=False, retries=_RETRIES)

    def taken(self, future: Any) -> Any:
        """What came of something that was submitted.

        Raises:
            DaskUnavailable: the scheduler, or all workers, are gone.
        """
        import distributed

        alone_since: float | None = None
        while True:
            try:
                return future.result(timeout=_LOOK_S)
            except EfdError:
                raise
            except TimeoutError:
                if future.done():
                    raise  # the work's own
                alone_since = None if self._client.scheduler_info()["workers"] else alone_since or time.monotonic()
                if self._client.status != "running" or (
                    alone_since is not None and time.monotonic() - alone_since > WITHOUT_WORKERS_S
                ):
                    raise DaskUnavailable(f"The Dask cluster at {self._address} has no workers any more") from None
            except (distributed.KilledWorker, distributed.CancelledError, OSError) as error:
                raise DaskUnavailable(f"The Dask cluster at {self._address} lost the work ({error})") from error


@contextmanager
def cluster_at(address: str) -> Iterator[Cluster]:
    """The cluster of a scheduler.

    Raises:
        DaskUnavailable: the scheduler does not answer.
    """
    import distributed

    connect: Callable[..., Any] = distributed.Client
    try:
        client = connect(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise DaskUnavailable(f"The Dask scheduler at {address} does not answer ({error})") from error
    with client:
        yield Cluster(client, address)
