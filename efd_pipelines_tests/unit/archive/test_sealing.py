"""Sealing: a week that is over is closed and certified, and whatever touches it afterwards shows."""

from __future__ import annotations

import hashlib
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive import sealing
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.certificates import (
    Certificate,
    DamagedCertificate,
    certified_weeks,
    is_valid,
    parse_certificate,
    path_of,
    read_certificate,
    write_certificate,
)
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.ledger_rows import LedgerRow
from efd_pipelines.archive.merging import MAX_FILES, merge
from efd_pipelines.archive.sealing import NotOver, SealResult, seal, unsealed_weeks
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.archive.status import status
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week, from_microseconds
from efd_pipelines_tests.unit.archive.builders import SOURCE, Topic, schema_of

HOURS = 168 if os.environ.get("EFD_TEST_SCALE") else 2
DRAINS = 30
"""Of an hour: the fast class is read every two minutes, and merged every ten."""
WEEK = Week.parse("2026-11-16")
AFTER = WEEK.next().start + timedelta(hours=24)
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
OLD = schema_of("x", ("count", "int"), ("text", "string"))
NEW = schema_of("x", ("level", "double"), ("count", "long"), doc="newer")


def topic_of_a_week(root: Path, batch: int = 70) -> Topic:
    """Records of each hour of the week, in batches; in its middle the schema changes, and a type grows."""
    topic = Topic(Archive(load_settings({}, None, archive=str(root))))
    times = WEEK.start_us + HOUR_US * np.arange(168)
    topic.send(OLD, times[:84].tolist(), count=np.arange(84), text=["a"] * 84)
    topic.send(NEW, times[84:].tolist(), count=np.arange(84), level=np.arange(84) / 7)
    while topic.position < len(topic.values):
        topic.drain(batch)
    return topic


def late(topic: Topic, hour: int = 3) -> None:
    """A record of an hour that is long over."""
    topic.send(NEW, [WEEK.start_us + hour * HOUR_US + 1], count=[1], level=[0.5])
    topic.drain()


def sealed(topic: Topic, **options: Any) -> SealResult:
    return seal(topic.archive, topic.archive.settings, week=WEEK, now=AFTER, **options)


def certificate_of(topic: Topic) -> Certificate:
    found = read_certificate(topic.archive, topic.dataset, WEEK)
    assert found is not None
    return found


def holds(topic: Topic) -> bool:
    return is_valid(certificate_of(topic), topic.archive.snapshot(topic.dataset))


def unsealed(topic: Topic) -> list[Week]:
    return unsealed_weeks(topic.archive, topic.archive.settings, AFTER)


def is_sealed(topic: Topic) -> bool:
    (found,) = status(topic.archive)
    return found.sealed


