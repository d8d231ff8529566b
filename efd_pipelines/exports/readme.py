"""README: what an export says of itself for people: what it is, and how to open it with each tool.

The snippets are also in the manifest and in the output of a run; each of them is run by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

README = "README.md"


def snippets(address: str, schema: pa.Schema) -> dict[str, str]:
    """How to open one topic's directory, by tool; ready to run."""
    names = list(schema.names)
    given = {
        "address": address,
        "time": "time" if "time" in names else "tai_time",
        "column": example_column(schema),
    }
    return {tool: text.format(**given) for tool, text in _SNIPPETS.items()}


def example_column(schema: pa.Schema) -> str:
    """A column worth looking at: the first number of the message's own."""
    numbers = [
        column.name
        for column in schema
        if (pa.types.is_floating(column.type) or pa.types.is_integer(column.type))
        and not column.name.startswith(
            ("private_", "first_private_", "salIndex", "window_size", "exposure_id", "visit_id")
        )
    ]
    return str(numbers[0] if numbers else schema.names[-1])


def readme(manifest: Mapping[str, Any], where: str) -> str:
    """The text beside the data."""
    request = manifest["request"]
    filled = [topic for topic in manifest["topics"] if topic["files"]]
    lines = [
        f"| {topic['dataset']} | {_from(topic)} | {topic['rows']:,} | {len(topic['files'])}"
        f" | {topic['files'][0]['from']} | {topic['files'][-1]['to']} | {len(topic['gaps'])} |"
        for topic in filled
    ]
    empty = [topic["dataset"] for topic in manifest["topics"] if not topic["files"]]
    expires = manifest.get("expires_at")
    return _README.format(
        what=_what(request),
        scale=_SCALES[request.get("time_scale", "utc")],
        version=manifest["made_by"]["version"],
        topics="\n".join(lines),
        empty=f"\nWithout rows in this range: {', '.join(empty)}.\n" if empty else "",
        notes="".join(f"\n> {note}\n" for note in manifest["notes"]),
        expires=f"\nIt may be removed after {expires}.\n" if expires else "",
        tools="\n".join(
            f"## {_TITLES[tool]}\n\n```{'sql' if tool == 'duckdb' else 'python'}\n{text}```\n"
            for tool, text in manifest["open_it"].items()
        ),
        s3=_S3 if where.startswith("s3://") else "",
    )


def _what(request: Mapping[str, Any]) -> str:
    asked = request.get("exposures")
    span = f"{request['from']} to {request['to']} (end excluded)" if request["from"] else ""
    if not asked:
        return f"Engineering data, {span}"
    numbers = " {} to {}".format(*asked["numbers"]) if asked["numbers"] else ""
    return f"Engineering data of the {asked['subject']}{numbers} of {asked['instrument']}{', ' if span else ''}{span}"


def _from(topic: Mapping[str, Any]) -> str:
    resampled = topic.get("resampled_s")
    return str(topic["table"]) if not resampled else f"{topic['table']}, windows of {resampled:g} s"


_SCALES = {
    "utc": "`time` (UTC)",
    "tai": "`tai_time` (TAI, without a zone, as ConsDB has it)",
    "both": "`time` (UTC; `tai_time` is the same in TAI)",
}
_TITLES = {"dask": "Dask", "pandas": "pandas", "duckdb": "DuckDB", "polars": "Polars"}

_SNIPPETS = {
    "dask": """import dask.dataframe as dd

frame = dd.read_parquet("{address}", index="{time}", calculate_divisions=True)
assert frame.known_divisions
frame["{column}"].mean().compute()
""",
    "pandas": """import pandas as pd

frame = pd.read_parquet("{address}").set_index("{time}")
frame["{column}"].describe()
""",
    "duckdb": """SELECT count(*), min({time}), max({time}), avg("{column}")
FROM read_parquet('{address}/*.parquet');
""",
    "polars": """import polars as pl

frame = pl.scan_parquet("{address}/*.parquet")
frame.select("{time}", "{column}").collect()
""",
}

_S3 = """
On S3 give each reader your endpoint and keys (`storage_options`, or DuckDB's `CREATE SECRET`).
"""

_README = """# {what}

Parquet files sorted by {scale}, one directory per topic, made by efd_pipelines {version}.
`manifest.json` says where the rows came from, their columns and units, and the SHA-256 of each file.
An export without a manifest is unfinished. Move it as a whole and as it is.

| topic | from | rows | files | first (UTC) | last (UTC) | known gaps |
| --- | --- | ---: | ---: | --- | --- | ---: |
{topics}
{empty}{expires}{notes}
Repeated records are counted once; rows without a possible time and frames that could not be decoded are not
here. A missing number is NaN where the message said NaN, and null where it said nothing.

{tools}{s3}"""
