"""What a request means, and what cannot be meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest

from efd_pipelines.errors import NameRejected, UnknownDataset, UsageError
from efd_pipelines.exports.request import Request
from efd_pipelines.exports.selection import Selection, select
from efd_pipelines_tests.unit.exports.builders import (
    FORCES,
    PRIVATE,
    TEMPERATURE,
    ArchiveBuilder,
    at,
    column,
    messages,
    seconds,
)

FORCE_COLUMNS = [*PRIVATE, *(column(f"zForce{n}", pa.float32(), "N", field="zForce", element=n) for n in range(4))]


def selected(
    builder: ArchiveBuilder, topics: Any, fields: list[str] | None = None, tier: str = "raw"
) -> list[Selection]:
    return select(builder.archive, Request.of(topics, at(0), at(60), fields, tier))


def names(selection: Selection) -> list[str]:
    return list(selection.schema.names)


@pytest.fixture
def two(builder: ArchiveBuilder) -> ArchiveBuilder:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    builder.add(FORCES, messages(seconds(0, 5), columns=FORCE_COLUMNS))
    return builder


def test_times_without_a_zone_are_utc_and_others_are_converted() -> None:
    chile = timezone(timedelta(hours=-3))
    request = Request.of("a.b", datetime(2026, 11, 16), datetime(2026, 11, 16, 9, tzinfo=chile), None, "raw")
    assert (request.start, request.end) == (
        datetime(2026, 11, 16, tzinfo=UTC),
        datetime(2026, 11, 16, 12, tzinfo=UTC),
    )
    assert Request.of("a.b", "2026-11-16", "2026-11-17", None, "raw").start == request.start


@pytest.mark.parametrize(
    "wrong",
    [
        {"end": "2026-11-15"},
        {"end": "2026-11-16"},
        {"start": "yesterday"},
        {"topics": []},
        {"fields": []},
        {"tier": "2s"},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    right = {"topics": ["a.b"], "start": "2026-11-16", "end": "2026-11-17", "fields": None, "tier": "raw"}
    with pytest.raises(UsageError):
        Request.of(**(right | wrong))


def test_all_fields_are_the_messages_and_not_the_systems(two: ArchiveBuilder) -> None:
    (forces,) = selected(two, FORCES)
    assert names(forces) == ["time", *(one.name for one in FORCE_COLUMNS)]


def test_a_field_is_its_column_its_elements_or_a_glob(two: ArchiveBuilder) -> None:
    assert names(selected(two, FORCES, ["zForce2"])[0]) == ["time", "zForce2"]
    assert names(selected(two, FORCES, ["zForce"])[0]) == ["time", "zForce0", "zForce1", "zForce2", "zForce3"]
    assert names(selected(two, FORCES, ["*seq*", "*Num"])[0]) == ["time", "private_seqNum"]


def test_columns_of_the_system_are_there_when_asked_for(two: ArchiveBuilder) -> None:
    assert names(selected(two, FORCES, ["kafka_offset"])[0]) == ["time", "kafka_offset"]


def test_the_device_is_always_told(two: ArchiveBuilder) -> None:
    assert names(selected(two, TEMPERATURE, ["temperatureItem1"])[0]) == ["time", "salIndex", "temperatureItem1"]


def test_a_glob_names_all_that_match_and_leaves_out_those_without_the_fields(two: ArchiveBuilder) -> None:
    assert [one.dataset.text for one in selected(two, "lsst.sal.*")] == [TEMPERATURE, FORCES]
    assert [one.dataset.text for one in selected(two, "lsst.sal.*", ["zForce"])] == [FORCES]


def test_a_topic_named_without_any_of_the_fields_is_an_error(two: ArchiveBuilder) -> None:
    with pytest.raises(UsageError, match=f"{TEMPERATURE} has none of the fields zForce"):
        selected(two, [FORCES, TEMPERATURE], ["zForce"])


def test_what_is_unknown_is_answered_with_the_nearest(two: ArchiveBuilder) -> None:
    with pytest.raises(UnknownDataset, match=FORCES):
        selected(two, "lsst.sal.MTM1M3.forceActuatorDate")
    with pytest.raises(UnknownDataset, match="No dataset of the archive matches"):
        selected(two, "lsst.dm.*")
    with pytest.raises(UsageError, match="did you mean zForce"):
        selected(two, FORCES, ["zforce1"])
    with pytest.raises(NameRejected):
        selected(two, "forces; drop table")


def test_an_archive_that_is_not_there_is_told_with_its_address(builder: ArchiveBuilder) -> None:
    with pytest.raises(UnknownDataset, match=builder.root):
        selected(builder, FORCES)


def test_topics_that_a_tier_does_not_summarise_come_from_the_archive(two: ArchiveBuilder) -> None:
    event = "lsst.sal.MTM1M3.logevent_heartbeat"
    two.add(event, messages(seconds(0, 5), columns=PRIVATE))
    two.add(FORCES, messages(seconds(0, 5), columns=FORCE_COLUMNS), table="1s")
    tables = {one.dataset.text: one.table for one in selected(two, [event, FORCES], tier="1s")}
    assert tables == {event: "raw", FORCES: "1s"}


def test_a_tier_that_was_not_built_is_an_error_that_says_how(two: ArchiveBuilder) -> None:
    with pytest.raises(UnknownDataset, match="efd tiers run MTM1M3"):
        selected(two, FORCES, tier="1s")


def test_the_digest_of_inputs_tells_the_files_of_the_range_only(two: ArchiveBuilder) -> None:
    (before,) = selected(two, TEMPERATURE)
    two.add(TEMPERATURE, messages(seconds(100_000, 100_005), first_seq=50))
    (later,) = selected(two, TEMPERATURE)
    two.add(TEMPERATURE, messages(seconds(10, 15), first_seq=90))
    (within,) = selected(two, TEMPERATURE)
    assert before.inputs == later.inputs != within.inputs
