"""The backlog: all records of many topics from given positions to given ends, in chunks of bounded size.

One consumer is assigned partitions at explicit offsets; group offsets are neither read nor written, because
positions are the archive's and move with its commits. Topics with much to read are taken a few at a time: all at
once, 500 of them would share the memory and come in chunks, that is files, of 100 kB. Offsets are sparse (transaction
markers, compaction): the end of a partition is an end offset or Kafka's end-of-partition event, never a count. What
cannot be read is said as a value among the chunks and stops nothing else. The values and buffers: `chunks.py`. Which
partitions wait for others: `pacing.py`. What a topic is and has: `brokers.py`.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from efd_pipelines.errors import KafkaUnavailable
from efd_pipelines.kafka import pacing
from efd_pipelines.kafka.brokers import Brokers, Watermarks
from efd_pipelines.kafka.chunks import (
    Chunk,
    Gap,
    PartitionReading,
    Position,
    Read,
    TopicBuffer,
    TopicGone,
    TopicRefused,
    Truncated,
)
from efd_pipelines.kafka.connection import Complaints, client_properties, connect, unavailable
from efd_pipelines.kafka.consumers import MOST_MESSAGES, Batch, Consumer, make_consumer
from efd_pipelines.settings import Settings

__all__ = ["Chunk", "Gap", "Position", "Read", "TopicGone", "TopicRefused", "Truncated", "read_backlog"]

Answer = TypeVar("Answer")

_CONSUME_BYTES = 4 * 1024 * 1024
_POLL_S = 0.2
_CONFIRM_EVERY_S = 2.0
_CONFIRM_TIMEOUT_S = 3.0
_ATTEMPTS = 4
# How much may be left to read of the topics that are open, in byte budgets, and how many partitions always may be.
_OPEN_BUDGETS = 4
_OPEN_PARTITIONS = 8

_TUNING = {
    # The queue may be overshot by one answer of each broker: together at most 32 MiB with three brokers.
    "queued.max.messages.kbytes": 12 * 1024,
    "fetch.max.bytes": 6 * 1024 * 1024,
    "fetch.message.max.bytes": 1024 * 1024,
    "fetch.queue.backoff.ms": 5,
    "fetch.error.backoff.ms": 100,
    # How long a broker holds back an answer without records: the end of every partition waits for it.
    "fetch.wait.max.ms": 50,
    "topic.metadata.refresh.fast.interval.ms": 100,
}
_REQUIRED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "check.crcs": True,
    "max.poll.interval.ms": 86_400_000,
}
_UNREADABLE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._BAD_MSG})
_MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,  # type: ignore[attr-defined]
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
_NO_END = int(np.iinfo(np.int64).max)
_TRUNCATED = KafkaError(KafkaError._LOG_TRUNCATION).str()
_AGREED_END = re.compile(r"broker end offset is (\d+)")
_REPAIR = (
    "Look at the partition's replicas on the brokers. What cannot be repaired can be given up with "
    "kafka-delete-records.sh: the archive then notes the gap and goes on."
)


def read_backlog(
    settings: Settings,
    assignments: Mapping[str, Mapping[int, Position]],
    ends: Mapping[str, Mapping[int, int]],
    byte_budget: int | None = None,
    *,
    topic_ids: Mapping[str, str] | None = None,
) -> Iterator[Read]:
    """Read each partition from its position until `ends` or its end, whichever comes first.

    Memory is bounded by `byte_budget` (default: a chunk of the configuration's) and librdkafka's queue, at most 32 MiB.

    Args:
        assignments: positions by topic and partition.
        ends: end offsets, exclusive; a partition without one is read to its end as Kafka reports it.
        topic_ids: the topics' identities when the positions were looked up. Frames are given out only after the
            topic has been seen with that identity once more, so that those of a topic that was deleted and created
            again meanwhile never pass for the old one's.

    Raises:
        KafkaUnavailable: nothing moved for `kafka.stall_s`; what was given out before is valid.
        SettingsError: the brokers are not configured, or not acceptably.
    """
    with _Reader(settings, assignments, ends, byte_budget, topic_ids) as reader:
        yield from reader.read()


class _Reader:
    """One reading of a backlog."""

    def __init__(
        self,
        settings: Settings,
        assignments: Mapping[str, Mapping[int, Position]],
        ends: Mapping[str, Mapping[int, int]],
        byte_budget: int | None,
        topic_ids: Mapping[str, str] | None,
    ) -> None:
        self._settings = settings
        self._budget = byte_budget or settings.configuration.kafka.chunk_bytes
        self._stall_s = settings.configuration.kafka.stall_s
        self._known_ids = topic_ids
        self._complaints = Complaints()
        self._buffers: dict[str, TopicBuffer] = {}
        self._open: dict[tuple[str, int], PartitionReading] = {}
        self._waiting: deque[TopicBuffer] = deque()
        self._events: list[Gap | Truncated | TopicGone | TopicRefused] = []
        self._stuck: list[tuple[PartitionReading, KafkaError]] = []
        self._to_pause: list[TopicPartition] = []
        self._size_bytes = 0
        # Of the last that were read. Where the next are larger, librdkafka's queue bounds what comes at once.
        self._message_bytes = 1024
        self._moved_at = self._confirmed_at = time.monotonic()
        self._plan(assignments, ends)
        properties = client_properties(settings, self._complaints)
        properties = {"group.id": "efd_pipelines", **_TUNING, **properties, **_REQUIRED}
        records = sum(state.end - state.offset for buffer in self._waiting for state in buffer.states)
        self._consumer: Consumer | None = connect(lambda of: make_consumer(of, records), settings, properties)
        self._brokers = Brokers(settings, timeout_s=min(_CONFIRM_TIMEOUT_S, self._stall_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disconnect()
        self._brokers.close()

    def _plan(self, assignments: Mapping[str, Mapping[int, Position]], ends: Mapping[str, Mapping[int, int]]) -> None:
        for topic, positions in assignments.items():
            buffer = TopicBuffer(topic)
            for partition, position in positions.items():
                end = ends.get(topic, {}).get(partition, _NO_END)
                if position.offset >= end:
                    continue
                buffer.states.append(PartitionReading.starting(buffer, partition, position, int(end)))
            if buffer.states:
                self._buffers[topic] = buffer
                self._waiting.append(buffer)

    def read(self) -> Iterator[Read]:
        if not self._buffers:
            return
        self._identify()
        yield from self._told()
        self._moved_at = time.monotonic()  # the time that loading took is not the brokers'
        while self._open or self._waiting:
            self._open_more()
            self._take()
            yield from self._told()
            if self._size_bytes > self._budget:
                yield from self._given(self._largest_buffers())
        self._disconnect()
        yield from self._given([buffer for buffer in self._buffers.values() if buffer.has_news])

    def _disconnect(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _call(self, action: Callable[[Consumer], Answer]) -> Answer:
        assert self._consumer is not None
        try:
            return action(self._consumer)
        except KafkaException as exception:
            raise unavailable(self._settings, "did not let us read", exception, self._complaints) from exception

    # Taking records

    def _open_more(self) -> None:
        """Begin to read further topics, as many as fit: of the first ones, and whenever some have come to an end."""
        if not self._waiting:
            return
        left = sum(state.left_bytes(self._budget) for state in self._open.values())
        new: list[PartitionReading] = []
        while self._waiting:
            states = [state for state in self._waiting[0].states if not state.done]
            left += sum(state.left_bytes(self._budget) for state in states)
            is_much = left > _OPEN_BUDGETS * self._budget
            if is_much and len(self._open) + len(states) > _OPEN_PARTITIONS and self._open:
                break
            self._waiting.popleft()
            self._open.update({(state.buffer.topic, state.partition): state for state in states})
            new += states
        if new:
            self._call(lambda consumer: consumer.incremental_assign([state.place for state in new]))

    def _take(self) -> None:
        """Buffer the next records; note what else the brokers say."""
        count = max(1, min(MOST_MESSAGES, _CONSUME_BYTES // self._message_bytes))
        batch = self._call(lambda consumer: consumer.consume(count, _POLL_S))
        if batch is not None:
            self._moved_at = time.monotonic()
            with batch:
                self._sort_in(batch)
        else:
            self._wait()
        if self._stuck:
            self._settle_stuck()
        if time.monotonic() - self._confirmed_at > _CONFIRM_EVERY_S:
            self._confirm([buffer for buffer in self._buffers.values() if buffer.is_unconfirmed])
        if self._to_pause:
            paused, self._to_pause = self._to_pause, []
            self._call(lambda consumer: consumer.pause(paused))
        self._pace()

    def _pace(self) -> None:
        """Lays partitions aside that are far ahead of their topic's others, and goes on with those that were."""
        for topic in {topic for (topic, _), state in self._open.items() if state.run_bytes > pacing.RUN_BYTES}:
            far, near = pacing.to_change(self._buffers[topic].states)
            self._lay_aside(far)
            self._take_up(near)

    def _lay_aside(self, states: Sequence[PartitionReading]) -> None:
        if states:
            places = [TopicPartition(state.buffer.topic, state.partition) for state in states]
            self._call(lambda consumer: consumer.incremental_unassign(places))
        for state in states:
            state.is_aside = True

    def _take_up(self, states: Sequence[PartitionReading]) -> None:
        if states:
            self._call(lambda consumer: consumer.incremental_assign([state.place for state in states]))
        for state in states:
            state.is_aside, state.run_bytes = False, 0

    def _sort_in(self, batch: Batch) -> None:
        """Records of one partition after the other; nearly always they are its next ones."""
        at = 0
        while at < len(batch):
            state = self._open.get(batch.origin(at))
            if state is None or state.stuck or state.is_aside:
                at += 1  # fetched before the partition was paused, or behind something that must be settled first
                continue
            end = batch.records_end(at, state.offset, state.end)
            if end == at:
                self._sort_in_other(state, batch, at)
                at += 1
                continue
            size_bytes = state.buffer.keep(state, batch, at, end)
            self._size_bytes += size_bytes
            self._message_bytes = size_bytes // (end - at)
            at = end
            if state.offset >= state.end:
                self._finish(state, state.end)

    def _sort_in_other(self, state: PartitionReading, batch: Batch, at: int) -> None:
        """What is not a partition's next record: an error, a record behind the end, or one fetched before a seek."""
        error, offset = batch.error(at), batch.offset(at)
        if error is not None:
            self._hear(state, error, offset)
        elif offset >= state.end:
            self._finish(state, state.end)

    def _finish(self, state: PartitionReading, offset: int) -> None:
        """The partition has been read up to `offset`."""
        state.offset = max(state.offset, offset)
        self._close(state)

    def _close(self, state: PartitionReading) -> None:
        """Read no more of the partition."""
        if state.done:
            return
        state.done = True
        if self._open.pop((state.buffer.topic, state.partition), None) is not None and not state.is_aside:
            self._to_pause.append(TopicPartition(state.buffer.topic, state.partition))

    def _leave(self, buffer: TopicBuffer, why: TopicGone | TopicRefused) -> None:
        """Read no more of the topic."""
        if not buffer.is_left:
            buffer.is_left = True
            for state in buffer.states:
                self._close(state)
            self._events.append(why)

    # What is not a record

    def _hear(self, state: PartitionReading, error: KafkaError, offset: int) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            # No more committed records: the consumer's offset is past markers and aborted ones, too.
            self._finish(state, offset)
        elif code in _UNREADABLE:
            state.stuck = True
            self._stuck.append((state, error))
        elif code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._leave(state.buffer, TopicRefused(state.buffer.topic, error.str()))
        elif code in _MISSING:
            self._confirmed_at = -_CONFIRM_EVERY_S  # look at once whether it still exists
        else:
            # Whatever passes (a leader that moves, a broker that restarts) is retried by librdkafka; what does
            # not pass ends as a stall, with this as its reason.
            self._complaints(error)

    def _settle_stuck(self) -> None:
        """Partitions that cannot be read where they stand: where do they go on, if at all?"""
        stuck, self._stuck = self._stuck, []
        marks = self._patiently(lambda: self._brokers.offsets({state.buffer.topic for state, _ in stuck}))
        going_on = []
        for state, error in stuck:
            state.stuck = False
            known = marks.get(state.buffer.topic, {}).get(state.partition)
            if known is None:
                self._confirmed_at = -_CONFIRM_EVERY_S  # look at once whether the topic still exists
            elif error.code() == KafkaError._BAD_MSG or known.low <= state.offset <= known.high:
                self._settle_history(state, error, known)
            elif state.offset > known.high:
                self._truncate(state, known.high)
            else:
                why = "expired before it was read"
                self._events.append(Gap(state.buffer.topic, state.partition, state.offset, known.low, why))
                state.offset = known.low
            if not state.done:
                going_on.append(state)
        self._go_on(going_on)

    def _settle_history(self, state: PartitionReading, error: KafkaError, known: Watermarks) -> None:
        """The offset is there: with another history, or what is at it cannot be read, or a leader has moved."""
        if _TRUNCATED in error.str():
            agreed = _AGREED_END.search(error.str())
            self._truncate(state, int(agreed[1]) if agreed else min(state.offset, known.high))
            return
        if state.attempted_at != state.offset:
            state.attempted_at, state.attempts = state.offset, 0
        state.attempts += 1
        if state.attempts >= _ATTEMPTS:
            self._close(state)
            reason = f"partition {state.partition} cannot be read at offset {state.offset}: {error.str()}"
            self._events.append(TopicRefused(state.buffer.topic, reason, remedy=_REPAIR))

    def _truncate(self, state: PartitionReading, end: int) -> None:
        self._close(state)
        self._events.append(Truncated(state.buffer.topic, state.partition, state.offset, end))

    def _go_on(self, states: Iterable[PartitionReading]) -> None:
        """Read the partitions from where they now stand.

        Not by a seek, which is refused while a reset is pending; and each partition once, because librdkafka
        aborts the process when one is taken away twice.
        """
        places = [TopicPartition(state.buffer.topic, state.partition, state.offset) for state in set(states)]
        if places:
            self._call(lambda consumer: consumer.incremental_unassign(places))
            self._call(lambda consumer: consumer.incremental_assign(places))

    def _wait(self) -> None:
        """Nothing came: look after a second whether the topics are still there, give up after `stall_s`.

        Partitions that were laid aside need not wait for one of which nothing comes.
        """
        self._take_up([state for state in self._open.values() if state.is_aside])
        waited_s = time.monotonic() - self._moved_at
        if self._complaints.refuses_us or waited_s > self._stall_s:
            raise self._stalled(waited_s)
        if waited_s > 1.0 and time.monotonic() - self._confirmed_at > 1.0:
            self._confirm([buffer for buffer in self._buffers.values() if not buffer.is_done])

    def _stalled(self, waited_s: float) -> KafkaUnavailable:
        waiting = ", ".join(f"{topic}[{partition}]" for topic, partition in list(self._open)[:3])
        more = f" and {len(self._open) - 3} more" if len(self._open) > 3 else ""
        what = f"sent nothing of {waiting}{more} for {waited_s:.0f} s"
        return unavailable(self._settings, what, None, self._complaints)

    # Whose records they are

    def _identify(self) -> None:
        """Note the topics' identities, before any record of them is read."""
        found = self._described(list(self._buffers))
        for topic, buffer in self._buffers.items():
            buffer.topic_id = (self._known_ids or {}).get(topic) or found.get(topic, "")
            self._check(buffer, found.get(topic))
        self._confirmed_at = time.monotonic()

    def _confirm(self, buffers: Sequence[TopicBuffer]) -> None:
        """See that the topics are still the ones that we know: then what has been read so far is theirs."""
        found = self._described([buffer.topic for buffer in buffers if not buffer.is_left])
        for buffer in buffers:
            if not buffer.is_left and self._check(buffer, found.get(buffer.topic)):
                buffer.confirm()
        self._confirmed_at = time.monotonic()

    def _check(self, buffer: TopicBuffer, found: str | None) -> bool:
        if found is None:
            self._leave(buffer, TopicGone(buffer.topic, "it was deleted, or may not be seen by this user"))
        elif found != buffer.topic_id:
            # Frames since the last look may be the new topic's: they count as not read.
            self._size_bytes -= buffer.cut_unconfirmed()
            self._leave(buffer, TopicGone(buffer.topic, "it was deleted and created again"))
        return found == buffer.topic_id

    def _described(self, topics: Sequence[str]) -> dict[str, str]:
        """Topic ids of those that exist. A broker that has just started may not know all of its topics yet."""
        found = self._patiently(lambda: self._brokers.describe(topics))
        missing = [topic for topic in topics if topic not in found]
        if missing:
            time.sleep(1.0)
            found |= self._patiently(lambda: self._brokers.describe(missing))
        return {topic: info.topic_id for topic, info in found.items()}

    def _patiently(self, question: Callable[[], Answer]) -> Answer:
        """The brokers' answer, also when they are restarting."""
        began = time.monotonic()
        while True:
            try:
                return question()
            except KafkaUnavailable:
                if time.monotonic() - began > self._stall_s:
                    raise
                time.sleep(0.2)

    # Giving out

    def _told(self) -> Iterator[Read]:
        """What was noted: gaps at once, what ends a topic after its records."""
        while self._events:
            event = self._events.pop(0)
            if not isinstance(event, Gap) and self._buffers[event.topic].has_news:
                yield from self._given([self._buffers[event.topic]])
            yield event

    def _largest_buffers(self) -> list[TopicBuffer]:
        """As few as possible, so that what stays is half of the budget at most."""
        chosen, left = [], self._size_bytes
        # What is complete will not grow any more.
        for buffer in sorted(self._buffers.values(), key=lambda buffer: (not buffer.is_done, -buffer.size_bytes)):
            if left <= self._budget // 2:
                break
            chosen.append(buffer)
            left -= buffer.size_bytes
        return chosen

    def _given(self, buffers: Sequence[TopicBuffer]) -> Iterator[Read]:
        self._confirm(buffers)
        for buffer in buffers:
            if buffer.has_news:
                self._size_bytes -= buffer.size_bytes
                yield buffer.emptied()
        yield from self._told()
        self._moved_at = time.monotonic()  # the time that others took is not the brokers'
