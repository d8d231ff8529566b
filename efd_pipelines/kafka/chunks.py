"""Chunks: what reading a backlog gives, and the buffers in which it collects.

`Read` is everything that a reading may say: frames with the positions that they move, and what could not be
read. Who reads: `backlog.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from confluent_kafka import TopicPartition

from efd_pipelines.kafka.consumers import Batch
from efd_pipelines.kafka.frames import FrameBatch

# What a buffered record costs beside its bytes: their ends, offset, time stamp and partition. And what records that
# were read together do: their columns.
_RECORD_BYTES = 36
_BATCH_BYTES = 1500
_GUESSED_RECORD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset to read, and the leader epoch of what was read before it (None: not known)."""

    offset: int
    leader_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames of one topic, possibly none, and the new position of each partition that moved since the last chunk."""

    frames: FrameBatch
    positions: dict[int, Position]


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that Kafka no longer has or cannot read, from `first` to before `end`; reading goes on at `end`.

    It is given before the chunk whose position passes it.
    """

    topic: str
    partition: int
    first: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """A partition whose log ends before the position, or has another history up to it. It is not read.

    `end` is the offset up to which the log agrees, or the log's end.
    """

    topic: str
    partition: int
    position: int
    end: int


@dataclass(frozen=True, slots=True)
class TopicGone:
    """A topic that was deleted, or deleted and created again, while or before it was read. It is not read further."""

    topic: str
    reason: str


@dataclass(frozen=True, slots=True)
class TopicRefused:
    """A topic, or one partition of it, that the brokers do not let us read, or cannot give. It is not read further."""

    topic: str
    reason: str
    remedy: str = "Ask for the right to read the topic (ACL of this user)."


Read = Chunk | Gap | Truncated | TopicGone | TopicRefused


@dataclass(slots=True, eq=False)
class PartitionReading:
    """How far one partition has been read.

    `told` is the offset of the last position that was given out, `stuck` that what stands at `offset` cannot be read
    and must be settled first, `attempts` how often that was tried at `attempted_at`. `time_ms` is the last record's,
    `run_bytes` what has been read since it was taken up, `is_aside` that others of its topic come first.
    """

    buffer: TopicBuffer
    partition: int
    offset: int
    epoch: int | None
    end: int
    told: int
    done: bool = False
    stuck: bool = False
    attempts: int = 0
    attempted_at: int = -1
    time_ms: int = -1
    run_bytes: int = 0
    is_aside: bool = False

    @classmethod
    def starting(cls, buffer: TopicBuffer, partition: int, position: Position, end: int) -> PartitionReading:
        return cls(buffer, partition, position.offset, position.leader_epoch, end, told=position.offset)

    @property
    def position(self) -> Position:
        return Position(self.offset, self.epoch)

    def left_bytes(self, most: int) -> int:
        """What is left to read, by the offsets and the topic's records so far; not more than `most`."""
        return min(most, (self.end - self.offset) * self.buffer.record_bytes)

    @property
    def place(self) -> TopicPartition:
        if self.epoch is None:
            return TopicPartition(self.buffer.topic, self.partition, self.offset)
        return TopicPartition(self.buffer.topic, self.partition, self.offset, leader_epoch=self.epoch)


@dataclass(slots=True, eq=False)
class TopicBuffer:
    """Records of one topic that have been read and not yet given out; those of the first `confirmed` batches are
    surely the topic's."""

    topic: str
    topic_id: str = ""
    states: list[PartitionReading] = field(default_factory=list)
    batches: list[FrameBatch] = field(default_factory=list)
    size_bytes: int = 0
    records: int = 0
    read_bytes: int = 0
    is_left: bool = False
    confirmed: int = 0
    confirmed_positions: dict[int, Position] = field(default_factory=dict)

    @property
    def has_news(self) -> bool:
        """Whether there is something to give out."""
        return bool(self.batches) or any(state.offset != state.told for state in self.states)

    @property
    def is_unconfirmed(self) -> bool:
        return any(self.confirmed_positions.get(state.partition) != state.position for state in self.states)

    @property
    def is_done(self) -> bool:
        return all(state.done for state in self.states)

    def keep(self, state: PartitionReading, batch: Batch, begin: int, end: int) -> int:
        """Adds records that come next in a partition; how many bytes they take."""
        frames = batch.frames(begin, end)
        size_bytes = _held_bytes(frames)
        self.batches.append(frames)
        state.offset = int(frames.offsets[-1]) + 1
        state.epoch = batch.epoch(end - 1)
        state.time_ms = int(frames.timestamps_ms[-1])
        state.run_bytes += size_bytes
        self.size_bytes += size_bytes
        self.records += len(frames)
        self.read_bytes += size_bytes
        return size_bytes

    @property
    def record_bytes(self) -> int:
        """What a record of the topic takes, by those that have been read."""
        return self.read_bytes // self.records if self.records else _GUESSED_RECORD_BYTES

    def confirm(self) -> None:
        """What has been read so far is the topic's that we know."""
        self.confirmed = len(self.batches)
        self.confirmed_positions = {state.partition: state.position for state in self.states}

    def cut_unconfirmed(self) -> int:
        """Forget what may be another topic's: it counts as not read. The bytes that this frees."""
        cut = sum(map(_held_bytes, self.batches[self.confirmed :]))
        del self.batches[self.confirmed :]
        for state in self.states:
            known = self.confirmed_positions.get(state.partition)
            state.offset, state.epoch = (known.offset, known.leader_epoch) if known else (state.told, None)
        self.size_bytes -= cut
        return cut

    def emptied(self) -> Chunk:
        """All of it as a chunk; the buffer is empty afterwards."""
        moved = {state.partition: state.position for state in self.states if state.offset != state.told}
        frames = FrameBatch.joined(self.topic, self.batches)
        for state in self.states:
            state.told = state.offset
        self.batches.clear()
        self.size_bytes = self.confirmed = 0
        return Chunk(frames, moved)


def _held_bytes(frames: FrameBatch) -> int:
    return frames.size_bytes + _RECORD_BYTES * len(frames) + _BATCH_BYTES
