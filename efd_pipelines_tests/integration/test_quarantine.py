"""Quarantine on a real broker: who is there, and the way home once the clock error is known."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.quarantine import Choice, quarantined, release
from efd_pipelines.archive.slices import QUARANTINE
from efd_pipelines.errors import UsageError
from efd_pipelines.settings import Settings
from efd_pipelines.simulator import faulty
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.series import Series
from efd_pipelines.times import microseconds
from efd_pipelines.topics.names import Dataset

TOPIC = builtin_topic("MTMount.azimuth")
DATASET = Dataset.parse(TOPIC.name)
NOW = datetime.now(UTC).replace(microsecond=0)
AHEAD = timedelta(days=3)
BOOT = datetime(1970, 1, 1, 0, 10, tzinfo=UTC)
"""What a clock shows that was never set, ten minutes after its start."""


@pytest.fixture
def wrong_clocks(local_settings: Settings) -> tuple[Archive, Series, Series]:
    """Five records of a clock three days ahead, four of one that was never set, both of five minutes ago."""
    with SalProducer(local_settings) as producer:
        producer.prepare([TOPIC])
        ahead = faulty.send_at(producer, TOPIC, NOW - timedelta(minutes=5) + AHEAD, 5)
        never_set = faulty.send_at(producer, TOPIC, BOOT, 4, first=100)
    archive = Archive(local_settings)
    assert drain(archive, local_settings).quarantined == 9
    return archive, ahead, never_set


@pytest.mark.timeout(120)
def test_rows_go_home_once_by_their_own_clocks_error(wrong_clocks: tuple[Archive, Series, Series]) -> None:
    archive, ahead, never_set = wrong_clocks
    found = {one.cause: one for one in quarantined(archive)}
    assert {cause: one.count for cause, one in found.items()} == {"ahead": 5, "before": 4}
    received = found["ahead"].first
    assert received is not None
    seeming_s = (NOW - timedelta(minutes=5) + AHEAD - received).total_seconds()
    assert abs((found["ahead"].clock_error_s or 0) - seeming_s) < 30
    first = release(archive, DATASET, round(AHEAD.total_seconds() * 1e6))
    # The others' times would be before 1970: they stay.
    assert (first.rows, first.stayed, first.commits) == (5, 4, 1)
    late_us = microseconds(BOOT) - microseconds(NOW - timedelta(minutes=5))
    second = release(archive, DATASET, late_us)
    assert (second.rows, second.stayed, sum(second.weeks.values())) == (4, 0, 4)
    assert release(archive, DATASET, late_us).rows == 0
    assert archive.snapshot(DATASET).files({QUARANTINE}) == []
    table = archive.read(DATASET).sort_by("private_seqNum")
    expected = [*(ahead.times_us - AHEAD // timedelta(microseconds=1)), *(never_set.times_us - late_us)]
    assert table["time"].cast(pa.int64()).to_pylist() == [int(time) for time in expected]
    assert table["archive_clock_error"].to_pylist() == [AHEAD // timedelta(microseconds=1)] * 5 + [late_us] * 4
    # What was sent stays as it was sent.
    for name in ("private_efdStamp", "actualPosition"):
        sent = np.concatenate([np.asarray(one.columns[name], np.float64) for one in (ahead, never_set)])
        assert table[name].to_numpy().tobytes() == sent.tobytes()
    audit = verify(archive, deep=True)
    assert (audit.problems, audit.rows, audit.records, audit.quarantined) == ([], 9, 9, 0)


@pytest.mark.timeout(120)
def test_only_the_chosen_rows_move(wrong_clocks: tuple[Archive, Series, Series]) -> None:
    archive, _, _ = wrong_clocks
    error_us = round(AHEAD.total_seconds() * 1e6)
    for choice in (
        Choice(identity="somebody"),
        Choice(origin=-1),
        Choice(received_before=NOW - timedelta(days=1)),
        Choice(received_from=NOW + timedelta(days=1)),
    ):
        done = release(archive, DATASET, error_us, choice)
        assert (done.rows, done.others, done.commits) == (0, 9, 0)
    with pytest.raises(UsageError, match="salIndex"):
        release(archive, DATASET, error_us, Choice(sal_index=1))
    with pytest.raises(UsageError, match="0 corrects nothing"):
        release(archive, DATASET, 0)
    planned = release(archive, DATASET, error_us, Choice(identity="MTMount"), dry_run=True)
    assert (planned.rows, planned.commits) == (5, 0)
    assert len(quarantined(archive)) == 2


@pytest.mark.timeout(120)
def test_the_commands_list_and_release(
    wrong_clocks: tuple[Archive, Series, Series], monkeypatch: pytest.MonkeyPatch
) -> None:
    from efd_pipelines.cli import app

    monkeypatch.setenv("EFD_ARCHIVE", wrong_clocks[0].settings.archive)
    listed = CliRunner().invoke(app, ["archive", "quarantine", "--strict", "--json"])
    assert listed.exit_code == 1
    assert [(row["cause"], row["count"], row["identity"]) for row in json.loads(listed.stdout)] == [
        ("ahead", 5, "MTMount"),
        ("before", 4, "MTMount"),
    ]
    command = ["archive", "release", TOPIC.name, "--clock-error", str(AHEAD.total_seconds()), "--json"]
    for more in (["--dry-run"], []):
        done = CliRunner().invoke(app, [*command, *more])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["rows"] == 5
    assert json.loads(CliRunner().invoke(app, command).stdout)["rows"] == 0
