"""Assets of exposures: one for each instrument of the directory, and where each of their columns comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from efd_pipelines.configuration import load_configuration
from efd_pipelines.definitions import build_defs
from efd_pipelines.defs.exposures import _lineage, exposure_key
from efd_pipelines.partitions import WEEKS


@pytest.fixture(scope="module")
def definitions(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    """The definitions of a configuration that names the observatory's directory, and nothing else."""
    own = tmp_path_factory.mktemp("own") / "own.yaml"
    own.write_text(f"exposures_from: {shared / 'consdb'}\n")
    return build_defs(load_configuration(own))


def columns_of(shared: Path, instrument: str) -> list[dict[str, Any]]:
    text = (shared / "consdb" / f"config_{instrument}.yaml").read_text()
    columns = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["columns"]
    return [column for column in columns if "exposure_efd" in column["tables"]]


def test_each_file_of_the_directory_is_an_asset_of_weeks(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for instrument in ("latiss", "lsstcam"):
        spec = graph.get(exposure_key(instrument))
        assert spec.partitions_def == WEEKS
        assert spec.group_name == "exposures"


@pytest.mark.parametrize("instrument", ["latiss", "lsstcam"])
def test_each_column_shows_its_unit_and_which_fields_it_is_of(
    definitions: dg.Definitions, shared: Path, instrument: str
) -> None:
    spec = definitions.resolve_asset_graph().get(exposure_key(instrument))
    described = {column.name: column for column in spec.metadata["dagster/column_schema"].columns}
    for column in columns_of(shared, instrument):
        (topic,) = column["topics"]
        shown = described[column["name"]]
        assert str(shown.description).startswith(" ".join(column["description"].split())[:20])
        assert f"({column['function']} of {topic['name']}: " in str(shown.description)
        for value in str(column.get("subset_value", "")).strip("[]").split(","):
            assert value.strip() in str(shown.description)


def test_lineage_leads_from_the_topics_fields_to_each_column(shared: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"exposures_from: {shared / 'consdb'}\n")
    join = next(one for one in load_configuration(own).exposures if one.instrument == "lsstcam")
    found = _lineage(join, {"mt_salindex301_airtemp_mean": "is skipped"}).deps_by_column
    columns = {column["name"]: column for column in columns_of(shared, "lsstcam")}
    assert set(found) == set(columns) - {"mt_salindex301_airtemp_mean"}
    for name, deps in found.items():
        (topic,) = columns[name]["topics"]
        fields = {field["name"] for field in topic["fields"]} - {columns[name].get("subset_field")}
        named = {dep.column_name.removeprefix(f"{topic['name']}.") for dep in deps}
        assert all(dep.asset_key == dg.AssetKey("raw_archive") for dep in deps)
        assert named == fields or named == {re.sub(r"\d+$", "", field) for field in fields}
