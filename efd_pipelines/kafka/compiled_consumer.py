"""A consumer whose records become columns in compiled code, read with librdkafka's C interface.

It does what reading a backlog needs and no more. The library: `librdkafka.py`. Compiled code: `consumer_kernel.py`.
Where it is used: `consumers.py`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from numpy.typing import NDArray

from efd_pipelines.compiled import make_ready
from efd_pipelines.kafka.consumers import GATHER_S, MOST_MESSAGES
from efd_pipelines.kafka.frames import FrameBatch
from efd_pipelines.kafka.librdkafka import CONSUMER, address_of, library, raise_code, raise_error

_TEXT_BYTES = 512


class CompiledBatch:
    """The messages that a consumer holds; librdkafka has them back at the end of the `with` block."""

    def __init__(self, messages: NDArray[np.int64], held: NDArray[np.int64], told: NDArray[np.int64]) -> None:
        self._kernel, self._lib = _kernel(), library()
        self._messages, self._held, self._told = messages, held, told
        self._at = told.ctypes.data
        self._names: dict[int, str] = {}
        self._kernel.tell(messages.ctypes.data, len(self), self._at, address_of("rd_kafka_message_timestamp"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kernel.let_go(self._messages.ctypes.data, self._held.ctypes.data, address_of("rd_kafka_message_destroy"))

    def __len__(self) -> int:
        return int(self._held[0])

    def origin(self, n: int) -> tuple[str, int]:
        topic = int(self._told[n, self._kernel.TOPIC])
        if topic not in self._names:
            self._names[topic] = self._lib.rd_kafka_topic_name(topic).decode() if topic else ""
        return self._names[topic], int(self._told[n, self._kernel.PARTITION])

    def offset(self, n: int) -> int:
        return int(self._told[n, self._kernel.OFFSET])

    def epoch(self, n: int) -> int | None:
        found = int(self._lib.rd_kafka_message_leader_epoch(int(self._messages[n])))
        return None if found < 0 else found

    def error(self, n: int) -> KafkaError | None:
        code = int(self._told[n, self._kernel.ERROR])
        if code == 0:
            return None
        return KafkaError(code, _text(self._lib.rd_kafka_message_errstr(int(self._messages[n]))))

    def records_end(self, begin: int, first: int, end: int) -> int:
        return int(self._kernel.records_end(self._at, begin, len(self), first, end))

    def frames(self, begin: int, end: int) -> FrameBatch:
        told = self._told[begin:end]
        topic, partition = self.origin(begin)
        is_stamped = told[:, self._kernel.TIME_KIND] != 0
        return FrameBatch(
            topic,
            self._column(self._kernel.VALUE, begin, end),
            self._column(self._kernel.KEY, begin, end),
            np.full(end - begin, partition, np.int32),
            told[:, self._kernel.OFFSET].copy(),
            np.where(is_stamped, told[:, self._kernel.TIME_MS], -1),
        )

    def _column(self, first: int, begin: int, end: int) -> pa.ChunkedArray:
        """Bytes of some records; columns `first` and the next of what is told have their addresses and sizes."""
        places = self._told[begin:end, first]
        ends = np.zeros(end - begin + 1, np.int64)
        np.cumsum(self._told[begin:end, first + 1], out=ends[1:])
        data = pa.allocate_buffer(int(ends[-1]), memory_pool=pa.system_memory_pool())
        self._kernel.copy_bytes(self._at, begin, end, first, data.address)
        is_there = places != 0
        marks = None if is_there.all() else pa.py_buffer(np.packbits(is_there, bitorder="little"))
        whole = pa.Array.from_buffers(pa.large_binary(), end - begin, [marks, pa.py_buffer(ends), data])
        return pa.chunked_array([whole])


class CompiledConsumer:
    """A consumer of assigned partitions, where `library()` is there.

    Args:
        properties: as confluent-kafka takes them; of its callbacks `error_cb` only.

    Raises:
        KafkaException: librdkafka does not accept a property.
    """

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._lib, self._kernel = library(), _kernel()
        given = dict(properties)
        self._hear: Callable[[KafkaError], object] = given.pop("error_cb", str)
        self._complaints = np.zeros(8 + self._kernel.COMPLAINTS * self._kernel.COMPLAINT_BYTES, np.uint8)
        self._messages, self._held = np.zeros(MOST_MESSAGES, np.int64), np.zeros(1, np.int64)
        self._told = np.zeros((MOST_MESSAGES, self._kernel.COLUMNS), np.int64)
        self._client = self._made(given)
        self._queue = self._lib.rd_kafka_queue_get_consumer(self._client)

    def _made(self, properties: Mapping[str, Any]) -> int:
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        wanted = self._lib.rd_kafka_conf_new()
        self._lib.rd_kafka_conf_set_error_cb(wanted, self._kernel.note_complaint.address)
        self._lib.rd_kafka_conf_set_opaque(wanted, self._complaints.ctypes.data)
        for name, value in properties.items():
            plain = str(value).lower() if isinstance(value, bool) else str(value)
            if self._lib.rd_kafka_conf_set(wanted, name.encode(), plain.encode(), text, _TEXT_BYTES):
                self._lib.rd_kafka_conf_destroy(wanted)
                raise KafkaException(KafkaError(KafkaError._INVALID_ARG, _text(text.value)))
        made = self._lib.rd_kafka_new(CONSUMER, wanted, text, _TEXT_BYTES)
        if not made:
            self._lib.rd_kafka_conf_destroy(wanted)
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, _text(text.value)))
        if code := self._lib.rd_kafka_poll_set_consumer(made):  # there is no group.id
            self._lib.rd_kafka_destroy(made)
            raise_code(code)
        return int(made)

    def consume(self, count: int, timeout_s: float) -> CompiledBatch | None:
        if not self._held[0]:
            self._take(1, timeout_s)
        more = min(count, MOST_MESSAGES) - int(self._held[0])
        if self._held[0] and more > 0:
            self._take(more, GATHER_S)
        return CompiledBatch(self._messages, self._held, self._told) if self._held[0] else None

    def _take(self, count: int, timeout_s: float) -> None:
        consume = address_of("rd_kafka_consume_batch_queue")
        messages, held = self._messages.ctypes.data, self._held.ctypes.data
        self._kernel.take(messages, held, count, self._queue, int(timeout_s * 1000), consume)
        self._pass_on_complaints()

    def _pass_on_complaints(self) -> None:
        head = self._complaints[:8].view(np.int64)
        count = int(head[0])
        head[0] = 0
        entries = self._complaints[8:].reshape(self._kernel.COMPLAINTS, -1)
        for entry in entries[: min(count, len(entries))]:
            text = entry[8:].tobytes().split(b"\0", 1)[0]
            self._hear(KafkaError(int(entry[:8].view(np.int64)[0]), _text(text)))

    def incremental_assign(self, places: Sequence[TopicPartition]) -> None:
        with self._listed(places) as listed:
            raise_error(self._lib.rd_kafka_incremental_assign(self._client, listed))

    def incremental_unassign(self, places: Sequence[TopicPartition]) -> None:
        with self._listed(places) as listed:
            raise_error(self._lib.rd_kafka_incremental_unassign(self._client, listed))

    def pause(self, places: Sequence[TopicPartition]) -> None:
        with self._listed(places) as listed:
            raise_code(self._lib.rd_kafka_pause_partitions(self._client, listed))

    def close(self) -> None:
        client, self._client = self._client, 0
        if client:
            messages, held = self._messages.ctypes.data, self._held.ctypes.data
            self._kernel.let_go(messages, held, address_of("rd_kafka_message_destroy"))
            self._lib.rd_kafka_queue_destroy(self._queue)
            self._lib.rd_kafka_consumer_close(client)
            self._lib.rd_kafka_destroy(client)

    @contextmanager
    def _listed(self, places: Sequence[TopicPartition]) -> Iterator[int]:
        listed = self._lib.rd_kafka_topic_partition_list_new(len(places))
        try:
            for place in places:
                added = self._lib.rd_kafka_topic_partition_list_add(listed, place.topic.encode(), place.partition)
                raise_code(
                    self._lib.rd_kafka_topic_partition_list_set_offset(
                        listed, place.topic.encode(), place.partition, place.offset
                    )
                )
                if place.leader_epoch is not None:
                    self._lib.rd_kafka_topic_partition_set_leader_epoch(added, place.leader_epoch)
            yield listed
        finally:
            self._lib.rd_kafka_topic_partition_list_destroy(listed)


def _text(said: bytes | None) -> str:
    return (said or b"").decode("utf-8", "replace")


@functools.cache
def _kernel() -> ModuleType:
    """The kernel; its import takes a second, and compiling it some more where that has not been kept."""
    from efd_pipelines.kafka import consumer_kernel

    make_ready(consumer_kernel.ENTRIES)
    return consumer_kernel
