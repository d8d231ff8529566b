"""The job `find_anomalies`, run: its check warns with the figures of what was counted."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from efd_pipelines.archive.archive import Archive
from efd_pipelines.definitions import build_defs
from efd_pipelines.forecasting.counts import DIRECTORY
from efd_pipelines.forecasting.half_days import PART_S, PARTS

STUCK = "lsst.sal.MTM1M3.logevent_forceActuatorWarning"
TOPICS = (*(f"lsst.sal.MTM1M3.topic{n}" for n in range(5)), STUCK)


def counted(archive: Archive, days_ago: int, stuck: bool) -> None:
    """The kept counts of a day: telemetry of 1 Hz, an event of 3 an hour or of 412,000."""
    rows = []
    for part in range(len(PARTS)):
        for topic in TOPICS:
            records = PART_S if topic != STUCK else 12.0 * (412_000 if stuck else 3)
            rows.append({"topic": topic, "part": part, "records": records, "bytes": 300 * records})
    schema = {"topic": pa.string(), "part": pa.int8(), "records": pa.float64(), "bytes": pa.float64()}
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(schema.items()))), buffer)
    day = (datetime.now(UTC) - timedelta(days=days_ago)).date()
    archive.store.write_bytes(f"{DIRECTORY}/{day.isoformat()}.parquet", buffer.getvalue())


def test_the_check_warns_of_an_event_that_is_stuck(archive: Archive, instance: dg.DagsterInstance) -> None:
    for days_ago in range(60, 0, -1):
        counted(archive, days_ago, stuck=days_ago == 1)
    job = build_defs(archive.settings.configuration).resolve_job_def("find_anomalies")
    result = job.execute_in_process(instance=instance)
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == ("no_anomalies", False, dg.AssetCheckSeverity.WARN)
    assert "1 of 6 topics are not as usual" in str(check.description)
    assert "MTM1M3.logevent_forceActuatorWarning: 412,000 an hour by" in str(check.description)
    assert "usually 3 (by" in str(check.description)
    assert check.metadata["anomalies"].value == 1
