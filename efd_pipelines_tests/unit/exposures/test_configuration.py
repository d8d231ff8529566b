"""Transformation configurations: what loads, what is refused and how it is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from efd_pipelines.configuration import Configuration, ConfigurationError, ExposureJoin, load_configuration
from efd_pipelines.errors import UsageError
from efd_pipelines.exposures.configuration import (
    TransformationError,
    builtin_transformations,
    load_transformation,
    parse_transformation,
)
from efd_pipelines.exposures.configured import datasets_read, find_join, join_with_column
from efd_pipelines.exposures.functions import FUNCTIONS
from efd_pipelines.settings import Settings
from efd_pipelines_tests.unit.exposures.builders import a_column, a_configuration

HEAD = "version: 1.0.0\ncolumns:\n"


def refusal(*columns: str) -> str:
    with pytest.raises(TransformationError) as caught:
        parse_transformation(HEAD + "".join(columns), "config.yaml")
    return str(caught.value)


@pytest.mark.parametrize(("name", "columns", "topics"), [("lsstcam", 491, 31), ("latiss", 267, 13)])
def test_the_observatorys_files_load_unchanged(shared: Path, name: str, columns: int, topics: int) -> None:
    path = shared / "consdb" / f"config_{name}.yaml"
    transformation = load_transformation(str(path))
    document = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    assert (len(transformation.columns), len(transformation.datasets)) == (columns, topics)
    assert transformation.version == document["version"]
    assert [column.name for column in transformation.columns] == [entry["name"] for entry in document["columns"]]
    for column, entry in zip(transformation.columns, document["columns"], strict=True):
        assert [field.name for field in column.topics[0].fields] == [f["name"] for f in entry["topics"][0]["fields"]]
        assert transformation.lines[column.name] > 0


def test_every_function_of_the_observatorys_files_is_computed(shared: Path) -> None:
    loaded = [load_transformation(str(shared / "consdb" / f"config_{name}.yaml")) for name in ("lsstcam", "latiss")]
    used = Counter(column.function for transformation in loaded for column in transformation.columns)
    assert set(used) <= set(FUNCTIONS)
    assert used["most_recent_value"] == 33


def test_the_33_start_offsets_of_lsstcam_are_kept(shared: Path) -> None:
    columns = load_transformation(str(shared / "consdb" / "config_lsstcam.yaml")).columns
    assert Counter(column.start_offset_us for column in columns if column.start_offset) == {
        -3_600_000_000: 20,
        -1_800_000_000: 13,
    }


def test_start_offset_is_honoured_among_the_arguments_too() -> None:
    beside = parse_transformation(HEAD + a_column(function="most_recent_value", start_offset=-1), "a")
    within = parse_transformation(
        HEAD + a_column(function="most_recent_value", function_args="{start_offset: -1}"), "b"
    )
    assert within.columns[0].start_offset_us == -3_600_000_000
    assert within.columns[0].digest == beside.columns[0].digest


def test_two_start_offsets_that_differ_are_refused() -> None:
    message = refusal(a_column(function="most_recent_value", start_offset=-1, function_args="{start_offset: -2}"))
    assert "start_offset" in message
    assert "differs" in message


def test_an_unknown_key_is_refused_with_file_line_and_what_is_allowed() -> None:
    message = refusal(a_column(), a_column("other", subset_feild="salIndex"))
    assert "config.yaml, line 21: subset_feild is no key" in message
    assert "did you mean subset_field" in message
    assert "allowed: name, tables, function" in message


def test_an_unknown_key_of_a_topic_gets_the_keys_of_a_topic() -> None:
    message = refusal(a_column().replace("    fields:", "    field: x\n    fields:"))
    assert "allowed: name, fields" in message


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (a_column(function="avg"), "'avg' is no function; there are count, first, last, max, mean"),
        (a_column(function="stddev", function_args="{ddf: 1}"), "arguments of stddev: ddof"),
        (a_column(name="Value"), "no name for a table or column"),
        (a_column(name="v" * 64), "at most 63 bytes"),
        (a_column(name="seq_num"), "every table of results has"),
        (a_column(name="x; drop table exposure"), "no name for a table or column"),
        (a_column(topic="azimuth"), "no dataset's name"),
        (a_column(subset_field="salIndex"), "belong together"),
        (a_column(fields=["salIndex"], subset_field="salIndex", subset_value=1), "besides the subset_field"),
        (a_column(pre_aggregate_interval="often"), "no interval"),
        (a_column(pre_aggregate_interval="0s"), "no interval"),
        (a_column(store_unpivoted="True"), "store_unpivoted"),
        (a_column().replace("datatype: float", "datatype: text"), "datatype"),
        (a_column().replace("[exposure_efd]", "[exposures]"), "tables.0"),
        (a_column(start_offset=".nan"), "start_offset"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(column: str, said: str) -> None:
    message = refusal(column)
    assert said in message
    assert "config.yaml, line " in message


def test_a_column_or_key_that_stands_twice_is_refused() -> None:
    assert "stand twice: value" in refusal(a_column(), a_column())
    assert "function stands here twice, first in line 5" in refusal(a_column(function="mean\n  function: max"))


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "empty"), ("[1, 2]", "mapping"), ("columns: [", "no YAML"), ("version: 1.0.0\ncolumns: []\n", "columns")],
)
def test_a_file_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(TransformationError, match=said):
        parse_transformation(text, "config.yaml")


def test_the_digest_follows_what_decides_values_and_nothing_else() -> None:
    def digest(text: str) -> str:
        (column,) = parse_transformation(HEAD + text, "x").columns
        return column.digest

    assert digest(a_column()) == digest(a_column().replace("A column of a test.", "Other words."))
    assert digest(a_column()) == digest("# a comment\n" + a_column().replace("deg", "rad"))
    assert digest(a_column()) != digest(a_column(function="max"))
    assert digest(a_column()) != digest(a_column(fields=["demandPosition"]))
    assert digest(a_column()) != digest(a_column(start_offset=-1))


def test_the_comment_is_description_and_unit() -> None:
    (column,) = parse_transformation(HEAD + a_column(), "x").columns
    assert column.comment == "A column of a test. [deg]"
    (bare,) = parse_transformation(HEAD + a_column().replace('"deg"', "'\"\"'"), "x").columns
    assert bare.comment == "A column of a test."


def test_the_package_ships_a_demonstration() -> None:
    assert builtin_transformations() == ["builtin:demo"]
    demo = load_transformation("builtin:demo")
    assert len(demo.columns) > 40
    assert {column.tables for column in demo.columns} == {("exposure_efd",)}
    with pytest.raises(TransformationError, match="builtin:demo"):
        load_transformation("builtin:other")


def test_what_the_demonstration_reads_is_archived_within_minutes() -> None:
    configuration = load_configuration()
    datasets = load_transformation("builtin:demo").datasets
    assert [dataset.text for dataset in datasets if configuration.freshness.class_of(dataset) != "fast"] == []


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(TransformationError, match=r"none\.yaml cannot be read"):
        load_transformation(str(tmp_path / "none.yaml"))


def settings_with(*joins: ExposureJoin) -> Settings:
    return Settings(configuration=Configuration(exposures=joins))


def test_a_join_is_found_by_instrument_by_file_and_by_the_files_name(tmp_path: Path) -> None:
    path = a_configuration(tmp_path, a_column())
    configured = ExposureJoin(instrument="latiss", config=path)
    settings = settings_with(configured, ExposureJoin(instrument="lsstcam"))
    assert find_join(settings, "latiss") == configured
    assert find_join(settings, path) == configured
    assert find_join(settings, "builtin:demo").instrument == "lsstcam"
    other = find_join(settings_with(), path)
    assert (other.instrument, other.config) == ("lsstcam", path)
    with pytest.raises(UsageError, match=r"'comcam' is no instrument.*latiss, lsstcam"):
        find_join(settings, "comcam")


def test_the_datasets_that_joins_read_are_known_without_a_database() -> None:
    joins = (ExposureJoin(instrument="gone", config="/nowhere.yaml"), ExposureJoin(instrument="lsstcam"))
    names = {dataset.text for dataset in datasets_read(joins)}
    assert {"lsst.sal.MTMount.azimuth", "lsst.sal.ESS.temperature"} <= names


def test_a_column_finds_its_instrument(tmp_path: Path) -> None:
    (tmp_path / "at").mkdir()
    latiss = ExposureJoin(instrument="latiss", config=a_configuration(tmp_path / "at", a_column("mine")))
    settings = settings_with(latiss, ExposureJoin(instrument="lsstcam"))
    assert join_with_column(settings, "mine") == latiss
    with pytest.raises(UsageError, match=r"has a column mine2; did you mean mine"):
        join_with_column(settings, "mine2")
    both = settings_with(latiss, ExposureJoin(instrument="lsstcam", config=latiss.config))
    with pytest.raises(UsageError, match=r"Several instruments.*latiss, lsstcam"):
        join_with_column(both, "mine")


def test_instruments_are_found_in_the_directory_of_their_configurations(tmp_path: Path) -> None:
    (tmp_path / "joins").mkdir()
    for name in ("config_latiss.yaml", "config_lsstcam.yaml", "other.yaml"):
        (tmp_path / "joins" / name).write_text("version: 1.0.0\ncolumns: []\n")
    file = tmp_path / "efd.yaml"
    file.write_text("exposures_from: joins\n")
    found = load_configuration(file).exposures
    paths = [str(tmp_path / "joins" / f"config_{name}.yaml") for name in ("latiss", "lsstcam")]
    assert [(join.instrument, join.config) for join in found] == list(zip(("latiss", "lsstcam"), paths, strict=True))
    file.write_text("exposures_from: joins\nexposures: [{instrument: lsstcam, padding_s: 2}]\n")
    own, besides = load_configuration(file).exposures
    assert (own.config, own.padding_s, besides.instrument) == ("builtin:demo", 2.0, "latiss")


def test_a_directory_of_configurations_that_cannot_be_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "efd.yaml"
    file.write_text("exposures_from: nowhere\n")
    with pytest.raises(ConfigurationError, match=r"exposures_from.*nowhere, is not there"):
        load_configuration(file)
    (tmp_path / "config_No-Camera.yaml").touch()
    file.write_text("exposures_from: .\n")
    with pytest.raises(ConfigurationError, match=r"config_No-Camera.yaml names no instrument"):
        load_configuration(file)
