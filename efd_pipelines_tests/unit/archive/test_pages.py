"""Pages: a wide file that is mostly made here is what pyarrow would have written, to every reader."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from deltalake import DeltaTable, QueryBuilder, convert_to_deltalake
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.archive import page_kernel, pages, thrift
from efd_pipelines.archive.files import FileForm, encode

ROWS = 3001
TIME = pa.timestamp("us", tz="UTC")


def random_floats(kind: str, rows: int, seed: int) -> np.ndarray[Any, Any]:
    """Bits of any kind: numbers, subnormal ones, infinities, NaNs of all payloads."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, np.iinfo(f"u{kind[1]}").max, rows, f"u{kind[1]}", endpoint=True)
    values = bits.view(kind)
    values[:8] = [np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, np.finfo(kind).max, np.finfo(kind).min]
    return values


def wide_table(floats: int = 400, doubles: int = 40, rows: int = ROWS) -> pa.Table:
    """Columns of many kinds among floats; some of the floats have nulls."""
    rng = np.random.default_rng(7)
    columns: dict[str, Any] = {"time": pa.array(np.arange(rows) * 1000, TIME)}
    for n in range(floats):
        columns[f"force{n}"] = pa.array(random_floats("f4", rows, n))
    columns["state"] = pa.array([f"state {n % 3}" for n in range(rows)])
    for n in range(doubles):
        columns[f"angle{n}"] = pa.array(random_floats("f8", rows, n))
    columns["gaps"] = pa.array(np.ones(rows, np.float32), mask=rng.integers(0, 2, rows).astype(bool))
    columns["flag"] = pa.array(rng.integers(0, 2, rows).astype(bool))
    columns["list"] = pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32()))
    columns["private_sndStamp"] = pa.array(np.arange(rows) * 0.5)
    columns["kafka_offset"] = pa.array(np.arange(rows))
    table = pa.table(columns)
    described = table.schema.field("force0").with_metadata({"units": "N", "description": "a force"})
    return table.cast(table.schema.set(1, described))


def by_pyarrow(table: pa.Table) -> bytes:
    form = FileForm.of(table.schema)
    sink = io.BytesIO()
    table = pa.Table.from_arrays(table.columns, schema=form.schema)
    pq.write_table(table, sink, row_group_size=table.num_rows, **form.options)
    return sink.getvalue()


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return wide_table()


@pytest.fixture(scope="module")
def made(table: pa.Table) -> bytes:
    template = FileForm.of(table.schema).template
    floats = pages.made_here(table, template)
    assert floats is not None
    assert len(floats.places) == 440
    file = pages.encode(floats, template)
    assert file == encode(table)
    return bytes(encode(table))


def same_bits(one: pa.Table, other: pa.Table) -> bool:
    """NaNs are equal where their bits are."""
    for left, right in zip(one.columns, other.columns, strict=True):
        if pa.types.is_floating(left.type) and not left.null_count:
            kind = f"u{left.type.bit_width // 8}"
            if not np.array_equal(left.to_numpy().view(kind), right.to_numpy().view(kind)):
                return False
        elif left.to_pylist() != right.to_pylist():
            return False
    return True


def test_pyarrow_reads_every_bit_of_it(table: pa.Table, made: bytes) -> None:
    read = pq.read_table(io.BytesIO(made))
    assert read.schema.equals(pq.read_schema(io.BytesIO(by_pyarrow(table))), check_metadata=True)
    assert same_bits(read, table)


def test_other_readers_read_the_same_as_from_pyarrows_file(table: pa.Table, made: bytes, tmp_path: Any) -> None:
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    ours.write_bytes(made)
    theirs.write_bytes(by_pyarrow(table))
    assert same_bits(pl.read_parquet(ours).to_arrow(), pl.read_parquet(theirs).to_arrow())
    found = [duckdb.connect().sql(f"from '{file}'").to_arrow_table() for file in (ours, theirs)]
    assert found[0].num_rows == table.num_rows
    assert same_bits(*found)


def measured(kind: str, rows: int, columns: int = 40) -> dict[str, np.ndarray[Any, Any]]:
    """Signals whose lower bytes are noise, and among them one that stands still and one that is held for 50 rows."""
    rng = np.random.default_rng(11)
    walks = 100 + 0.01 * np.cumsum(rng.normal(size=(columns, rows)), axis=1) + 0.1 * rng.normal(size=(columns, rows))
    walks[3] = 17.25
    walks[5] = np.repeat(walks[5, ::50], 50)[:rows]
    return {f"signal{n}": walk.astype(kind) for n, walk in enumerate(walks)}


def read_by_delta_rs(directory: Path) -> pa.Table:
    """The reader of arrow-rs."""
    convert_to_deltalake(str(directory))
    found = QueryBuilder().register("files", DeltaTable(str(directory))).execute("select * from files")
    return pa.table(found.read_all())


@pytest.mark.parametrize(("kind", "rows"), [("f4", 30_000), ("f8", 131_072)])
def test_noise_is_stored_and_every_reader_reads_it_back(kind: str, rows: int, tmp_path: Any) -> None:
    table = pa.table({"time": pa.array(np.arange(rows), TIME), **measured(kind, rows)})
    ours, theirs = tmp_path / "ours/of.parquet", tmp_path / "theirs.parquet"
    ours.parent.mkdir()
    ours.write_bytes(encode(table))
    theirs.write_bytes(by_pyarrow(table))
    assert pages.made_here(table, FileForm.of(table.schema).template)
    assert ours.stat().st_size < theirs.stat().st_size
    wanted = pq.read_table(theirs)
    readings = [
        pq.read_table(ours),
        pl.read_parquet(ours).to_arrow(),
        duckdb.connect().sql(f"from '{ours}'").to_arrow_table(),
        read_by_delta_rs(ours.parent),
    ]
    for found in readings:
        assert same_bits(found.select(wanted.column_names[1:]), wanted.select(wanted.column_names[1:]))


