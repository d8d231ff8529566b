"""The stages as runs of Dagster: what a partition shows after it was materialised. Kafka is not needed here."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.discovered import kept
from efd_pipelines.configuration import load_configuration
from efd_pipelines.definitions import build_defs
from efd_pipelines.defs.exposures import exposure_key
from efd_pipelines.defs.reports import ANSWERED, answered
from efd_pipelines.defs.sources import discovered, known_versions
from efd_pipelines.exposures.consdb import naive_tai, write_exposures
from efd_pipelines.partitions import add_components
from efd_pipelines.times import Week, this_week
from efd_pipelines_tests.defs.builders import FAST, SLOW, a_catalogue, archived, on_brokers
from efd_pipelines_tests.unit.storage.conftest import entry

WEEK = Week.parse("2023-11-20")


@pytest.fixture
def site(archive: Archive, instance: dg.DagsterInstance) -> dg.Definitions:
    """An archive with two components in two weeks, and the definitions over it."""
    for week, first in ((WEEK, 0), (WEEK.next(), 100)):
        archived(archive, FAST, week, 100, first_offset=first)
        archived(archive, SLOW, week, 20, first_offset=first)
    add_components(instance, ["ESS", "MTM1M3"])
    return build_defs(archive.settings.configuration)


def materialised(
    definitions: dg.Definitions, instance: dg.DagsterInstance, asset: dg.AssetKey, **how: Any
) -> dict[str, dict[str, Any]]:
    """Materialises partitions of one asset; their metadata by partition."""
    result = executed(definitions, instance, asset, **how)
    events = result.asset_materializations_for_node(asset.to_python_identifier())
    return {str(event.partition): {name: value.value for name, value in event.metadata.items()} for event in events}


def executed(
    definitions: dg.Definitions, instance: dg.DagsterInstance, asset: dg.AssetKey, **how: Any
) -> dg.ExecuteInProcessResult:
    """A run that materialises one asset, with its checks."""
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, asset_selection=[asset], raise_on_error=False, **how)
    assert result.success, [event.message for event in result.all_events if event.is_failure]
    return result


def test_the_tier_of_one_partition(site: dg.Definitions, instance: dg.DagsterInstance, archive: Archive) -> None:
    key = dg.AssetKey("tier_1s")
    shown = materialised(site, instance, key, partition_key=f"MTM1M3|{WEEK}")
    assert shown[f"MTM1M3|{WEEK}"]["rows"] == 5
    assert archive.read(FAST, tier="1s").num_rows == 5
    assert Path(shown[f"MTM1M3|{WEEK}"]["path"]).is_dir()


def test_a_component_without_fast_telemetry_has_nothing_to_summarise(
    site: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    shown = materialised(site, instance, dg.AssetKey("tier_1s"), partition_key=f"ESS|{WEEK}")
    assert shown[f"ESS|{WEEK}"]["rows"] == 0


def test_a_range_of_partitions_in_one_run(site: dg.Definitions, instance: dg.DagsterInstance) -> None:
    tags = {
        "dagster/asset_partition_range_start": f"MTM1M3|{WEEK}",
        "dagster/asset_partition_range_end": f"MTM1M3|{WEEK.next()}",
    }
    shown = materialised(site, instance, dg.AssetKey("tier_1s"), tags=tags)
    assert {key: values["rows"] for key, values in shown.items()} == {
        f"MTM1M3|{WEEK}": 5,
        f"MTM1M3|{WEEK.next()}": 5,
    }


def test_the_report_of_a_week_is_shown_with_its_picture_and_files(
    site: dg.Definitions, instance: dg.DagsterInstance, archive: Archive
) -> None:
    archive.ledger.append([entry(FAST.text, WEEK.key, 0, avro=10**9, records=100, files=0, version=99)])
    shown = materialised(site, instance, dg.AssetKey("storage_throughput"), partition_key=WEEK.key)[WEEK.key]
    assert (shown["rows"], shown["mean_mb_s"]) == (120, round(1000 / (7 * 86400), 6))
    assert "![Share of each component](data:image/png;base64," in shown["report"]
    assert shown["report"].count("](data:image/svg+xml;base64,") >= 4
    assert {"total_mb", "rows", "messages", "avro_mb", "parquet_mb", "mean_mb_s", "peak_hour_mb_s"} <= set(shown)
    assert Path(shown["page"].removeprefix("file://")).read_text().startswith("<!DOCTYPE html>")
    table = pq.read_table(f"{archive.store.root}/reports/storage/{WEEK}/throughput.parquet")
    assert sum(row["records"] for row in table.to_pylist() if row["store"] == "archive") == 120
    assert f"reports/storage/{WEEK}/throughput.md" in shown["files"]


def test_a_store_that_cannot_be_asked_ends_the_run_with_a_warning(
    site: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFD_INFLUX_URL", "http://127.0.0.1:1")
    result = executed(site, instance, dg.AssetKey("storage_throughput"), partition_key=this_week().key)
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == (ANSWERED, False, dg.AssetCheckSeverity.WARN)
    assert "InfluxDB at http://127.0.0.1:1 could not be asked" in str(check.description)
    assert answered([]).passed


def test_growth_is_shown_and_warns_of_a_store_that_is_soon_full(
    site: dg.Definitions, instance: dg.DagsterInstance, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = load_configuration().growth.model_dump(mode="json") | {"stores": {"archive": {"capacity_tb": 1e-9}}}
    Path("site.yaml").write_text(yaml.safe_dump({"growth": given}))
    monkeypatch.setenv("EFD_CONFIG", "site.yaml")
    result = executed(site, instance, dg.AssetKey("storage_growth"))
    (event,) = result.asset_materializations_for_node("storage_growth")
    shown: dict[str, Any] = {name: value.value for name, value in event.metadata.items()}
    assert shown["cluster_tb_last_year"] == 760
    assert "](data:image/png;base64," in shown["report"]
    assert shown["forecast_year_lower_gb"] <= shown["forecast_year_gb"] <= shown["forecast_year_upper_gb"]
    assert pq.read_table(f"{archive.store.root}/reports/growth/growth.parquet").num_rows > 13
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == ("stores_have_room", False, dg.AssetCheckSeverity.WARN)
    assert "archive may be full in less than a month: it has " in str(check.description)


def test_the_columns_that_the_report_shows_are_those_of_its_file(
    site: dg.Definitions, instance: dg.DagsterInstance, archive: Archive
) -> None:
    materialised(site, instance, dg.AssetKey("storage_throughput"), partition_key=WEEK.key)
    schema = pq.read_schema(f"{archive.store.root}/reports/storage/{WEEK}/throughput.parquet")
    spec = site.resolve_asset_graph().get(dg.AssetKey("storage_throughput"))
    described = {column.name: column.type for column in spec.metadata["dagster/column_schema"].columns}
    assert described == {field.name: str(field.type) for field in schema}


def test_the_columns_that_the_archive_shows_are_those_of_its_tables(definitions: dg.Definitions) -> None:
    from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME

    spec = definitions.resolve_asset_graph().get(dg.AssetKey("raw_archive"))
    described = {column.name: column.type for column in spec.metadata["dagster/column_schema"].columns}
    assert described.pop("FIELD")
    assert described == {"time": str(TIME), **{name: str(kind) for name, kind in SYSTEM_COLUMNS.items()}}


def test_a_week_of_exposures(site: dg.Definitions, instance: dg.DagsterInstance, archive: Archive) -> None:
    begin = WEEK.start
    write_exposures(archive.settings.require_consdb(), "cdb_lsstcam", [an_exposure(1, begin), an_exposure(2, begin)])
    shown = materialised(site, instance, exposure_key("lsstcam"), partition_key=WEEK.key)[WEEK.key]
    assert shown["exposures"] == 2
    lineage = shown["dagster/column_lineage"].deps_by_column
    assert all(dep.asset_key == dg.AssetKey("raw_archive") for deps in lineage.values() for dep in deps)


def an_exposure(number: int, begin: datetime) -> dict[str, Any]:
    return {
        "day_obs": 20231119,
        "seq_num": number,
        "exposure_id": 2023111900000 + number,
        "exposure_name": f"MC_O_20231119_{number:06}",
        "obs_start": naive_tai(begin),
        "obs_end": naive_tai(begin.replace(second=2)),
    }


@pytest.mark.usefixtures("kafka_is_set")
def test_the_topics_of_one_component_by_hand(
    site: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, archive: Archive
) -> None:
    there = a_catalogue(on_brokers("ESS.temperature"), on_brokers("MTM1M3.hardpointActuatorData"))
    monkeypatch.setattr("efd_pipelines.kafka.catalogue.read_catalogue", lambda settings, previous=None: there)
    shown = materialised(site, instance, dg.AssetKey("kafka_topics"), partition_key="ESS")
    assert [record.data["topic"] for record in shown["ESS"]["topics"].records] == ["temperature"]
    assert known_versions(instance)["ESS"]
    # The other component's news is still to be told by discovery.
    assert kept(archive.store) is None
    assert discovered(instance, archive).changed == ("MTM1M3",)


def test_a_database_that_has_no_exposures_says_so(site: dg.Definitions, instance: dg.DagsterInstance) -> None:
    job = site.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, asset_selection=[exposure_key("lsstcam")], partition_key=WEEK.key, raise_on_error=False
    )
    assert not result.success
    assert "What to do:" in failure_of(result)
    assert ".py" not in failure_of(result)


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (event,) = (event for event in result.all_events if event.is_step_failure)
    data: Any = event.event_specific_data
    return str(data.error.to_string())


def test_an_unknown_component_is_refused(site: dg.Definitions, instance: dg.DagsterInstance) -> None:
    job = site.resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.DagsterUnknownPartitionError):
        job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("tier_1s")], partition_key=f"MTM1M2|{WEEK}"
        )


def exported(site: dg.Definitions, instance: dg.DagsterInstance, job: str = "export", **config: Any) -> Any:
    op = "export_dataset" if job == "export" else "export_if_asked"
    return site.resolve_job_def(job).execute_in_process(
        instance=instance, run_config={"ops": {op: {"config": config}}}, raise_on_error=False
    )


def test_the_export_form_makes_a_dataset(site: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    asked = {"from": "2023-11-20", "to": "2023-11-27T00:00:10", "tier": "raw", "out": str(tmp_path / "out")}
    result = exported(site, instance, topics=[FAST.text], fields=["value"], **asked)
    assert result.success, failure_of(result)
    table = pq.read_table(tmp_path / "out" / FAST.text)
    assert table.num_rows == 200
    assert table.column_names == ["time", "value"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"topics": []}, "No topic is given"),
        ({"topics": ["lsst.sal.MTM1M3.hardpointActuatorDat"]}, "did you mean lsst.sal.MTM1M3.hardpointActuatorData"),
        ({"from": ""}, "`from` of the export is empty"),
        ({"from": "yesterday"}, "'yesterday' is no time"),
        ({"to": "2023-11-01"}, "ends before it begins"),
        ({"out": ""}, "`out` of the export is empty"),
        ({"fields": ["valu"]}, "no field valu; did you mean value"),
    ],
)
def test_a_form_that_cannot_be_meant_says_what_is_wrong(
    site: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    asked = {"topics": [FAST.text], "from": "2023-11-20", "to": "2023-11-27", "out": str(tmp_path / "out"), **wrong}
    result = exported(site, instance, **asked)
    assert not result.success
    assert says in failure_of(result)
    assert ".py" not in failure_of(result)
    assert not (tmp_path / "out").exists()
