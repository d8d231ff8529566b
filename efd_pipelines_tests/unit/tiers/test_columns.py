"""Names, types and order of a tier's columns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from efd_pipelines.tiers.columns import decide_arrays, tier_columns, tier_schema
from efd_pipelines_tests.unit.tiers.builders import MONDAY_US, message, rows

SCHEMA = rows(
    [MONDAY_US],
    {
        "force": pa.array([1.0], pa.float32()),
        "torque": pa.array([1.0], pa.float64()),
        "state": pa.array([1], pa.int32()),
        "ticks": pa.array([1], pa.int64()),
        "ok": pa.array([True]),
        "name": pa.array(["x"]),
        "raw": pa.array([b"x"]),
    },
    sal_index=[1],
).schema


def flat_array(name: str, length: int, kind: pa.DataType | None = None) -> list[pa.Field[Any]]:
    return [message(f"{name}{n}", kind or pa.float32(), field=name, element=n) for n in range(length)]


def test_columns_stand_in_the_order_of_the_archive() -> None:
    names = tier_schema(SCHEMA, tier_columns(SCHEMA, "flat")).names
    assert names[:4] == ["time", "salIndex", "window_size", "count"]
    assert names[4:7] == ["first_private_sndStamp", "first_private_seqNum", "first_private_origin"]
    assert names[7:13] == [f"{s}_force" for s in ("first", "min", "max", "mean", "median", "stdev")]
    assert names[-3:] == ["first_ok", "first_name", "first_raw"]
    assert not [name for name in names if "kafka" in name or "archive" in name]


def test_statistics_have_the_fields_own_float_type_and_means_of_integers_are_double() -> None:
    schema = tier_schema(SCHEMA, tier_columns(SCHEMA, "flat"))
    assert {str(schema.field(f"{s}_force").type) for s in ("first", "min", "mean", "stdev")} == {"float"}
    assert {str(schema.field(f"{s}_torque").type) for s in ("first", "max", "median")} == {"double"}
    assert [str(schema.field(f"{s}_state").type) for s in ("first", "min", "max")] == ["int32"] * 3
    assert [str(schema.field(f"{s}_ticks").type) for s in ("first", "min", "max")] == ["int64"] * 3
    assert [str(schema.field(f"{s}_ticks").type) for s in ("mean", "median", "stdev")] == ["double"] * 3


def test_units_and_descriptions_come_along() -> None:
    column = tier_schema(SCHEMA, tier_columns(SCHEMA, "flat")).field("median_force")
    assert column.metadata[b"units"] == b"newton"
    assert column.metadata[b"description"] == b"The force."
    assert column.metadata[b"statistic"] == b"median"


def test_fields_that_are_called_like_statistics_do_not_collide() -> None:
    names = ["x", "min_x", "first_x", "count", "window_size", "max_min_x"]
    schema = pa.schema([pa.field("time", pa.timestamp("us", "UTC")), *(message(n, pa.float64()) for n in names)])
    columns = tier_schema(schema, tier_columns(schema, "flat")).names
    assert len({name.lower() for name in columns}) == len(columns) == 3 + 6 * len(names)


def test_a_table_beyond_six_thousand_columns_keeps_lists() -> None:
    narrow = pa.schema(flat_array("x", 999))
    wide = pa.schema([*flat_array("x", 1000), *flat_array("flag", 3, pa.bool_()), message("y", pa.float64())])
    assert decide_arrays(narrow) == "flat"
    assert decide_arrays(wide) == "list"
    columns = tier_schema(wide, tier_columns(wide, "list"))
    assert columns.names[3:] == [
        *(f"{s}_x" for s in ("first", "min", "max", "mean", "median", "stdev")),
        "first_flag",
        *(f"{s}_y" for s in ("first", "min", "max", "mean", "median", "stdev")),
    ]
    assert columns.field("mean_x").type == pa.list_(pa.float32())
    assert columns.field("first_flag").type == pa.list_(pa.bool_())


def test_elements_of_a_list_stand_in_their_order_whenever_they_came() -> None:
    fields = flat_array("x", 12)
    schema = pa.schema([*fields[:2], message("y", pa.float64()), *reversed(fields[2:])])
    listed = tier_columns(schema, "list")
    assert [one.name for one in listed] == ["x", "y"]
    assert listed[0].sources == tuple(f"x{n}" for n in range(12))


def test_an_array_of_one_is_a_list_too() -> None:
    (one,) = tier_columns(pa.schema(flat_array("x", 1)), "list")
    assert (one.name, one.is_list) == ("x", True)
