"""The tables of both cameras: every column of the observatory's configurations, as PostgreSQL says it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import yaml

from efd_pipelines.exposures.configuration import load_transformation
from efd_pipelines.exposures.consdb import ConsDB
from efd_pipelines.exposures.subjects import SUBJECTS
from efd_pipelines.exposures.tables import ResultTables

TYPES = {"float": "double precision"}
"""The configurations' only type; PostgreSQL's FLOAT is double precision."""

_QUERY = """
    SELECT c.column_name, c.data_type,
           col_description((quote_ident(c.table_schema) || '.' || quote_ident(c.table_name))::regclass,
                           c.ordinal_position)
    FROM information_schema.columns c WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position
"""
_UNPIVOTED = {
    "property": "character varying",
    "field": "character varying",
    "value": "double precision",
    "created_at": "timestamp without time zone",
}


def test_names_types_units_and_comments_are_the_configurations(database_url: str, shared: Path) -> None:
    compared = set()
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        for instrument in ("lsstcam", "latiss"):
            file = shared / "consdb" / f"config_{instrument}.yaml"
            columns = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["columns"]
            make_tables(database_url, instrument, file)
            for table in ("exposure_efd", "visit1_efd"):
                found = connection.execute(_QUERY, [f"efd_{instrument}", table]).fetchall()
                keys = ["day_obs", "seq_num", f"{'visit' if 'visit' in table else 'exposure'}_id", "created_at"]
                assert [name for name, _, _ in found[:4]] == keys
                wanted = [column for column in columns if table in column["tables"]]
                assert found[4:] == [(one["name"], TYPES[one["datatype"]], comment(one)) for one in wanted]
                compared |= {(instrument, one["name"]) for one in wanted}
            vectors = [one for one in columns if one.get("store_unpivoted")]
            for table in {table for one in vectors for table in one["tables"]}:
                found = connection.execute(_QUERY, [f"efd_{instrument}", table]).fetchall()
                assert {name: kind for name, kind, _ in found[3:]} == _UNPIVOTED
            # Of a vector, the provenance has the column.
            counted = connection.execute(_QUERY, [f"efd_{instrument}", "exposure_efd_provenance"]).fetchall()
            assert {one["name"] for one in vectors} <= {name for name, kind, _ in counted if kind == "integer"}
            compared |= {(instrument, one["name"]) for one in vectors}
    assert len(compared) == 758


def make_tables(url: str, instrument: str, file: Path) -> None:
    with ConsDB(url) as consdb:
        for subject in SUBJECTS:
            ResultTables.of(consdb, f"efd_{instrument}", subject, load_transformation(str(file))).ensure()


def comment(column: dict[str, Any]) -> str:
    """Description and unit of a column of the configuration, in which two quotation marks are no unit."""
    unit = column["ivoa"].get("unit", "").replace('""', "")
    return " ".join(column["description"].split()) + (f" [{unit}]" if unit else "")
