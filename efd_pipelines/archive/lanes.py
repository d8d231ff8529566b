"""Lanes: work that is prepared and stored side by side and finished in order, in bounded memory.

A lane is a dataset's: what is put on it is finished in the order in which it was put, lanes do not wait for one
another. Preparing (decoding, encoding: processors) runs on as many threads as there are processors, storing (writing
what nobody sees yet: waiting for the store) on others, and both may overtake in their own lane; finishing (making it
visible) runs on others again. So all overlap with each other and with whoever puts: the consumer. What the work is:
`writing.py`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Self, TypeVar

Work = TypeVar("Work")
Prepared = TypeVar("Prepared")
Stored = TypeVar("Stored")
Done = TypeVar("Done")

_MAX_PREPARING = 4
_STORING = 4
_FINISHING = 4
# What is stored waits for its turn only: what was prepared of it is gone, the work itself is still there.
_SHARE_STORED = 0.5


@dataclass(slots=True, eq=False)
class _Item(Generic[Work, Stored]):
    work: Work
    size_bytes: float
    stored: Future[Stored] = field(init=False)


@dataclass(slots=True, eq=False)
class _Lane(Generic[Work, Stored]):
    waiting: deque[_Item[Work, Stored]] = field(default_factory=deque)
    is_busy: bool = False


class Lanes(Generic[Work, Prepared, Stored, Done]):
    """Lanes by key. At the end of its `with` block nothing runs any more; what an error left unfinished is dropped.

    Args:
        prepare: the first step.
        store: the second, of the work and what the first returned. What either raises is the third's to meet.
        finish: the third step, in order: it takes what the second returned from the future. What it raises ends
            everything: `put` and `settle` raise it.
        room_bytes: `put` waits while there is something on its way, and as much as this or more; what is stored counts
            half.
    """

    def __init__(
        self,
        prepare: Callable[[Work], Prepared],
        store: Callable[[Work, Prepared], Stored],
        finish: Callable[[Work, Future[Stored]], Done],
        room_bytes: int,
    ) -> None:
        self._prepare = prepare
        self._store = store
        self._finish = finish
        self._room_bytes = room_bytes
        self._changed = threading.Condition()
        self._lanes: dict[str, _Lane[Work, Stored]] = {}
        self._bytes = 0.0
        self._items = 0
        self._done: list[Done] = []
        self._error: BaseException | None = None
        self._preparing = ThreadPoolExecutor(min(processors(), _MAX_PREPARING), "prepare")
        self._storing = ThreadPoolExecutor(_STORING, "store")
        self._finishing = ThreadPoolExecutor(_FINISHING, "finish")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.settle()
            else:
                self._stop(error)
        finally:
            self._preparing.shutdown(cancel_futures=True)
            self._storing.shutdown(cancel_futures=True)
            self._finishing.shutdown(cancel_futures=True)

    def put(self, key: str, work: Work, size_bytes: int) -> None:
        """Sends work on its way; waits while there is no room."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._items or self._bytes < self._room_bytes)
            self._raise()
            lane = self._lanes.setdefault(key, _Lane())
            item: _Item[Work, Stored] = _Item(work, size_bytes)
            prepared = self._preparing.submit(self._prepare, work)
            item.stored = self._storing.submit(self._stored, item, prepared)
            lane.waiting.append(item)
            self._bytes += size_bytes
            self._items += 1
            if not lane.is_busy:
                lane.is_busy = True
                self._finishing.submit(self._advance, key, lane)

    def settle(self, key: str | None = None) -> None:
        """Waits until everything that was put, or put on one lane, is finished."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or (key not in self._lanes if key else not self._items))
            self._raise()

    def collect(self) -> list[Done]:
        """What has been finished since this was asked last, in the order of finishing."""
        with self._changed:
            done, self._done = self._done, []
            return done

    def _stored(self, item: _Item[Work, Stored], prepared: Future[Prepared]) -> Stored:
        stored = self._store(item.work, prepared.result())
        with self._changed:
            self._weigh(item, item.size_bytes * _SHARE_STORED)
        return stored

    def _weigh(self, item: _Item[Work, Stored], size_bytes: float) -> None:
        self._bytes += size_bytes - item.size_bytes
        item.size_bytes = size_bytes
        self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _stop(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _advance(self, key: str, lane: _Lane[Work, Stored]) -> None:
        """Finishes the lane's first item; then it is the other lanes' turn before its next."""
        item = lane.waiting.popleft()
        if self._error is not None:
            return
        try:
            done = self._finish(item.work, item.stored)
        except BaseException as error:
            self._stop(error)
            return
        with self._changed:
            self._done.append(done)
            self._weigh(item, 0)
            self._items -= 1
            if not lane.waiting:
                del self._lanes[key]
            elif self._error is None:
                self._finishing.submit(self._advance, key, lane)
            self._changed.notify_all()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
