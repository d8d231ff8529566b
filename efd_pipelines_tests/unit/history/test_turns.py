"""Turns: one process at a time asks the history's server."""

from __future__ import annotations

import json
import threading
import time

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.history import turns
from efd_pipelines.history.turns import NAME, Turn


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_LOOK_S", 0.01)


def test_one_after_the_other(archive: Archive) -> None:
    holding, most = [0], [0]

    def work() -> None:
        with Turn(archive.store, "a run") as turn:
            assert turn.is_held
            holding[0] += 1
            most[0] = max(most[0], holding[0])
            time.sleep(0.02)
            holding[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not archive.store.exists(NAME)


def test_whoever_does_not_want_to_wait_goes_without(archive: Archive) -> None:
    heard = []

    def waits(holder: str) -> bool:
        heard.append(holder)
        return False

    with Turn(archive.store, "the first"), Turn(archive.store, "the second", waiting=waits) as second:
        assert not second.is_held
    assert heard == ["the first"]


@pytest.mark.parametrize("left", [json.dumps({"key": "k", "who": "killed", "until": 1.0}).encode(), b"half"])
def test_what_a_killed_process_left_is_taken_over(archive: Archive, left: bytes) -> None:
    archive.store.write_bytes(NAME, left)
    with Turn(archive.store, "the next") as turn:
        assert turn.is_held


def test_a_turn_is_renewed_while_it_is_held(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_RENEW_S", 0.01)
    with Turn(archive.store, "a long one"):
        first = json.loads(archive.store.read_bytes(NAME))["until"]
        deadline = time.monotonic() + 10
        while json.loads(archive.store.read_bytes(NAME))["until"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
