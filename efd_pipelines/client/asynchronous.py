"""Asynchronous: the same calls for programs that `await` them, as lsst-efd-client's own are.

Reading is done in threads, so that nothing else waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from efd_pipelines.client.archive import EfdArchive
from efd_pipelines.client.sizes import DEFAULT_LIMIT_BYTES

P = ParamSpec("P")
R = TypeVar("R")


class AsyncEfdArchive:
    """`EfdArchive` with methods to be awaited; `archive` is the plain one."""

    def __init__(self, archive: EfdArchive) -> None:
        self.archive = archive
        self.get_topics = _in_a_thread(archive.get_topics)
        self.get_fields = _in_a_thread(archive.get_fields)
        self.get_schema = _in_a_thread(archive.get_schema)
        self.select = _in_a_thread(archive.select)
        self.select_time_series = _in_a_thread(archive.select_time_series)
        self.select_packed_time_series = _in_a_thread(archive.select_packed_time_series)
        self.select_top_n = _in_a_thread(archive.select_top_n)
        self.most_recent_before = _in_a_thread(archive.most_recent_before)

    @classmethod
    def from_name(
        cls, efd_name: str, *, archive: str | None = None, limit: int | str = DEFAULT_LIMIT_BYTES
    ) -> AsyncEfdArchive:
        """As `EfdArchive.from_name`."""
        return cls(EfdArchive.from_name(efd_name, archive=archive, limit=limit))


def _in_a_thread(call: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """A method as one that is awaited."""

    @wraps(call)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(call, *args, **kwargs)

    return awaited
