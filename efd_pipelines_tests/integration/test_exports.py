"""Exports of records that went through Kafka, read with the tools that people have; and exports to S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.archive.store import Store
from efd_pipelines.exports import export
from efd_pipelines.exports.bucket import MARKER, UNFINISHED, BucketStage
from efd_pipelines.exports.checking import check
from efd_pipelines.exports.destination import MANIFEST, NotAnExport
from efd_pipelines.exports.expiry import expire, exports_in
from efd_pipelines.exports.work import PieceWork
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.replay import replay
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import tier_named
from efd_pipelines.topics.names import Dataset
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

AZIMUTH = "lsst.sal.MTMount.azimuth"
HARDPOINTS = "lsst.sal.MTM1M3.hardpointActuatorData"
STATES = "lsst.sal.MTMount.logevent_azimuthMotionState"
NIGHT = (datetime(2023, 7, 28, tzinfo=UTC), datetime(2023, 7, 30, tzinfo=UTC))


@pytest.fixture
def s3_builder(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> ArchiveBuilder:
    """An archive on S3, without Kafka."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return ArchiveBuilder(f"{bucket}/archive", {"s3_endpoint": s3.endpoint, "s3_region": s3.region})


def by_time(table: pa.Table) -> pa.Table:
    keys = [(name, "ascending") for name in ("time", "salIndex", "kafka_partition", "kafka_offset")]
    return table.sort_by([key for key in keys if key[0] in table.column_names])


@pytest.mark.timeout(300)
def test_recorded_topics_open_in_dask_with_known_divisions_and_equal_the_archive(
    settings: Settings, archive: Archive, shared: Path, tmp_path: Path
) -> None:
    dask = pytest.importorskip("dask.dataframe")
    replay(settings, shared / "recorded")
    drain(archive, settings)
    result = export(archive, ["lsst.sal.MTM*"], *NIGHT, out=str(tmp_path / "out"))
    assert result.rows == sum(
        archive.read(dataset, ["time"], *NIGHT).num_rows for dataset in archive.datasets() if "MTM" in dataset.component
    )
    for topic in (AZIMUTH, HARDPOINTS, STATES):
        frame = dask.read_parquet(str(tmp_path / "out" / topic), index="time", calculate_divisions=True)
        assert frame.known_divisions
        assert frame.divisions == tuple(sorted(frame.divisions))
        expected = by_time(archive.read(Dataset.parse(topic), None, *NIGHT))
        found = frame.compute().reset_index()
        pd.testing.assert_frame_equal(
            found, expected.select(list(found.columns)).to_pandas(), check_dtype=False, check_exact=True
        )