def test_a_sealed_week_is_what_its_certificate_says(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    before = topic.archive.read(topic.dataset)
    assert unsealed(topic) == [WEEK]
    result = sealed(topic)
    assert (result.sealed, result.rows, result.files, result.problems) == (1, 168, 7, [])
    found = certificate_of(topic)
    assert (found.rows, found.seal, found.holes_count, found.repeated, found.superseded) == (168, 1, 0, 0, 0)
    assert [file.slice for file in found.files] == [f"2026-11-{day}" for day in range(16, 23)]
    for file in found.files:
        data = (Path(topic.archive.store.uri(topic.relative)) / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)
    (origin,) = found.origins
    assert (origin.source, origin.partition, origin.rows) == (SOURCE, 0, 168)
    assert (origin.first, origin.last, origin.position) == (0, 167, 168)
    assert set(found.schemas) == {OLD.token, NEW.token}
    assert (found.time_min_us, found.time_max_us) == (WEEK.start_us, WEEK.start_us + 167 * HOUR_US)
    assert holds(topic)
    assert is_sealed(topic)
    assert unsealed(topic) == []
    assert certified_weeks(topic.archive, topic.dataset) == [WEEK.key]
    assert topic.archive.read(topic.dataset).equals(before)


@pytest.mark.timeout(3600 if HOURS > 24 else 600)
def test_a_sealed_week_of_hours_has_a_file_for_each(tmp_path: Path) -> None:
    """168 of forceActuatorData, whatever it had while it grew, and never more than 16 of one hour."""
    archive = Archive(load_settings({}, None, archive=str(tmp_path)))
    topic, most, entered = Topic(archive, unit=SliceUnit.HOUR), 0, list[LedgerRow]()
    for hour in range(HOURS):
        begins = WEEK.start_us + hour * HOUR_US
        for part in range(DRAINS):
            topic.send(NEW, [begins + part * HOUR_US // DRAINS], count=[1], level=[0.5])
            entered += rows_of(RAW, topic.dataset, topic.drain(into_ledger=False))
            if part % 5 == 4:
                files = archive.snapshot(topic.dataset).files(start_us=begins, end_us=begins + HOUR_US)
                most = max(most, len(files))
                archive.ledger.append(entered)
                entered.clear()
                merge(archive, now=from_microseconds(begins + (part + 1) * HOUR_US // DRAINS))
        if hour % 24 == 23:
            archive.ledger.compact()
    result = sealed(topic)
    print(f"{HOURS} hours of {DRAINS} drains: at most {most} files of one, {result.files} when sealed")
    assert (result.problems, result.sealed, result.files, result.rows) == ([], 1, HOURS, HOURS * DRAINS)
    assert [file.slice[-3:] for file in certificate_of(topic).files[:24]] == [f"T{n % 24:02}" for n in range(HOURS)][
        :24
    ]
    assert len(archive.files(topic.dataset)) == HOURS
    assert 8 < most <= MAX_FILES


def test_sealing_again_changes_nothing(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    sealed(topic)
    version, found = topic.archive.snapshot(topic.dataset).version, certificate_of(topic)
    again = sealed(topic)
    assert (again.sealed, again.already) == (0, 1)
    assert topic.archive.snapshot(topic.dataset).version == version
    assert certificate_of(topic) == found


def test_a_week_is_sealed_a_day_after_its_end(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    just_before = AFTER - timedelta(seconds=1)
    settings = topic.archive.settings
    assert unsealed_weeks(topic.archive, settings, just_before) == []
    with pytest.raises(NotOver, match="2026-11-24 00:00 UTC"):
        seal(topic.archive, settings, week=WEEK, now=just_before)
    assert read_certificate(topic.archive, topic.dataset, WEEK) is None


def test_a_late_record_reopens_its_week(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path / "late")
    sealed(topic)
    late(topic)
    assert not holds(topic)
    assert not is_sealed(topic)
    assert unsealed(topic) == [WEEK]
    result = sealed(topic)
    assert (result.sealed, result.rows, result.merged.slices) == (1, 169, 1)
    assert certificate_of(topic).seal == 2
    assert holds(topic)
    assert is_sealed(topic)


def test_a_late_record_that_comes_while_its_week_is_sealed_is_sealed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topic_of_a_week(tmp_path)
    written = 0

    def write_and_drain(*certificate: Any) -> None:
        nonlocal written
        written += 1
        write_certificate(*certificate)
        if written == 1:
            late(topic)

    monkeypatch.setattr(sealing, "write_certificate", write_and_drain)
    assert sealed(topic).rows == 169
    assert (certificate_of(topic).seal, written) == (1, 2)
    assert holds(topic)
    assert is_sealed(topic)


def test_the_same_records_give_the_same_week_whatever_their_batches_and_order(tmp_path: Path) -> None:
    one, other, third = (topic_of_a_week(tmp_path / str(batch), batch) for batch in (70, 13, 168))
    late(one)
    sealed(one)
    sealed(other)  # sealed too soon, and again when the late record has come
    late(other)
    sealed(other)
    late(third)
    sealed(third)
    assert certificate_of(one).files == certificate_of(other).files == certificate_of(third).files


def test_all_files_of_a_sealed_week_have_the_newest_schemas_columns(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    sealed(topic)
    schemas = [pq.read_schema(file.uri) for file in topic.archive.snapshot(topic.dataset).files()]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert schemas[0].names[:1] == ["time"]
    assert schemas[0].names[7:10] == ["level", "count", "text"]
    assert schemas[0].field("count").type == pa.int64()


def test_a_sealed_week_without_its_replaced_files_is_a_plain_directory(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path / "archive")
    sealed(topic)
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in topic.archive.snapshot(topic.dataset).files():
        shutil.copy(file.uri, plain)
    expected = topic.archive.read(topic.dataset, ["count"])["count"].to_pylist()
    with duckdb.connect() as connection:
        duck = connection.sql(f"SELECT count FROM read_parquet('{plain}/*.parquet') ORDER BY time").to_arrow_table()
    assert duck["count"].to_pylist() == expected
    assert pd.read_parquet(plain).sort_values("time")["count"].tolist() == expected
    assert ds.dataset(plain).to_table().sort_by("time")["count"].to_pylist() == expected
    assert pl.scan_parquet(f"{plain}/*.parquet").sort("time").collect()["count"].to_list() == expected


def test_numbers_that_no_row_has_are_in_the_certificate(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    topic.send(NEW, [WEEK.start_us + 167 * HOUR_US + SECOND_US], count=[1], level=[0.5])
    topic.values[-1] = b"no frame"  # among the dead
    topic.send(NEW, [WEEK.start_us + 167 * HOUR_US + 2 * SECOND_US], count=[1], level=[0.5])
    topic.drain()
    sealed(topic)
    found = certificate_of(topic)
    assert (found.holes_count, found.numbers_missing) == (1, 1)
    assert (found.holes[0]["first"], found.holes[0]["end"]) == (169, 170)


def test_records_that_were_delivered_twice_are_kept_and_counted(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    mirror = Topic(topic.archive, schemas=topic.schemas, source="mirror/topic")
    mirror.values, mirror.stamps_ms = topic.values[:30], topic.stamps_ms[:30]
    mirror.drain()
    sealed(topic)
    found = certificate_of(topic)
    assert (found.rows, found.repeated, found.holes_count) == (198, 30, 0)
    assert [(origin.source, origin.rows) for origin in found.origins] == [(SOURCE, 168), ("mirror/topic", 30)]


def test_rows_of_history_that_were_left_out_are_counted_for_ever(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    snapshot = topic.archive.snapshot(topic.dataset)
    first = snapshot.files()[0]
    rows = pq.read_table(first.uri, partitioning=None).slice(0, 5)
    history = rows.set_column(
        rows.schema.get_field_index("archive_source"), "archive_source", pa.array(["influx:efd"] * 5)
    ).cast(rows.schema)
    made = commit(
        topic.archive.store,
        topic.relative,
        snapshot,
        add=[write_data_file(topic.archive.store, topic.relative, WEEK.key, first.slice, history)],
        transactions={"fill": (None, 1)},
        schema=rows.schema,
        note={"kind": "fill"},
    )
    topic.archive.ledger.append(rows_of(RAW, topic.dataset, made))
    sealed(topic)
    assert (certificate_of(topic).rows, certificate_of(topic).superseded) == (168, 5)
    late(topic)
    sealed(topic)
    assert (certificate_of(topic).rows, certificate_of(topic).superseded) == (169, 5)


def test_a_week_with_a_damaged_file_is_not_sealed(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    path = Path(topic.archive.snapshot(topic.dataset).files()[2].uri)
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    result = sealed(topic)
    assert result.sealed == 0
    assert "is not what was written" in result.problems[0].detail
    assert read_certificate(topic.archive, topic.dataset, WEEK) is None
    assert unsealed(topic) == [WEEK]


def test_a_week_in_which_a_record_stands_twice_is_not_sealed(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    snapshot = open_table(topic.archive.store, topic.relative)
    assert snapshot is not None
    rows = pq.read_table(snapshot.files()[0].uri, partitioning=None).slice(0, 1)
    made = commit(
        topic.archive.store,
        topic.relative,
        snapshot,
        add=[write_data_file(topic.archive.store, topic.relative, WEEK.key, "2026-11-16", rows)],
        transactions={},
        schema=rows.schema,
        note={"kind": "drain"},
    )
    topic.archive.ledger.append(rows_of(RAW, topic.dataset, made))
    assert "has a record twice" in sealed(topic).problems[0].detail


def test_a_writer_that_is_killed_after_the_certificate_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topic_of_a_week(tmp_path)

    def die(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sealing, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            sealed(topic)
    assert not holds(topic)
    assert unsealed(topic) == [WEEK]
    assert sealed(topic).sealed == 1
    assert holds(topic)


def test_a_certificate_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    sealed(topic)
    topic.archive.store.write_bytes(path_of(topic.relative, WEEK), b"{")
    with pytest.raises(DamagedCertificate):
        certificate_of(topic)
    assert sealed(topic).sealed == 1
    assert holds(topic)


def test_a_certificate_survives_being_written(tmp_path: Path) -> None:
    topic = topic_of_a_week(tmp_path)
    sealed(topic)
    found = certificate_of(topic)
    assert parse_certificate(found.to_json()) == found
