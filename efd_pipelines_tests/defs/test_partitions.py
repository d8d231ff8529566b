"""Partition keys: a contract with whoever has a bookmark, and with Dagster, which takes any text."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster import partition_loading_context
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.errors import UsageError
from efd_pipelines.partitions import (
    COMPONENT_WEEKS,
    COMPONENTS,
    WEEKS,
    ComponentWeek,
    PartitionRejected,
    add_components,
    check_components,
    component_key,
    component_of,
    known_components,
)
from efd_pipelines.times import FIRST_WEEK, Week, this_week, weeks_between

KAFKA_NAMES = st.text("abzAZ09._-", max_size=12)
components = st.one_of(KAFKA_NAMES, st.builds("{}@{}".format, st.text("ab_-", min_size=1, max_size=5), KAFKA_NAMES))


@given(components)
def test_every_component_has_one_key_that_dagster_takes(component: str) -> None:
    key = component_key(component)
    assert component_of(key) == component
    assert key
    assert "..." not in key
    assert "|" not in key


@given(st.sets(components, max_size=20))
def test_distinct_components_have_distinct_keys(names: set[str]) -> None:
    assert len({component_key(name) for name in names}) == len(names)


def test_a_plain_component_is_its_own_key() -> None:
    assert component_key("MTM1M3") == "MTM1M3"
    assert component_key("lsst.obsenv") == "lsst.obsenv"
    assert component_key("tts@MTM1M3") == "tts@MTM1M3"


def test_weeks_are_the_projects_weeks_up_to_the_running_one() -> None:
    now = datetime.now(UTC)
    keys = WEEKS.get_partition_keys(current_time=now)
    assert keys == [week.key for week in weeks_between(FIRST_WEEK, this_week(now))]


def test_a_week_begins_on_monday_in_utc() -> None:
    sunday = datetime(2026, 11, 22, 23, 59, tzinfo=UTC)
    monday = datetime(2026, 11, 23, 0, 0, 1, tzinfo=UTC)
    assert WEEKS.get_partition_keys(current_time=sunday)[-1] == "2026-11-16"
    assert WEEKS.get_partition_keys(current_time=monday)[-1] == "2026-11-23"


@pytest.mark.parametrize("key", ["MTM1M3", "MTM1M3|", "|2026-11-16", "A|B|2026-11-16", ""])
def test_a_key_without_component_or_week_is_refused(key: str) -> None:
    with pytest.raises(UsageError):
        ComponentWeek.parse(key)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("MTM1M3|2026-11-17", "is no Monday"),
        ("MTM1M3|2021-09-06", "before the first week"),
        ("MTM1M3|last week", "is no week"),
    ],
)
def test_a_key_that_is_no_week_is_refused_with_what_is_wrong(key: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ComponentWeek.parse(key)


def test_a_partition_is_its_key(instance: dg.DagsterInstance) -> None:
    add_components(instance, ["MTM1M3"])
    partition = ComponentWeek("MTM1M3", Week.parse("2026-11-16"))
    assert partition.key == "MTM1M3|2026-11-16"
    assert ComponentWeek.parse(partition.key) == partition
    with partition_loading_context(dynamic_partitions_store=instance):
        assert COMPONENT_WEEKS.has_partition_key(partition.key)


def test_components_are_added_once(instance: dg.DagsterInstance) -> None:
    assert add_components(instance, ["ESS", "MTM1M3"]) == ["ESS", "MTM1M3"]
    assert add_components(instance, ["MTM1M3", "Test"]) == ["Test"]
    assert known_components(instance) == ["ESS", "MTM1M3", "Test"]
    assert instance.get_dynamic_partitions(str(COMPONENTS.name)) == ["ESS", "MTM1M3", "Test"]


def test_an_unknown_component_is_refused_with_the_nearest(instance: dg.DagsterInstance) -> None:
    add_components(instance, ["MTM1M3", "ESS"])
    with pytest.raises(PartitionRejected, match="did you mean MTM1M3"):
        check_components(instance, ["MTM1M2"])


def parents(definitions: dg.Definitions, instance: dg.DagsterInstance, asset: dg.AssetKey, key: str) -> set[str]:
    """The partitions that one partition is made of, by Dagster's own resolution."""
    with partition_loading_context(dynamic_partitions_store=instance):
        found = definitions.resolve_asset_graph().get_parent_partition_keys_for_child(key, _parent_of(asset), asset)
        return set(found.partitions_subset.get_partition_keys())


def _parent_of(asset: dg.AssetKey) -> dg.AssetKey:
    return {
        "raw_archive": dg.AssetKey("kafka_topics"),
        "tier_1s": dg.AssetKey("raw_archive"),
        "storage_throughput": dg.AssetKey("tier_1s"),
        "exposure_efd": dg.AssetKey("raw_archive"),
    }[asset.path[-1]]


@pytest.mark.parametrize(
    ("asset", "key", "expected"),
    [
        (["raw_archive"], "ESS|2026-11-09", {"ESS"}),
        (["tier_1s"], "ESS|2026-11-09", {"ESS|2026-11-09"}),
        (["storage_throughput"], "2026-11-09", {"ESS|2026-11-09", "MTM1M3|2026-11-09"}),
        (["efd_lsstcam", "exposure_efd"], "2026-11-09", {"ESS|2026-11-09", "MTM1M3|2026-11-09"}),
    ],
)
def test_a_partition_knows_its_parents(
    definitions: dg.Definitions, instance: dg.DagsterInstance, asset: list[str], key: str, expected: set[str]
) -> None:
    add_components(instance, ["ESS", "MTM1M3"])
    assert parents(definitions, instance, dg.AssetKey(asset), key) == expected
