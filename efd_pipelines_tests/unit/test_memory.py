"""Memory: large pieces are used again, and never while somebody still reads them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines import memory
from efd_pipelines.memory import Growth, large_buffer, let_go, resident_bytes

LARGE = 40_000_000


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    let_go()
    yield
    let_go()


def test_a_large_piece_is_lent_again_when_nothing_refers_to_it() -> None:
    buffer = large_buffer(LARGE)
    address = buffer.address
    del buffer
    assert large_buffer(LARGE - 1000).address == address


def test_the_smallest_piece_that_suffices_is_lent_and_none_of_more_than_twice_the_size() -> None:
    buffers = {size: large_buffer(size) for size in (60_000_000, 35_000_000)}
    addresses = {size: buffer.address for size, buffer in buffers.items()}
    buffers.clear()
    first, second, third = (large_buffer(size) for size in (30_000_000, 29_000_000, 17_000_000))
    assert first.address == addresses[35_000_000]
    assert {second.address, third.address}.isdisjoint(addresses.values())


def test_a_piece_is_not_lent_again_while_a_column_lies_in_it() -> None:
    buffer = large_buffer(LARGE)
    np.frombuffer(buffer, np.int32)[:] = 7
    address = buffer.address
    column = pa.Array.from_buffers(pa.int32(), LARGE // 4, [None, buffer]).slice(1000, 50)
    table = pa.table({"column": column})
    del buffer, column
    other = large_buffer(LARGE)
    np.frombuffer(other, np.int32)[:] = 8
    assert other.address != address
    assert set(table["column"].to_pylist()) == {7}
    del table
    assert large_buffer(LARGE).address == address


def test_a_piece_is_not_lent_again_while_its_bytes_are_seen() -> None:
    buffer = large_buffer(LARGE)
    seen = memoryview(buffer).cast("B")[:10]
    address = buffer.address
    del buffer
    assert large_buffer(LARGE).address != address
    del seen
    assert address in {large_buffer(LARGE).address for _ in range(2)}


@pytest.mark.parametrize("size", [1, 5_000_000, LARGE])
def test_it_begins_at_a_cache_line_and_can_be_written_to(size: int) -> None:
    buffer = large_buffer(size)
    assert (buffer.size, buffer.address % 64, buffer.is_mutable) == (size, 0, True)


def test_no_more_is_kept_than_a_drain_needs() -> None:
    lent = [large_buffer(LARGE) for _ in range(8)]
    del lent
    assert LARGE < sum(piece.size for piece in memory._kept) <= 1 << 27


def test_what_a_process_has_now_is_known() -> None:
    before = resident_bytes()
    held = np.ones(200_000_000, np.uint8)
    assert 180_000_000 < resident_bytes() - before < 300_000_000
    del held
    assert resident_bytes() - before < 50_000_000


def test_memory_is_given_back_once_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    has = iter([300, 379, 280, 359, 360, 310, 389, 390, 320])
    monkeypatch.setattr(memory, "resident_bytes", lambda: next(has) << 20)
    monkeypatch.setattr(memory, "give_back", lambda: given.append(1))
    growth = Growth()
    counts = []
    for _ in range(6):
        growth.look()
        counts.append(len(given))
    # 360 is 80 more than 280; what is left is 310, and 390 is 80 more.
    assert counts == [0, 0, 0, 1, 1, 2]
