"""Columns of the archive that a configuration's names mean."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.exposures.columns import Element, TopicColumns, UnknownField, select
from efd_pipelines.exposures.configuration import parse_transformation
from efd_pipelines.exposures.samples import element_values, rows_selected, sample_block
from efd_pipelines.topics.layout import Column, arrow_field, plan_layout
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import parse_schema
from efd_pipelines_tests.unit.exposures.builders import TEMPERATURE, a_column

DATASET = Dataset.parse("lsst.sal.Test.arrays")
F32, F64, TEXT = pa.float32(), pa.float64(), pa.string()


def topic(*columns: Column) -> TopicColumns:
    fields = [pa.field("time", pa.timestamp("us", tz="UTC")), *(arrow_field(column) for column in columns)]
    return TopicColumns(DATASET, pa.schema([*fields, pa.field("kafka_offset", pa.int64())]))


def array(name: str, count: int) -> list[Column]:
    return [Column(f"{name}{n}", name, n, F32) for n in range(count)]


def test_a_field_an_element_and_a_whole_array_are_found() -> None:
    found = topic(Column("angle", "angle", None, F64), *array("item", 3))
    assert found.numbers("angle") == (Element(("angle",)),)
    assert found.numbers("item2") == (Element(("item2",)),)
    assert found.numbers("item") == (Element(("item0",)), Element(("item1",)), Element(("item2",)))


def test_a_field_whose_column_had_to_be_renamed_keeps_its_name() -> None:
    found = topic(Column("source", "source", None, F64), Column("Source__", "Source", None, F64))
    assert found.numbers("Source") == (Element(("Source__",)),)


def test_a_field_that_changed_its_type_is_read_from_both_columns() -> None:
    found = topic(Column("angle", "angle", None, pa.int32()), Column("angle__double", "angle", None, F64))
    (element,) = found.numbers("angle")
    table = pa.table({"angle": pa.array([1, None], pa.int32()), "angle__double": pa.array([None, 2.5])})
    assert element_values(table, element)[:, 0].tolist() == [1.0, 2.5]


def test_an_element_that_two_arrays_could_mean_is_refused() -> None:
    columns = [*array("ldo", 21), *(Column(f"ldo2__{n}", "ldo2", n, F32) for n in range(3))]
    with pytest.raises(UnknownField, match="several arrays"):
        topic(*columns).numbers("ldo20")
    assert topic(*columns).numbers("ldo19") == (Element(("ldo19",)),)


def test_an_unknown_field_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownField, match=r"has no field visitDof3; did you mean visitDoF3"):
        topic(*array("visitDoF", 5)).numbers("visitDof3")
    with pytest.raises(UnknownField, match="item3"):
        topic(*array("item", 3)).numbers("item3")


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UnknownField, match="name is no number"):
        topic(Column("name", "name", None, TEXT)).numbers("name")


def test_the_archives_own_columns_are_no_fields() -> None:
    with pytest.raises(UnknownField):
        topic(Column("angle", "angle", None, F64)).find("kafka_offset")


def test_lists_answer_for_elements_and_for_all() -> None:
    found = topic(Column("item", "item", None, pa.list_(F32)))
    table = pa.table({"item": pa.array([[1, 2, 3], [4], None, []], pa.list_(F32))})
    whole = element_values(table, found.numbers("item")[0])
    np.testing.assert_array_equal(whole, [[1, 2, 3], [4, np.nan, np.nan], [np.nan] * 3, [np.nan] * 3])
    np.testing.assert_array_equal(element_values(table, found.numbers("item2")[0])[:, 0], [3, np.nan, np.nan, np.nan])
    assert np.isnan(element_values(table, found.numbers("item9")[0])).all()


def test_samples_stay_float32_where_all_are_and_null_is_nan() -> None:
    table = pa.table({"a": pa.array([1.5, None], F32), "b": pa.array([True, False])})
    narrow = sample_block(table, [Element(("a",))])
    both = sample_block(table, [Element(("a",)), Element(("b",))])
    assert (str(narrow.dtype), str(both.dtype)) == ("float32", "float64")
    np.testing.assert_array_equal(both, [[1.5, np.nan], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("value", "column", "expected"),
    [
        (112, pa.array([112, 301, None], pa.int32()), [True, False, False]),
        ("[112, 301]", pa.array([112, 301, 5], pa.int32()), [True, True, False]),
        ('"112"', pa.array([112, 301, 5], pa.int32()), [True, False, False]),
        ("north", pa.array(["north", "south", None]), [True, False, False]),
        ("[1, 2]", pa.array(["1", "12", None]), [True, False, False]),
    ],
)
def test_a_subset_is_one_value_or_several_as_the_field_has_them(
    value: object, column: pa.Array, expected: list[bool]
) -> None:
    text = a_column(topic=TEMPERATURE, fields=["angle", "part"], subset_field="part", subset_value=value)
    (wanted,) = parse_transformation("version: 1\ncolumns:\n".replace("1\n", '"1"\n', 1) + text, "x").columns
    known = topic(Column("angle", "angle", None, F64), Column("part", "part", None, column.type))
    selection = select(wanted, wanted.topics[0], known)
    assert selection.elements == (Element(("angle",)),)
    chosen = rows_selected(pa.table({"angle": [1.0, 2.0, 3.0], "part": column}), selection)
    assert chosen is not None
    assert chosen.tolist() == expected


def test_a_subset_value_that_cannot_be_is_refused() -> None:
    text = a_column(topic=TEMPERATURE, fields=["angle", "part"], subset_field="part", subset_value="north")
    (wanted,) = parse_transformation('version: "1"\ncolumns:\n' + text, "x").columns
    known = topic(Column("angle", "angle", None, F64), Column("part", "part", None, pa.int32()))
    with pytest.raises(UnknownField, match="is a number"):
        select(wanted, wanted.topics[0], known)


def test_names_are_those_of_the_registered_schema() -> None:
    schema = parse_schema(
        '{"type":"record","name":"x","namespace":"lsst.sal.Test","fields":['
        '{"name":"ra","type":{"type":"array","items":"double"},"default":[0,0,0]},{"name":"rate","type":"float"}]}'
    )
    found = TopicColumns(DATASET, plan_layout(schema).arrow_schema())
    assert len(found.numbers("ra")) == 3
    assert found.names == ["ra", "ra0", "ra1", "ra2", "rate"]
