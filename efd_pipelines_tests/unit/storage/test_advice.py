"""Advice: what records are made of, how long components are enabled, what schemas promise."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.configuration import load_configuration
from efd_pipelines.settings import load_settings
from efd_pipelines.storage.advice import Change, TopicAdvice, advice_section, advise
from efd_pipelines.storage.contents import contents
from efd_pipelines.storage.enabled import enabled_shares, share_of
from efd_pipelines.storage.estimates import estimates, message_bytes
from efd_pipelines.storage.throughput import measure
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import parse_schema
from efd_pipelines_tests.unit.storage.records import SCHEMA, SUMMARY_STATE, archived

WEEK = Week.parse("2026-11-02")
DATASET = Dataset.parse("lsst.sal.MTM1M3.made")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(load_settings({}, None, archive=str(tmp_path / "archive")))


def records(count: int) -> list[dict[str, Any]]:
    """Messages every second: `drifts` changes always, `steady` never, `steps` at every tenth; `exact` is a float."""
    random = np.random.default_rng(1)
    return [
        {
            "private_efdStamp": WEEK.start_us / 1e6 + n,
            "drifts": [float(value) for value in random.normal(size=3)],
            "steady": 7.25,
            "steps": n // 10,
            "exact": float(np.float32(random.normal())),
            "name": "a" * (n % 5),
        }
        for n in range(count)
    ]


def test_bytes_by_field_add_up_to_what_avro_writes(archive: Archive) -> None:
    rows = records(500)
    archived(archive, DATASET, SCHEMA, rows)
    found = contents(archive, DATASET, [WEEK.key])
    assert found is not None
    schema, written = fastavro.parse_schema(json.loads(SCHEMA)), io.BytesIO()
    for row in rows:
        fastavro.schemaless_writer(written, schema, row)
    assert found.avro_bytes * len(rows) == pytest.approx(len(written.getvalue()) + 5 * len(rows), rel=0.02)


def test_what_does_not_change_and_what_a_float_would_hold_is_found(archive: Archive) -> None:
    archived(archive, DATASET, SCHEMA, records(500))
    found = contents(archive, DATASET, [WEEK.key])
    assert found is not None
    by_name = {field.name: field for field in found.fields}
    assert (by_name["steady"].is_constant, by_name["steps"].is_constant) == (True, False)
    assert by_name["steps"].unchanged == pytest.approx(0.9, abs=0.01)
    assert (by_name["exact"].narrower_bytes, by_name["drifts"].narrower_bytes) == (4.0, 0.0)
    assert found.repeated == 0.0


def test_messages_that_repeat_are_counted_within_an_index(archive: Archive) -> None:
    rows = [row | {"drifts": [1.0, 2.0, 3.0], "exact": 0.5, "name": "", "steps": n // 4} for n, row in
            enumerate(records(400))]  # fmt: skip
    archived(archive, DATASET, SCHEMA, rows)
    found = contents(archive, DATASET, [WEEK.key])
    assert found is not None
    assert found.repeated == pytest.approx(0.75, abs=0.01)


def test_advice_is_ranked_by_what_it_saves_and_says_why(archive: Archive) -> None:
    archived(archive, DATASET, SCHEMA, records(500))
    report = measure(archive, WEEK)
    advice = advise(archive, report)
    (topic,) = advice.topics
    size = report.total("avro_mb") * 1e6
    assert topic.message_bytes == pytest.approx(size / 500)
    assert topic.tb_year == pytest.approx(size * 365.25 / 7 / 1e12)
    assert [change.tb_year for change in advice.changes] == sorted((c.tb_year for c in advice.changes), reverse=True)
    steady = next(change for change in advice.changes if change.kind == "constant fields")
    assert "steady" in steady.what
    assert steady.tb_year == pytest.approx(topic.tb_year * 8 / topic.message_bytes, rel=0.05)
    section = advice_section(advice)
    assert section is not None
    assert len(section.rows) == len(advice.changes)


def test_a_component_is_enabled_from_one_state_to_the_next() -> None:
    times = np.array([-5, 10, 30, 90], np.int64)
    states = np.array([2, 3, 2, 1])
    assert share_of(times, states, 0, 100) == pytest.approx((10 + 60) / 100)
    assert share_of(times[:0], states[:0], 0, 100) == 0


def test_the_state_before_the_week_counts_and_indices_are_a_mean(archive: Archive) -> None:
    dataset = Dataset.parse("lsst.sal.MTHexapod.logevent_summaryState")
    start_s = WEEK.start_us / 1e6
    rows = [
        {"private_efdStamp": start_s - 3600, "salIndex": 1, "summaryState": 2},
        {"private_efdStamp": start_s + 3.5 * 86400, "salIndex": 1, "summaryState": 1},
        {"private_efdStamp": start_s + 1, "salIndex": 2, "summaryState": 5},
    ]
    archived(archive, dataset, SUMMARY_STATE, rows)
    assert enabled_shares(archive, ["MTHexapod", "MTM2"], WEEK, WEEK) == {"MTHexapod": pytest.approx(0.25)}


def test_an_estimate_is_message_times_declared_rate_for_what_was_never_seen() -> None:
    configuration = load_configuration()
    rotator = Dataset.parse("lsst.sal.MTRotator.rotation")
    found = estimates([(rotator, SCHEMA), (DATASET, SCHEMA)], configuration, {DATASET.text}, enabled=0.5)
    size = message_bytes(parse_schema(SCHEMA))
    assert size == 5 + 8 + (3 * 8 + 3) + 8 + 4 + 8 + 12
    (one,) = found
    assert (one.topic, one.rate_hz) == (rotator.text, 10)
    assert one.tb_year == pytest.approx(size * 10 * 0.5 * 365.25 * 86400 / 1e12)


def test_advice_is_json() -> None:
    topic = TopicAdvice("lsst.sal.A.b", "A", 100.0, 2.0, None, 0.5, None)
    change = Change("lsst.sal.A.b", "halve the rate", "send less", "because", 0.25)
    assert (topic.to_json()["enabled_share"], change.to_json()["saves_tb_year"]) == (None, 0.25)