def test_only_noise_is_stored() -> None:
    rows = 30_000
    streams = {name: values.view("u1").reshape(rows, 4).T for name, values in measured("f4", rows).items()}
    pages_of = np.array([np.concatenate(list(of)) for of in streams.values()])
    found = [page_kernel.noise(page, rows, 4, 0) for page in pages_of]
    assert (found[3], found[5]) == (0, 0)
    assert set(found[:3]) == {2}
    for page, of in zip(pages_of, found, strict=True):
        for stream in range(of):
            part = page[stream * rows : (stream + 1) * rows].tobytes()
            assert len(zstandard.compress(part, 1)) > 0.985 * rows


def test_its_footer_says_what_pyarrows_says(table: pa.Table, made: bytes) -> None:
    ours = pq.read_metadata(io.BytesIO(made))
    theirs = pq.read_metadata(io.BytesIO(by_pyarrow(table)))
    assert (ours.num_rows, ours.num_row_groups, ours.metadata) == (table.num_rows, 1, theirs.metadata)
    assert ours.schema.equals(theirs.schema)
    end = 4
    for n in range(ours.num_columns):
        one, other = ours.row_group(0).column(n), theirs.row_group(0).column(n)
        for name in ("path_in_schema", "physical_type", "num_values", "compression", "is_stats_set"):
            assert getattr(one, name) == getattr(other, name), name
        assert set(one.encodings) == set(other.encodings)
        end += one.total_compressed_size
    # The columns and the footer are the whole file.
    assert end + ours.serialized_size + 8 == len(made)
    assert ours.row_group(0).total_byte_size == sum(
        ours.row_group(0).column(n).total_uncompressed_size for n in range(ours.num_columns)
    )


def test_statistics_of_time_stay(made: bytes) -> None:
    time = pq.read_metadata(io.BytesIO(made)).row_group(0).column(0)
    assert time.statistics.has_min_max
    assert time.statistics.max.timestamp() * 1000 == ROWS - 1


def test_columns_that_are_pieces_of_a_table_are_taken_where_they_begin(table: pa.Table) -> None:
    whole = pa.concat_tables([table, table]).combine_chunks()
    piece = whole.slice(1000, ROWS)
    assert same_bits(pq.read_table(io.BytesIO(encode(piece))), piece)


def test_a_table_in_pieces_makes_the_same_file_as_in_one(table: pa.Table, made: bytes) -> None:
    pieces = pa.concat_tables([table.slice(0, 1000), table.slice(1000)])
    assert bytes(encode(pieces)) == made


def test_nulls_that_nobody_has_counted_are_counted(table: pa.Table) -> None:
    none_null = pa.array(np.ones(ROWS, np.bool_)).buffers()[1]
    values = table["force1"].chunk(0)
    uncounted = pa.Array.from_buffers(pa.float32(), ROWS, [none_null, values.buffers()[1]])
    floats = pages.made_here(table.set_column(2, "force1", uncounted), FileForm.of(table.schema).template)
    assert floats is not None
    assert 2 in floats.places


def test_pyarrow_writes_it_where_zstd_cannot_be_called(table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "zstd", lambda: None)
    assert bytes(encode(table)) == by_pyarrow(table)


def test_pages_that_do_not_fit_are_left_to_pyarrow(table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_most_bytes", lambda beginning, floats, template: beginning + 2_000_000)
    assert bytes(encode(table)) == by_pyarrow(table)


def test_what_is_small_or_narrow_is_left_to_pyarrow() -> None:
    assert not pages.is_wide(wide_table(rows=100))
    assert not pages.is_wide(wide_table(floats=2, doubles=2, rows=60_000))
    rows = wide_table(rows=100)
    assert same_bits(pq.read_table(io.BytesIO(encode(rows))), rows)


def test_floats_with_nulls_are_left_to_pyarrow(table: pa.Table) -> None:
    holey = table.set_column(1, table.schema.field(1), [pa.nulls(ROWS, pa.float32())])
    template = FileForm.of(holey.schema).template
    floats = pages.made_here(holey, template)
    assert floats is not None
    assert 1 not in floats.places
    assert same_bits(pq.read_table(io.BytesIO(encode(holey))), holey)


@given(value=st.integers(-(2**63), 2**63 - 1), text=st.text(), count=st.integers(0, 40))
def test_a_struct_is_found_again_in_what_was_written(value: int, text: str, count: int) -> None:
    numbers = [thrift.integer(n) for n in range(count)]
    inner = thrift.struct([(1, thrift.BINARY, thrift.string(text)), (9, thrift.I64, thrift.integer(value))])
    data = thrift.struct(
        [(2, thrift.LIST, thrift.listed(thrift.I32, numbers)), (3, thrift.STRUCT, inner), (4, thrift.I16, b"\2")]
    )
    parts = thrift.fields(data, 0)
    assert [thrift.number(data, part.start) for part in thrift.items(data, parts[2].start)] == list(range(count))
    found = thrift.fields(data, parts[3].start)
    assert data[found[1].start : found[1].end].endswith(text.encode())
    assert thrift.number(data, found[9].start) == value
    assert parts[4].end == len(data) - 1
