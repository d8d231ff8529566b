"""The client on a real S3 server: the same rows as from a directory, in few requests and bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.client import EfdArchive
from efd_pipelines.client.portions import TablePortion
from efd_pipelines.reading.footers import Footers
from efd_pipelines.reading.groups import row_groups
from efd_pipelines.reading.ranges import Traffic
from efd_pipelines.reading.scan import Tally
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines_tests.unit.exports.builders import (
    MONDAY,
    START_US,
    TEMPERATURE,
    ArchiveBuilder,
    at,
    messages,
    seconds,
)

HOURS = 3
FIELDS = ["temperatureItem1", "sensorName"]


def at_us(second: int) -> int:
    return START_US + second * 1_000_000


@pytest.mark.timeout(120)
def test_a_window_on_s3_is_read_as_from_a_directory_in_few_requests(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setattr("efd_pipelines.archive.files.ROW_GROUP_BYTES", 1_000_000)
    footers = Footers()
    monkeypatch.setattr("efd_pipelines.reading.groups.FOOTERS", footers)
    remote = ArchiveBuilder(f"{bucket}/archive", {"s3_endpoint": s3.endpoint, "s3_region": s3.region})
    local = ArchiveBuilder(str(tmp_path / "archive"))
    for builder in (remote, local):
        for hour in range(HOURS):
            times = seconds(hour * 3600, (hour + 1) * 3600, 0.1)
            builder.add(TEMPERATURE, messages(times, first_seq=hour * 36_000), unit=SliceUnit.HOUR)
    ours, plain = (EfdArchive(settings=builder.archive.settings) for builder in (remote, local))

    first, again = Tally(), Tally()
    found = ours.select(TEMPERATURE, FIELDS, at(3600), at(2 * 3600 - 1))
    rows = list(found.batches(first))
    assert sum(part.num_rows for part in rows) == 35_991
    assert list(ours.select(TEMPERATURE, FIELDS, at(3600), at(2 * 3600 - 1)).batches(again)) == rows
    (portion,) = found.portions
    assert isinstance(portion, TablePortion)
    groups = [
        group
        for file in portion.scan.files
        for group in row_groups(
            portion.scan.store, portion.scan.relative, file, at_us(3600), at_us(7200), width=20, traffic=Traffic()
        )
    ]
    needed = sum(group.stored_bytes(["time", "salIndex", *FIELDS]) for group in groups)
    assert again.traffic.bytes <= 1.5 * needed
    assert first.traffic.requests == again.traffic.requests + 1  # the footer
    assert again.traffic.requests <= 3 * len(groups)
    for tally in (first, again):
        assert tally.rows == 35_991
    every = plain.select(TEMPERATURE, "*", MONDAY, at(HOURS * 3600)).to_arrow()
    assert ours.select(TEMPERATURE, "*", MONDAY, at(HOURS * 3600)).to_arrow().equals(every)
    assert ours.select_top_n(TEMPERATURE, "private_seqNum", 3)["private_seqNum"].tolist() == [107_999, 107_998, 107_997]
