"""Lanes: prepared and stored side by side, finished in order, in bounded memory; an error ends everything."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from efd_pipelines.archive.lanes import Lanes

Work = tuple[str, int]


def store(work: Work, prepared: Work) -> Work:
    assert work == prepared
    return prepared


class Watched:
    """Steps that note what they do; `slow` works take a while to prepare."""

    def __init__(self, slow: set[Work] | None = None) -> None:
        self.slow = slow or set()
        self.finished: list[Work] = []
        self.lock = threading.Lock()

    def prepare(self, work: Work) -> Work:
        time.sleep(0.02 if work in self.slow else random.random() / 1000)
        return work

    def finish(self, work: Work, stored: Future[Work]) -> Work:
        found = stored.result()
        with self.lock:
            self.finished.append(found)
        return found

    def of(self, key: str) -> list[int]:
        return [number for lane, number in self.finished if lane == key]


def put_all(lanes: Lanes[Work, Work, Work, Any], count: int, error: Exception | None = None) -> None:
    with lanes:
        for n in range(count):
            lanes.put("a", ("a", n), 1)
        if error is not None:
            raise error


def test_work_of_a_lane_is_finished_in_its_order_however_long_it_takes_to_prepare() -> None:
    watched = Watched({("a", n) for n in range(0, 20, 5)})
    with Lanes(watched.prepare, store, watched.finish, 1000) as lanes:
        for n in range(20):
            for key in ("a", "b", "c"):
                lanes.put(key, (key, n), 1)
    assert [watched.of(key) for key in ("a", "b", "c")] == [list(range(20))] * 3
    assert sorted(lanes.collect()) == sorted(watched.finished)
    assert lanes.collect() == []


def test_work_is_stored_before_what_was_put_earlier_is_finished() -> None:
    later = threading.Event()

    def stored_as(work: Work, prepared: Work) -> Work:
        if work[1] == 1:
            later.set()
        return prepared

    def finish(work: Work, stored: Future[Work]) -> bool:
        return later.wait(10)

    with Lanes(lambda work: work, stored_as, finish, 1000) as lanes:
        lanes.put("a", ("a", 0), 1)
        lanes.put("a", ("a", 1), 1)
        lanes.settle()
    assert lanes.collect() == [True, True]


def test_a_lane_that_waits_does_not_hold_up_another() -> None:
    gate = threading.Event()
    watched = Watched()

    def prepare(work: Work) -> Work:
        if work[0] == "slow":
            gate.wait(10)
        return work

    with Lanes(prepare, store, watched.finish, 1000) as lanes:
        lanes.put("slow", ("slow", 0), 1)
        for n in range(5):
            lanes.put("fast", ("fast", n), 1)
        lanes.settle("fast")
        assert watched.finished == [("fast", n) for n in range(5)]
        gate.set()
        lanes.settle()
    assert watched.of("slow") == [0]


def test_nothing_is_put_while_there_is_no_room() -> None:
    under_way, most = 0, 0
    lock = threading.Lock()

    def finish(work: Work, stored: Future[Work]) -> None:
        nonlocal under_way
        stored.result()
        time.sleep(0.01)
        with lock:
            under_way -= work[1]

    def stored_as(work: Work, prepared: Work) -> Work:
        gate.wait(10)
        return prepared

    gate = threading.Event()
    with Lanes(lambda work: work, stored_as, finish, 30) as lanes:
        threading.Timer(0.1, gate.set).start()
        for size in (10, 10, 10, 10, 50, 10, 29, 2):
            lanes.put("a", ("a", size), size)
            assert gate.is_set() or under_way < 30
            with lock:
                under_way += size
                most = max(most, under_way)
    # What is stored counts half; the last that was put may be larger than what was left.
    assert 30 <= most < 2 * 30 + 50


def test_without_any_room_one_goes_after_the_other() -> None:
    watched = Watched()
    with Lanes(watched.prepare, store, watched.finish, 0) as lanes:
        for n in range(5):
            lanes.put("a", ("a", n), 1)
            assert len(watched.finished) >= n
    assert watched.of("a") == list(range(5))


def test_what_is_stored_makes_room_before_its_turn() -> None:
    gate, put = threading.Event(), []

    def finish(work: Work, stored: Future[Work]) -> bool:
        return gate.wait(10)

    def put_five() -> None:
        with Lanes(lambda work: work, store, finish, 20) as lanes:
            for n in range(5):
                lanes.put("a", ("a", n), 10)
                put.append(n)

    putting = threading.Thread(target=put_five)
    putting.start()
    # Two that are being prepared fill the room, and four that are stored.
    until = time.monotonic() + 5
    while len(put) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    assert put == [0, 1, 2, 3]
    gate.set()
    putting.join()
    assert put == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("step", ["prepare", "store", "finish"])
def test_an_error_ends_everything_and_is_raised_where_work_is_put(step: str) -> None:
    def prepare(work: Work) -> Work:
        if step == "prepare" and work[1] == 3:
            raise ValueError("no")
        return work

    def stored_as(work: Work, prepared: Work) -> Work:
        if step == "store" and work[1] == 3:
            raise ValueError("no")
        return store(work, prepared)

    def finish(work: Work, stored: Future[Work]) -> int:
        found = stored.result()[1]
        if step == "finish" and found == 3:
            raise ValueError("no")
        return found

    lanes = Lanes(prepare, stored_as, finish, 2)
    with pytest.raises(ValueError, match="no"):
        put_all(lanes, 100)
    assert lanes.collect() == [0, 1, 2]


def test_an_error_of_whoever_puts_stops_what_has_not_begun() -> None:
    watched = Watched({("a", n) for n in range(50)})
    with pytest.raises(KeyError):
        put_all(Lanes(watched.prepare, store, watched.finish, 1000), 50, KeyError())
    assert len(watched.finished) < 50
    assert watched.of("a") == list(range(len(watched.finished)))
