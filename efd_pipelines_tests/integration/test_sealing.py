"""Merging and sealing at size, and on S3.

Scaled down here; `make scale` merges and seals a slice of 1 GiB (`EFD_TEST_SCALE=1`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.certificates import is_valid, read_certificate
from efd_pipelines.archive.cleaning import clean
from efd_pipelines.archive.files import sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.sealing import seal
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, Layout, plan_layout
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema
from efd_pipelines_tests.unit.archive.builders import SOURCE, Topic, schema_of

SCALE = float(os.environ.get("EFD_TEST_SCALE", "0.2"))
MIB = 1 << 20
LIMIT_BYTES = (1024 if SCALE >= 1 else 900) * MIB
FILES = 24
WEEK = Week.parse("2026-11-16")
LATER = datetime(2027, 1, 1, tzinfo=UTC)
DATASET = Dataset("lsst.sal.Test.x")
_WORK = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.sealing import seal
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week

archive = Archive(load_settings({}, None, archive=sys.argv[1]))
later = datetime(2027, 1, 1, tzinfo=UTC)
merged = merge(archive, now=later)
sealed = seal(archive, archive.settings, week=Week.parse("2026-11-16"), now=later)
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
problems = [problem.detail for problem in (*merged.problems, *sealed.problems)]
print(json.dumps({"rows": merged.rows, "files": merged.files_before, "merge_s": merged.seconds,
                  "seal_s": sealed.seconds, "sealed": sealed.sealed, "peak": peak, "problems": problems}))
"""


def rows_of_a_file(schema: TopicSchema, layout: Layout, first: int, count: int, devices: int, step_us: int) -> pa.Table:
    """Telemetry of several devices in turn, from record `first` on."""
    numbers = np.arange(first, first + count)
    times = WEEK.start_us + numbers * step_us
    noise = np.round(np.random.default_rng(first).normal(size=count).cumsum(), 4)
    known = {
        "salIndex": 1 + numbers % devices,
        "private_seqNum": 1 + numbers // devices,
        "private_origin": np.full(count, 7),
        "private_identity": np.array(["Test"] * count),
        **{f"private_{name}Stamp": (times + 0.5) / 1e6 for name in ("snd", "efd")},
    }
    columns = [pa.array(known.get(column.name, noise)).cast(column.type) for column in layout.columns]
    system = {
        "kafka_partition": pa.array(np.zeros(count, np.int32)),
        "kafka_offset": pa.array(numbers),
        "kafka_timestamp": pa.array(times, TIME),
        "kafka_key": pa.array([b"{}"] * count, pa.binary()),
        "archive_source": pa.array([SOURCE] * count),
        "archive_schema": pa.array(np.full(count, schema.token)),
    }
    fields = [pa.field("time", TIME), *layout.arrow_schema(), *(pa.field(n, SYSTEM_COLUMNS[n]) for n in system)]
    return sort_rows(
        pa.Table.from_arrays([pa.array(times, TIME), *columns, *system.values()], schema=pa.schema(fields))
    )


def fill(archive: Archive, schema: TopicSchema, rows: int, devices: int, unit: SliceUnit, key: str) -> float:
    """A slice of so many rows in 24 files, as drains leave it; its size decoded, in bytes."""
    keeper = WriterSchemas(archive.store)
    keeper.remember("http://registry", 1, schema)
    keeper.keep()
    layout, relative, each = plan_layout(schema), archive.relative(DATASET), rows // FILES
    step_us = unit.length_us // rows
    size = 0
    for n in range(FILES):
        table = rows_of_a_file(schema, layout, n * each, each, devices, step_us)
        size += table.nbytes
        snapshot = open_table(archive.store, relative)
        made = commit(
            archive.store,
            relative,
            snapshot,
            add=[write_data_file(archive.store, relative, WEEK.key, key, table)],
            transactions={f"kafka:{SOURCE}:0": (n * each or None, (n + 1) * each)},
            schema=table.schema,
            description={"slice": unit.value, "arrays": "flat", "dataset": DATASET.text},
            note={"kind": "drain", "records": each, "schemas": [schema.token]},
        )
        archive.ledger.append(rows_of(RAW, DATASET, made))
    return size


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("columns", "rows", "devices", "unit", "key"),
    [(800, 150_000, 1, SliceUnit.HOUR, "2026-11-16T00"), (4, 7_500_000, 120, SliceUnit.WEEK, "2026-11-16W")],
    ids=["wide", "many devices"],
)
def test_a_slice_is_merged_and_sealed_in_little_memory(
    tmp_path: Path, columns: int, rows: int, devices: int, unit: SliceUnit, key: str
) -> None:
    root = str(tmp_path / "archive")
    archive = Archive(load_settings({}, None, archive=root))
    schema = schema_of("x", *((f"field{n}", "double") for n in range(columns)))
    count = int(rows * SCALE) // FILES * FILES
    size = fill(archive, schema, count, devices, unit, key)
    done = subprocess.run([sys.executable, "-c", _WORK, root], check=True, capture_output=True, timeout=1000)
    found = json.loads(done.stdout)
    print(f"slice of {size / MIB:,.0f} MiB in {FILES} files: {found}")
    assert (found["problems"], found["rows"], found["files"], found["sealed"]) == ([], count, FILES, 1)
    assert found["peak"] < LIMIT_BYTES
    assert len(archive.snapshot(DATASET).files()) == 1


def test_weeks_are_merged_sealed_and_cleaned_on_s3(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    environ = {"EFD_S3_ENDPOINT": s3.endpoint, "EFD_S3_REGION": s3.region}
    topic = Topic(Archive(load_settings(environ, None, archive=f"{bucket}/archive")))
    plain = schema_of("x", ("value", "double"))
    day_us = timedelta(days=1) // timedelta(microseconds=1)
    for n in range(4):
        topic.send(plain, [WEEK.start_us + n + day * day_us for day in range(3)], value=[n, n, n])
        topic.drain()
    before = topic.archive.read(topic.dataset)
    assert merge(topic.archive, now=LATER).files_after == 3
    result = seal(topic.archive, topic.archive.settings, week=WEEK, now=LATER)
    assert (result.sealed, result.problems) == (1, [])
    certificate = read_certificate(topic.archive, topic.dataset, WEEK)
    assert certificate is not None
    assert is_valid(certificate, topic.archive.snapshot(topic.dataset))
    assert clean(topic.archive).files == 0
    assert topic.archive.read(topic.dataset).equals(before)
