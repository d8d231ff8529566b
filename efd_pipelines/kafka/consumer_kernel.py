"""Consumer kernel: what librdkafka says of messages → numbers and bytes, compiled, without the interpreter's lock.

Importing this module imports numba, which takes a second: only `compiled_consumer.py` does, once there is much to
read. What lies where in a message: `rd_kafka_message_t` of rdkafka.h, which is part of the library's interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numba import types

from efd_pipelines import addresses
from efd_pipelines.addresses import accesses, calling, copy, load1, load8, origin, prefetch, store1, store8
from efd_pipelines.compiled import callback_of, jit_of

_jit = jit_of(__file__, addresses.__file__)
_load4_signed, _ = accesses(32, signed=True)
_consume_batch = calling(64, 32, 64, 64)
_time_stamp = calling(64, 64)
_destroy = calling(64)

ERROR, TOPIC, PARTITION, VALUE, VALUE_SIZE, KEY, KEY_SIZE, OFFSET, TIME_KIND, TIME_MS = range(10)
"""Columns of what is told of a message; topic, value and key are addresses, 0 where there is none."""
COLUMNS = 10
_ROW_BYTES = 8 * COLUMNS
# Offsets of `err`, `rkt`, `partition`, and of payload, len, key, key_len and offset, which follow one another.
_ERROR_AT, _TOPIC_AT, _PARTITION_AT, _VALUE_AT = 0, 8, 16, 24
_AHEAD = 8

COMPLAINTS, TEXT_BYTES = 16, 504
"""How many complaints are noted at once, the newest: how many there were, and of each its code and text."""
COMPLAINT_BYTES = 8 + TEXT_BYTES

_NUMBER = types.int64


@callback_of(types.none(_NUMBER, types.int32, _NUMBER, _NUMBER), __file__, addresses.__file__)
def note_complaint(client: Any, code: Any, reason: Any, target: Any) -> None:
    """librdkafka's error callback: notes it at `target`, which is what the client was given as `opaque`.

    Compiled, because an interrupt that comes while a callback of Python's runs is raised in there and lost.
    """
    memory = origin()
    number = load8(memory, target)
    entry = target + 8 + (number % COMPLAINTS) * COMPLAINT_BYTES
    store8(memory, entry, code)
    length = 0
    while length < TEXT_BYTES - 1 and load1(memory, reason + length) != 0:
        store1(memory, entry + 8 + length, load1(memory, reason + length))
        length += 1
    store1(memory, entry + 8 + length, 0)
    store8(memory, target, number + 1)


@_jit
def take(messages: Any, held: Any, count: Any, queue: Any, timeout_ms: Any, consume: Any) -> None:
    """Adds messages to those that are held.

    Args:
        messages: the address of the messages' addresses.
        held: the address of how many there are. It is written here, so that an interrupt never comes between taking
            messages and knowing of them: a client with messages that nobody gives back cannot be closed.
        consume: the address of `rd_kafka_consume_batch_queue`.
    """
    memory = origin()
    before = load8(memory, held)
    taken = _consume_batch(consume, (queue, timeout_ms, messages + 8 * before, count))
    if taken > 0:
        store8(memory, held, before + taken)


@_jit
def tell(messages: Any, count: Any, told: Any, time_stamp: Any) -> None:
    """What messages say.

    Args:
        messages: the address of the messages' addresses.
        told: the address that takes COLUMNS numbers of each.
        time_stamp: the address of `rd_kafka_message_timestamp`.
    """
    memory = origin()
    for n in range(count):
        if n + _AHEAD < count:
            prefetch(memory, load8(memory, messages + 8 * (n + _AHEAD)))
        message, row = load8(memory, messages + 8 * n), told + _ROW_BYTES * n
        store8(memory, row + 8 * ERROR, _load4_signed(memory, message + _ERROR_AT))
        store8(memory, row + 8 * TOPIC, load8(memory, message + _TOPIC_AT))
        store8(memory, row + 8 * PARTITION, _load4_signed(memory, message + _PARTITION_AT))
        for k in range(5):
            store8(memory, row + 8 * (VALUE + k), load8(memory, message + _VALUE_AT + 8 * k))
        # An enumeration of 32 bits is written there.
        store8(memory, row + 8 * TIME_KIND, 0)
        store8(memory, row + 8 * TIME_MS, _time_stamp(time_stamp, (message, row + 8 * TIME_KIND)))


@_jit
def records_end(told: Any, begin: Any, count: Any, first: Any, end: Any) -> Any:
    """Up to which message they are the next records of the partition of the one at `begin`.

    Without an error, their offsets rising, from `first` on and below `end`.
    """
    memory, head = origin(), told + _ROW_BYTES * begin
    topic, partition = load8(memory, head + 8 * TOPIC), load8(memory, head + 8 * PARTITION)
    n, least = begin, first
    while n < count:
        row = told + _ROW_BYTES * n
        if load8(memory, row + 8 * TOPIC) != topic or load8(memory, row + 8 * PARTITION) != partition:
            break
        offset = load8(memory, row + 8 * OFFSET)
        if load8(memory, row + 8 * ERROR) != 0 or offset < least or offset >= end:
            break
        least = offset + 1
        n += 1
    return n


@_jit
def copy_bytes(told: Any, begin: Any, end: Any, column: Any, data: Any) -> None:
    """Copies bytes of messages behind one another to `data`; their addresses stand in `column`, their sizes in the
    next.
    """
    memory, at = origin(), data
    for n in range(begin, end):
        cell = told + _ROW_BYTES * n + 8 * column
        size = load8(memory, cell + 8)
        if size > 0:
            copy(memory, load8(memory, cell), size, at)
        at += size


@_jit
def let_go(messages: Any, held: Any, destroy: Any) -> None:
    """Gives all messages back to librdkafka; `destroy` is the address of `rd_kafka_message_destroy`."""
    memory = origin()
    for n in range(load8(memory, held)):
        _destroy(destroy, (load8(memory, messages + 8 * n),))
    store8(memory, held, 0)


def _signature(arguments: int, result: Any = types.int64) -> Any:
    return result(*[_NUMBER] * arguments)


ENTRIES: Mapping[Any, Any] = {
    take: _signature(6, types.none),
    tell: _signature(4, types.none),
    records_end: _signature(5),
    copy_bytes: _signature(5, types.none),
    let_go: _signature(3, types.none),
}
