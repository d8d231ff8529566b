"""History on a real InfluxDB: what Kafka lost comes back, once, and as it was sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.history.healing import heal
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.times import Week, microseconds
from efd_pipelines_tests.integration.conftest import MakeSettings
from efd_pipelines_tests.integration.influx_points import message_columns, write_points

LAST_WEEK = Week.containing(datetime.now(UTC) - timedelta(days=7))
TOPICS = ["ESS.temperature", "Test.scalars", "Test.arrays"]


@pytest.fixture
def sent(local_settings: Settings) -> Archive:
    """An archive that has all of last week from Kafka, with random values, NaN among them."""
    archive = Archive(local_settings)
    with SalProducer(local_settings) as producer:
        for name in TOPICS:
            topic = builtin_topic(name)
            producer.send([random_series(topic, 400, microseconds(LAST_WEEK.start + timedelta(days=2)))])
    drain(archive, local_settings)
    return archive


@pytest.fixture
def lost(sent: Archive, site: MakeSettings, influx: InfluxServer, unique: str, tmp_path: Path) -> Archive:
    """An archive of a deployment that never heard of last week: InfluxDB has it, Kafka does not."""
    for dataset in sent.datasets():
        write_points(influx, unique, dataset.topic, sent.read(dataset))
    settings = site(
        archive=str(tmp_path / "healed"),
        kafka_bootstrap=None,
        history_influx_url=influx.url,
        history_database=unique,
    )
    return Archive(settings)


def assert_equal_but_for_nan(healed: pa.Table, sent: pa.Table) -> None:
    order = [("private_seqNum", "ascending")]
    healed, sent = healed.sort_by(order), sent.sort_by(order)
    assert healed.num_rows == sent.num_rows
    names = message_columns(sent)
    assert set(message_columns(healed)) == set(names)
    for name in names:
        assert healed[name].type == sent[name].type, name
        assert healed[name].to_pylist() == without_nan(sent[name]).to_pylist(), name


def without_nan(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def heal_all(archive: Archive, weeks: list[Week] | None = None, **options: object) -> dict[str, int]:
    found = {}
    for component in ("ESS", "Test"):
        result = heal(archive, archive.settings, component=component, weeks=weeks or [LAST_WEEK], **options)  # type: ignore[arg-type]
        found[component] = result.rows
    return found


@pytest.mark.timeout(300)
def test_a_week_lost_from_kafka_comes_back_equal_but_for_nan_and_once(sent: Archive, lost: Archive) -> None:
    assert heal_all(lost) == {"ESS": 400, "Test": 800}
    for dataset in sent.datasets():
        assert_equal_but_for_nan(lost.read(dataset), sent.read(dataset))
        assert set(lost.read(dataset)["archive_source"].to_pylist()) == {f"influx:{lost.settings.history_database}"}
    versions = {dataset: lost.snapshot(dataset).version for dataset in lost.datasets()}

    assert heal_all(lost) == {"ESS": 0, "Test": 0}
    assert heal_all(lost, again=True) == {"ESS": 0, "Test": 0}
    assert {dataset: lost.snapshot(dataset).version for dataset in lost.datasets()} == versions
    assert verify(lost, deep=True).problems == []