@pytest.mark.timeout(300)
def test_a_tier_is_exported_and_what_it_does_not_summarise_as_it_is(
    local_settings: Settings, shared: Path, tmp_path: Path
) -> None:
    archive = Archive(local_settings)
    replay(local_settings, shared / "recorded")
    drain(archive, local_settings)
    build_tier(archive, tier_named("1s"))
    result = export(archive, [HARDPOINTS, STATES], *NIGHT, tier="1s", out=str(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert {topic["dataset"]: topic["table"] for topic in manifest["topics"]} == {HARDPOINTS: "1s", STATES: "raw"}
    assert result.notes == ()
    found = pq.read_table(tmp_path / "out" / HARDPOINTS)
    assert found["count"].to_numpy().sum() == archive.read(Dataset.parse(HARDPOINTS), ["time"], *NIGHT).num_rows
    assert found.equals(
        by_time(archive.read(Dataset.parse(HARDPOINTS), None, *NIGHT, tier="1s")).select(found.column_names)
    )


@pytest.mark.timeout(300)
def test_a_tier_that_lags_is_told(local_settings: Settings, shared: Path, tmp_path: Path) -> None:
    archive = Archive(local_settings)
    replay(local_settings, shared / "recorded")
    drain(archive, local_settings)
    build_tier(archive, tier_named("1s"))
    replay(local_settings, shared / "recorded")
    drain(archive, local_settings)
    result = export(archive, HARDPOINTS, *NIGHT, tier="1s", out=str(tmp_path / "out"))
    assert f"{HARDPOINTS} is not up to date" in result.notes[0]


def test_an_export_goes_to_s3_and_dask_reads_it_there(s3_builder: ArchiveBuilder, bucket: str, s3: S3Server) -> None:
    dask = pytest.importorskip("dask.dataframe")
    s3_builder.add(TEMPERATURE, messages(seconds(0, 500), sal_index=[1, 2] * 250))
    out = f"{bucket}/exports/one"
    result = export(s3_builder.archive, TEMPERATURE, at(0), at(600), out=out)
    assert (result.rows, result.manifest) == (500, f"{out}/manifest.json")
    options = {"key": s3.access_key, "secret": s3.secret_key, "client_kwargs": {"endpoint_url": s3.endpoint}}
    frame = dask.read_parquet(f"{out}/{TEMPERATURE}", index="time", calculate_divisions=True, storage_options=options)
    assert frame.known_divisions
    assert len(frame) == 500
    assert not export(s3_builder.archive, TEMPERATURE, at(0), at(600), out=out).made


def test_an_export_on_s3_is_renewed_without_left_overs(s3_builder: ArchiveBuilder, bucket: str) -> None:
    s3_builder.add(TEMPERATURE, messages(seconds(5, 9), first_seq=5))
    out = f"{bucket}/exports/one"
    export(s3_builder.archive, TEMPERATURE, at(0), at(600), out=out)
    s3_builder.add(TEMPERATURE, messages(seconds(0, 5)))
    again = export(s3_builder.archive, TEMPERATURE, at(0), at(600), out=out)
    assert (again.made, again.rows) == (True, 9)
    assert objects_of(s3_builder, out) == {MANIFEST, "README.md", *files_in_manifest(s3_builder, out)}


def test_another_request_for_the_same_prefix_is_refused(s3_builder: ArchiveBuilder, bucket: str) -> None:
    s3_builder.add(TEMPERATURE, messages(seconds(0, 9)))
    out = f"{bucket}/exports/one"
    export(s3_builder.archive, TEMPERATURE, at(0), at(600), out=out)
    before = objects_of(s3_builder, out)
    with pytest.raises(NotAnExport, match="another request"):
        export(s3_builder.archive, TEMPERATURE, at(0), at(60), out=out)
    with pytest.raises(NotAnExport, match="holds no export"):
        export(s3_builder.archive, TEMPERATURE, at(0), at(60), out=f"{bucket}/archive")
    assert objects_of(s3_builder, out) == before


def test_a_failed_export_leaves_nothing_on_s3(
    s3_builder: ArchiveBuilder, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    s3_builder.add(TEMPERATURE, messages(seconds(0, 9)))
    (lost,) = s3_builder.add(FORCES, messages(seconds(0, 9), columns=PRIVATE))
    s3_builder.archive.store.delete(f"raw/{Dataset.parse(FORCES).path}/{lost.path}")
    out = f"{bucket}/exports/one"
    with pytest.raises(Exception, match="is not there"):
        export(s3_builder.archive, [TEMPERATURE, FORCES], at(0), at(600), out=out)
    assert objects_of(s3_builder, out) == set()


def test_what_was_never_finished_on_s3_goes_after_a_week(s3_builder: ArchiveBuilder, bucket: str) -> None:
    settings, later = s3_builder.archive.settings, datetime.now(UTC) + timedelta(days=8)
    for topic in (TEMPERATURE, "lsst.sal.ESS.other"):
        s3_builder.add(topic, messages(seconds(0, 60)))
    place = f"{bucket}/exports"
    export(s3_builder.archive, TEMPERATURE, at(0), at(600), out=f"{place}/whole")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(s3_builder.archive, "lsst.sal.ESS.*", at(0), at(600), out=f"{place}/half", progress=interrupt)
    left = objects_of(s3_builder, f"{place}/half")
    assert {MARKER, f"{TEMPERATURE}/{UNFINISHED}"} < left
    store = Store(place, settings)
    store.write_bytes("half/thesis.tex", b"years of work")
    name, _, prefix = store.path("half/lsst.sal.ESS.other/part-00000-000_x.parquet").partition("/")
    store.fs.call_s3("create_multipart_upload", Bucket=name, Key=prefix)

    assert expire(settings, [place]) == []
    told = expire(settings, [place], later, dry_run=True)
    assert objects_of(s3_builder, f"{place}/half") == {*left, "thesis.tex"}
    gone = expire(settings, [place], later)
    assert gone == told
    assert [(one.place.rpartition("/")[2], one.why) for one in gone] == [
        ("half", "was never finished"),
        ("part-00000-000_x.parquet", "was never sent whole"),
    ]
    assert gone[0].bytes > 0
    assert objects_of(s3_builder, f"{place}/half") == {"thesis.tex"}
    assert expire(settings, [place], later) == []
    (whole,) = exports_in(settings, place)
    assert (whole.rows, check(settings, whole.place, deep=True).ok) == (60, True)


def test_an_export_killed_when_all_was_there_is_whole_after_a_week(
    s3_builder: ArchiveBuilder, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_builder.add(TEMPERATURE, messages(seconds(0, 60)))
    settings, out = s3_builder.archive.settings, f"{bucket}/exports/one"

    def killed(self: BucketStage, keep: set[str]) -> None:
        if MANIFEST in keep:
            raise KeyboardInterrupt

    clean = BucketStage.clean
    monkeypatch.setattr(BucketStage, "clean", killed)
    with pytest.raises(KeyboardInterrupt):
        export(s3_builder.archive, TEMPERATURE, at(0), at(600), out=out)
    monkeypatch.setattr(BucketStage, "clean", clean)
    assert exports_in(settings, out) == []
    expire(settings, [out], datetime.now(UTC) + timedelta(days=8))
    (whole,) = exports_in(settings, out)
    assert (whole.rows, check(settings, out, deep=True).ok) == (60, True)
    assert objects_of(s3_builder, out) == {MANIFEST, "README.md", *files_in_manifest(s3_builder, out)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", ["directory", "s3"])
def test_an_export_killed_anywhere_is_never_taken_for_a_whole_one_and_goes_on_where_it_was(
    s3_builder: ArchiveBuilder, bucket: str, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_builder.add(TEMPERATURE, messages(seconds(0, 300)))
    for n in range(6):
        s3_builder.add(f"lsst.sal.ESS.topic{n}", messages(seconds(0, 300), columns=PRIVATE))
    out = str(tmp_path / "out") if where == "directory" else f"{bucket}/exports/one"
    for files in (2, 4):
        killed = run_and_kill(s3_builder, out, files)
        assert killed == -signal.SIGKILL
        assert not Store(out, s3_builder.archive.settings).exists(MANIFEST)
        if where == "s3":
            place = f"{out}/{TEMPERATURE}".removeprefix("s3://")
            with pytest.raises(pa.ArrowInvalid, match="unfinished"):
                pq.read_table(place, filesystem=s3_builder.archive.store.arrow_fs)
    again: list[str] = []
    write = PieceWork.write

    def told(self: PieceWork, stage: Any) -> Any:
        again.append(self.piece.dataset)
        return write(self, stage)

    monkeypatch.setattr(PieceWork, "write", told)
    result = export(s3_builder.archive, "lsst.sal.ESS.*", "2026-11-16", "2026-11-17", out=out)
    assert (result.made, result.rows, result.files) == (True, 7 * 300, 7)
    assert len(again) == 1
    expected = {MANIFEST, "README.md", *files_in_manifest(s3_builder, out)}
    assert objects_of(s3_builder, out) == expected
    if where == "directory":
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("resample", ["", *(["1s"] if os.environ.get("EFD_TEST_SCALE") else [])])
def test_memory_stays_below_500_mib_for_slices_that_do_not_fit(tmp_path: Path, resample: str) -> None:
    """Two hours of 410 MB each, one in many files and one merged; the process' peak, libraries and all."""
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    columns = [*PRIVATE, *(column(f"force{n}", pa.float32(), "N") for n in range(800))]
    batch = 6000
    for n in range(20):
        times = seconds(n * 120, (n + 1) * 120, 0.02)
        builder.add(FORCES, messages(times, columns=columns, first_seq=n * batch), unit=SliceUnit.HOUR)
    parts = [
        messages(seconds(3600 + n * 120, 3600 + (n + 1) * 120, 0.02), columns=columns, first_seq=(30 + n) * batch)
        for n in range(20)
    ]
    builder.add(FORCES, pa.concat_tables(parts), unit=SliceUnit.HOUR)
    del parts
    script = """
import sys
import psutil
from efd_pipelines.archive.archive import Archive
from efd_pipelines.exports import export
from efd_pipelines.settings import load_settings
archive = Archive(load_settings({}, None, archive=sys.argv[1]))
alone = []
look = lambda *told: alone.append(not psutil.Process().children())
result = export(
    archive, sys.argv[3], "2026-11-16", "2026-11-17", out=sys.argv[2], resample=sys.argv[4] or None, progress=look
)
assert alone and all(alone), "other processes have memory too"
peak_kib = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(result.rows, int(peak_kib) / 1024)
"""
    arguments = [sys.executable, "-c", script, builder.root, str(tmp_path / "out"), FORCES, resample]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    rows, peak_mib = done.stdout.split()
    assert int(rows) == (40 * 120 if resample else 40 * batch)
    assert float(peak_mib) < 500
    sizes = [pq.read_table(file).nbytes / 2**20 for file in sorted((tmp_path / "out" / FORCES).iterdir())]
    assert all(10 <= size <= 250 for size in sizes)


def run_and_kill(builder: ArchiveBuilder, out: str, files: int) -> int:
    """An export in a process of its own that is killed once so many files are on their way."""
    settings = builder.archive.settings
    script = """
import os, sys
from efd_pipelines.archive.archive import Archive
from efd_pipelines.exports import export
from efd_pipelines.exports.bucket import BucketStage
from efd_pipelines.exports.directory import DirectoryStage
from efd_pipelines.settings import load_settings

def killing(create):
    count = 0
    def counted(self, path):
        global left
        if left == 0:
            os.kill(os.getpid(), 9)
        left -= 1
        return create(self, path)
    return counted

left = int(sys.argv[5])
for stage in (DirectoryStage, BucketStage):
    stage.create = killing(stage.create)
archive = Archive(load_settings({}, None, archive=sys.argv[1], s3_endpoint=sys.argv[2], s3_region=sys.argv[3]))
export(archive, "lsst.sal.ESS.*", "2026-11-16", "2026-11-17", out=sys.argv[4])
"""
    arguments = [builder.root, str(settings.s3_endpoint), settings.s3_region, out, str(files)]
    return subprocess.run([sys.executable, "-c", script, *arguments], check=False, timeout=120).returncode


def objects_of(builder: ArchiveBuilder, out: str) -> set[str]:
    store = Store(out, builder.archive.settings)
    start = len(store.path("")) + 1
    return {path[start:] for path in store.fs.find(store.path(""))} if store.exists("") else set()


def files_in_manifest(builder: ArchiveBuilder, out: str) -> set[str]:
    manifest: dict[str, Any] = json.loads(Store(out, builder.archive.settings).read_bytes(MANIFEST))
    return {file["path"] for topic in manifest["topics"] for file in topic["files"]}
