"""A backfill through Dagster's own daemon: two components, two weeks, from Kafka to the report."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.partitions import add_components
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.observatory import run_observatory
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.dagster_site import DagsterSite

WEEKS = ["2026-11-09", "2026-11-16"]
COMPONENTS = ["ESS", "MTMount"]
KEYS = [f"{component}|{week}" for component in COMPONENTS for week in WEEKS]
RAW, TIER, REPORT = dg.AssetKey("raw_archive"), dg.AssetKey("tier_1s"), dg.AssetKey("storage_throughput")
EXPOSURES = dg.AssetKey(["efd_lsstcam", "exposure_efd"])


@pytest.fixture
def produced(local_settings: Settings) -> None:
    """Some seconds of the observatory in each of two weeks, with an exposure in each."""
    for week in (9, 16):
        start = datetime(2026, 11, week, 2, tzinfo=UTC)
        consdb = local_settings.require_consdb()
        run_observatory(local_settings, 1, 45, "max", start=start, exposures=True, consdb_url=consdb, rate=0.1)


@pytest.fixture
def dagster(
    local_settings: Settings, empty_kafka: KafkaServer, registry: RegistryServer, tmp_path: Path
) -> Iterator[DagsterSite]:
    environment = {
        "EFD_KAFKA_BOOTSTRAP": empty_kafka.bootstrap,
        "EFD_REGISTRY_URL": registry.url,
        "EFD_ARCHIVE": local_settings.archive,
    }
    with DagsterSite(tmp_path / "dagster", environment) as site:
        site.switch_off()
        site.start_daemon()
        yield site


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("produced")
def test_a_backfill_of_two_components_and_two_weeks_ends_green(dagster: DagsterSite, local_settings: Settings) -> None:
    assert dagster.wait_for_run(dagster.launch("discover")) == "SUCCESS"

    backfill = dagster.launch_backfill([RAW, TIER, REPORT, EXPOSURES], KEYS)
    assert dagster.wait_for_backfill(backfill) == "COMPLETED_SUCCESS"

    instance = dagster.instance()
    with instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
        assert runs
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        assert instance.get_materialized_partitions(RAW) == set(KEYS)
        assert instance.get_materialized_partitions(TIER) == set(KEYS)
        assert instance.get_materialized_partitions(REPORT) == set(WEEKS)
        assert instance.get_materialized_partitions(EXPOSURES) == set(WEEKS)
        shown = rows_by_partition(instance)

    archive = Archive(local_settings)
    assert {dataset.component for dataset in archive.datasets()} == set(COMPONENTS)
    for key in KEYS:
        component, week = key.split("|")
        kept = sum(archive.read(one, ["time"], weeks=[week]).num_rows for one in archive.datasets(component))
        assert kept > 0
        assert shown[key] == kept
    assert archive.read(Dataset("lsst.sal.MTMount.azimuth"), tier="1s").num_rows >= 90
    for week in WEEKS:
        assert archive.store.exists(f"reports/storage/{week}/throughput.md")


def rows_by_partition(instance: dg.DagsterInstance) -> dict[str, int]:
    records = instance.fetch_materializations(RAW, limit=100).records
    shown = {}
    for record in records:
        assert record.asset_materialization is not None
        shown[str(record.partition_key)] = int(str(record.asset_materialization.metadata["rows"].value))
    return shown


@pytest.mark.timeout(600)
def test_lineage_shows_the_parents_of_a_partition(tmp_path: Path) -> None:
    with DagsterSite(tmp_path / "dagster", {"EFD_ARCHIVE": str(tmp_path / "archive")}) as site:
        assert mapping(site, RAW) == {"kafka_topics": "MultiToSingleDimensionPartitionMapping"}
        assert mapping(site, TIER) == {}
        of_the_week = "MultiToSingleDimensionPartitionMapping"
        assert mapping(site, REPORT) == {"raw_archive": of_the_week, "tier_1s": of_the_week}
        with site.instance() as instance:
            add_components(instance, COMPONENTS)
            told(instance, REPORT, WEEKS[0])
            # What the UI calls unsynced names the partitions that one is made of, here those that are not there.
            assert missing_parents(site, REPORT, WEEKS[0]) == {
                (parent, f"{component}|{WEEKS[0]}") for parent in ("raw_archive", "tier_1s") for component in COMPONENTS
            }
            told(instance, TIER, KEYS[0])
            assert missing_parents(site, TIER, KEYS[0]) == {("raw_archive", KEYS[0])}
            told(instance, RAW, KEYS[0])
            assert missing_parents(site, RAW, KEYS[0]) == {("kafka_topics", COMPONENTS[0])}


def told(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))


def mapping(dagster: DagsterSite, asset: dg.AssetKey) -> dict[str, str]:
    node = dagster.ask(
        """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            dependencies { asset { assetKey { path } } partitionMapping { className } }
        } } }""",
        key={"path": list(asset.path)},
    )["assetNodeOrError"]
    return {
        "/".join(one["asset"]["assetKey"]["path"]): one["partitionMapping"]["className"]
        for one in node["dependencies"]
        if one["partitionMapping"]
    }


def missing_parents(dagster: DagsterSite, asset: dg.AssetKey, partition: str) -> set[tuple[str, str]]:
    node = dagster.ask(
        """query($key: AssetKeyInput!, $of: String!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            staleCauses(partition: $of) { dependency { path } dependencyPartitionKey }
        } } }""",
        key={"path": list(asset.path)},
        of=partition,
    )["assetNodeOrError"]
    causes = node["staleCauses"]
    return {("/".join(cause["dependency"]["path"]), cause["dependencyPartitionKey"]) for cause in causes}
