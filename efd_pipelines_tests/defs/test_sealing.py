"""Sealing in Dagster: a week that is over is sealed by the daily round or by hand, and Dagster told what it holds."""

from __future__ import annotations

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.certificates import is_valid, read_certificate
from efd_pipelines.archive.sealing import seal
from efd_pipelines.defs.sealing import news_of_seals, no_merge, sealed_archive
from efd_pipelines.partitions import ComponentWeek, add_components
from efd_pipelines.resources import Deployment
from efd_pipelines.times import Week, this_week
from efd_pipelines_tests.defs.builders import FAST, SLOW, archived, at

WEEK = Week.parse("2026-10-05")
PARTITION = ComponentWeek("MTM1M3", WEEK)


def sealed(archive: Archive) -> bool:
    certificate = read_certificate(archive, FAST, WEEK)
    return certificate is not None and is_valid(certificate, archive.snapshot(FAST))


def test_the_daily_round_seals_what_is_over_and_tells_dagster(
    archive: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    for offset in (0, 10):
        archived(archive, FAST, WEEK, 10, first_offset=offset)
    archived(archive, SLOW, this_week(), 10)
    done = definitions.resolve_job_def("daily_round").execute_in_process(instance=instance)
    assert done.success
    assert sealed(archive)
    assert instance.get_materialized_partitions(sealed_archive.key) == {PARTITION.key}
    event = instance.get_latest_materialization_event(sealed_archive.key)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert [metadata[name].value for name in ("rows", "files", "certified")] == [20, 1, 1]


def test_a_partition_is_sealed_by_hand(archive: Archive, instance: dg.DagsterInstance) -> None:
    archived(archive, FAST, WEEK, 10)
    archived(archive, SLOW, WEEK, 10)
    add_components(instance, ["MTM1M3"])
    done = dg.materialize(
        [sealed_archive],
        partition_key=PARTITION.key,
        instance=instance,
        resources={"deployment": Deployment()},
        selection=[sealed_archive],
    )
    assert done.success
    assert sealed(archive)
    assert read_certificate(archive, SLOW, WEEK) is None


def test_a_week_sealed_from_a_shell_is_told_of_by_the_next_tick(archive: Archive, instance: dg.DagsterInstance) -> None:
    archived(archive, FAST, WEEK, 10)
    assert list(news_of_seals(instance, archive, 20.0)) == []
    seal(archive, archive.settings, week=WEEK)
    (event,) = news_of_seals(instance, archive, 20.0)
    assert (event.asset_key, event.partition, event.metadata["rows"].value) == (sealed_archive.key, PARTITION.key, 10)
    assert list(news_of_seals(instance, archive, -1.0)) == [], "the next tick goes on"
    instance.report_runless_asset_event(event)
    assert list(news_of_seals(instance, archive, 20.0)) == []


def test_a_week_that_is_not_over_says_when_it_will_be(archive: Archive, instance: dg.DagsterInstance) -> None:
    running = this_week()
    archived(archive, FAST, running, 10)
    add_components(instance, ["MTM1M3"])
    with pytest.raises(dg.Failure, match="can be sealed from"):
        dg.materialize(
            [sealed_archive],
            partition_key=ComponentWeek("MTM1M3", running).key,
            instance=instance,
            resources={"deployment": Deployment()},
            selection=[sealed_archive],
        )


def test_merging_is_requested_when_a_slice_has_too_many_files(archive: Archive, instance: dg.DagsterInstance) -> None:
    tuesday = at("2026-10-06")
    archived(archive, FAST, WEEK, 8)
    assert no_merge(instance, archive, tuesday) == "No slice has too many files."
    archived(archive, FAST, WEEK, 1, first_offset=8)
    assert no_merge(instance, archive, tuesday) is None
