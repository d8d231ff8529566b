"""Verification: raw records stay where a coarser window is missing, or says something else, or cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.certificates import path_of
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.tables import commit
from efd_pipelines.retention.comparison import different
from efd_pipelines.retention.enforce import enforce
from efd_pipelines.retention.plan import plan
from efd_pipelines.retention.policy import read_policy
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.retention.builders import (
    FAST,
    an_archive_of,
    archived,
    certified,
    records,
    summarised,
    weeks_from,
    weeks_there,
)
from efd_pipelines_tests.unit.tiers.builders import an_archive

WEEKS = weeks_from(Week.parse("2024-01-01"), 2)
HURT, OTHER = (week.key for week in WEEKS)
NOW = datetime(2024, 3, 1, tzinfo=UTC)
SUMMIT = read_policy("summit")

Change = Callable[[pa.Table], pa.Table]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return an_archive_of(tmp_path / "archive", WEEKS)


def rewritten(archive: Archive, tier: str, change: Change) -> None:
    """The first file of the first week with other rows, in a commit that is in order."""
    snapshot = archive.snapshot(FAST, tier)
    file = snapshot.files({HURT})[0]
    rows = change(pq.read_table(file.uri, partitioning=None))
    new = write_data_file(archive.store, snapshot.relative, file.week, file.slice, rows)
    made = commit(
        archive.store,
        snapshot.relative,
        snapshot,
        add=[new],
        remove=[file],
        transactions={},
        schema=snapshot.schema,
        note={"kind": "tier", "run": "test"},
    )
    archive.ledger.append(rows_of(tier, FAST, made))


def without_first(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


def with_one_more(rows: pa.Table) -> pa.Table:
    last = rows.slice(rows.num_rows - 1)
    later = pc.add(last["time"].cast(pa.int64()), 3_540_000_000).cast(rows.schema.field("time").type)
    return pa.concat_tables([rows, last.set_column(0, rows.schema.field("time"), later)])


def changed(name: str) -> Change:
    """One value of a column a little larger."""

    def change(rows: pa.Table) -> pa.Table:
        values = rows[name].to_numpy().copy()
        values[0] += np.array(1e-3).astype(values.dtype) if values.dtype.kind == "f" else 1
        place = rows.schema.get_field_index(name)
        return rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))

    return change


def refused(archive: Archive) -> str:
    """Why the first week stays, after an attempt to let it go; the other one goes."""
    done = enforce(archive, policy=SUMMIT, now=NOW)
    assert weeks_there(archive, FAST) == {HURT}
    assert {one.week.key for one in done.gone} == {OTHER}
    (refusal,) = done.refused
    assert (refusal.one.level, refusal.one.week.key) == (RAW, HURT)
    assert refusal.remedy
    return f"{refusal.kind}: {refusal.detail}"


@pytest.mark.parametrize("tier", list(TIERS))
def test_with_one_window_removed_the_raw_week_stays(archive: Archive, tier: str) -> None:
    rewritten(archive, tier, without_first)
    assert [one.kind for one in plan(archive, policy=SUMMIT, now=NOW).refused] == ["uncovered"]
    said = refused(archive)
    # The only window of an hour: then the tier has nothing of the week.
    assert "1 windows are not there, the first at 2024-01-02 05:" in said or "has nothing of this week" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("count"), "records, not"),
        (changed("median_force"), "median_force of the window at 2024-01-02 05:59:58 of salIndex 1"),
        (changed("max_count_of"), "max_count_of"),
        (changed("first_private_seqNum"), "first_private_seqNum"),
        (with_one_more, "have no records"),
        (lambda rows: rows.drop_columns(["mean_force"]), "mean_force"),
    ],
)
def test_with_one_window_that_is_wrong_the_raw_week_stays(archive: Archive, change: Change, words: str) -> None:
    rewritten(archive, "1s", change)
    assert words in refused(archive)


def test_with_bytes_that_changed_the_raw_week_stays(archive: Archive) -> None:
    path = Path(archive.snapshot(FAST, "1s").files({HURT})[0].uri)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refused(archive).startswith("damaged: ")


def test_with_a_file_that_is_gone_the_raw_week_stays(archive: Archive) -> None:
    Path(archive.snapshot(FAST, "1m").files({HURT})[0].uri).unlink()
    assert "is not in the store" in refused(archive)


def test_with_raw_records_that_changed_the_raw_week_stays(archive: Archive) -> None:
    path = Path(archive.snapshot(FAST).files({HURT})[0].uri)
    data = bytearray(path.read_bytes())
    data[100] ^= 255
    path.write_bytes(data)
    assert refused(archive)


def test_a_week_that_was_touched_since_it_was_sealed_stays(archive: Archive) -> None:
    archived(archive, FAST, records(WEEKS[:1], first_offset=10_000, hour=50))
    assert "unsealed: " in refused(archive)


def test_a_week_without_its_certificate_stays(archive: Archive) -> None:
    archive.store.delete(path_of(archive.relative(FAST), HURT))
    assert "is not sealed" in refused(archive)


def test_without_all_tiers_nothing_goes(tmp_path: Path) -> None:
    """The median of a minute cannot be computed from seconds: 1 s alone is not enough."""
    archive = an_archive(str(tmp_path / "archive"))
    table = records(WEEKS)
    archived(archive, FAST, table)
    summarised(archive, FAST, table, TIERS["1s"])
    certified(archive, FAST, WEEKS)
    done = enforce(archive, policy=SUMMIT, now=NOW)
    assert (done.gone, {one.kind for one in done.refused}) == ([], {"uncovered"})
    assert weeks_there(archive, FAST) == {HURT, OTHER}


def test_a_tier_stays_while_what_is_finer_is_there_or_what_is_coarser_is_wrong(archive: Archive) -> None:
    later = datetime(2024, 6, 1, tzinfo=UTC)
    rewritten(archive, "1m", changed("max_force"))
    done = enforce(archive, policy=SUMMIT, now=later)
    assert {(one.one.level, one.one.week.key, one.kind) for one in done.refused} == {
        ("raw", HURT, "uncovered"),
        ("1s", HURT, "finer"),
    }
    assert weeks_there(archive, FAST, "1s") == {HURT}


def test_a_tier_goes_only_when_the_next_one_has_its_windows(archive: Archive) -> None:
    enforce(archive, policy=SUMMIT, now=NOW)
    rewritten(archive, "1m", changed("min_force"))
    done = enforce(archive, policy=SUMMIT, now=datetime(2024, 6, 1, tzinfo=UTC))
    (refusal,) = done.refused
    assert "1m does not agree with the finer tier: min_force" in refusal.detail
    assert weeks_there(archive, FAST, "1s") == {HURT}


def test_a_plan_that_reads_no_rows_does_not_look_at_windows(archive: Archive) -> None:
    rewritten(archive, "1s", without_first)
    assert plan(archive, policy=SUMMIT, now=NOW, depth="metadata").refused == []


def test_tables_are_compared_to_the_bit_save_what_is_rounded() -> None:
    base = pa.table({"time": pa.array([0, 1_000_000]).cast(pa.timestamp("us", tz="UTC")), "count": [2, 2]})
    one = base.append_column("mean_x", pa.array([1.0, np.nan], pa.float32()))
    near = base.append_column("mean_x", pa.array([1.0000001, np.nan], pa.float32()))
    far = base.append_column("mean_x", pa.array([1.001, np.nan], pa.float32()))
    null = base.append_column("mean_x", pa.array([1.0, None], pa.float32()))
    assert different(one, near, keys_only=False) == ""
    assert "1970-01-01 00:00:00" in different(one, far, keys_only=False)
    assert "1970-01-01 00:00:01" in different(one, null, keys_only=False)
    exact = [table.rename_columns(["time", "count", "max_x"]) for table in (one, near)]
    assert different(*exact, keys_only=False)
    assert different(one, far, keys_only=True) == ""
    lists = base.append_column("min_y", pa.array([[1.0, 2.0], [3.0]]))
    other = base.append_column("min_y", pa.array([[1.0, 2.0], [4.0]]))
    assert "00:00:01" in different(lists, other, keys_only=False)
