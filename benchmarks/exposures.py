"""Exposure joins: values of a night of exposures from a sealed archive, and rows of results into PostgreSQL.

Baselines are what the present service does (efd-facts.md §5.2): rows are upserted by multi-row VALUES in chunks of 100,
a connection and a commit each; samples are selected in a pandas frame, once for each exposure and column, here on a
part of the columns. The archive is made first: noise at the declared rates, the fields that the configuration names,
in files of an hour as they are when they are sealed. What both write is compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import Benchmark, Figures, best_seconds, note, run
from benchmarks._live_exposures import measure_live

NIGHT = datetime(2026, 11, 17, 1, tzinfo=UTC)
CYCLE_S = 36.0
EXPOSURE_S = 30.0
SHARED = Path(__file__).parents[2] / "shared" / "consdb" / "config_lsstcam.yaml"
_ROWS = 4000
_ROWS_CHUNKED = 400
_COLUMNS = 480
_FRAMES = 12


def measure(options: argparse.Namespace) -> Figures:
    from efd_pipelines.servers.postgresql import PostgresServer

    if options.live:
        return measure_live(options.live)
    with tempfile.TemporaryDirectory(prefix="efd-bench-") as directory:
        server = PostgresServer(Path(directory) / "postgres", die_with_parent=True)
        server.start()
        try:
            figures = _upserts(server.make_database("upserts"))
            if not options.only_upsert:
                figures |= _joins(Path(directory), server.make_database("joins"), options)
        finally:
            server.erase()
    return figures


def _upserts(url: str) -> dict[str, Any]:
    """480 columns of doubles, into a table that has the rows already: every one is an update."""
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql

    from efd_pipelines.exposures import bulk
    from efd_pipelines.exposures.consdb import ConsDB

    rng = np.random.default_rng(1)
    values = rng.standard_normal((_ROWS, _COLUMNS))
    values[rng.random(values.shape) < 0.05] = np.nan
    table = sa.Table(
        "exposure_efd",
        sa.MetaData(),
        sa.Column("day_obs", sa.Integer, primary_key=True),
        sa.Column("seq_num", sa.Integer, primary_key=True),
        sa.Column("exposure_id", sa.BigInteger, unique=True, nullable=False),
        *(sa.Column(f"c{n}", sa.Double) for n in range(_COLUMNS)),
    )
    numbers = np.arange(_ROWS)
    engine = sa.create_engine(url)
    table.create(engine)
    keys: dict[str, Any] = {
        "day_obs": numbers.astype(np.int32),
        "seq_num": numbers.astype(np.int32),
        "exposure_id": numbers,
    }
    rows = bulk.Rows({**keys, **{f"c{n}": values[:, n] for n in range(_COLUMNS)}})

    def ours() -> None:
        with ConsDB(url) as consdb, consdb.writing("The benchmark") as connection:
            bulk.upsert(consdb, connection, table, rows)

    records = [
        {"day_obs": n, "seq_num": n, "exposure_id": n}
        | {f"c{c}": None if np.isnan(values[n, c]) else float(values[n, c]) for c in range(_COLUMNS)}
        for n in range(_ROWS_CHUNKED)
    ]

    def chunked() -> None:
        for first in range(0, len(records), 100):
            statement = postgresql.insert(table).values(records[first : first + 100])
            changes = {
                column.name: statement.excluded[column.name] for column in table.columns if column.name != "day_obs"
            }
            with engine.begin() as connection:
                connection.execute(statement.on_conflict_do_update(index_elements=["day_obs", "seq_num"], set_=changes))

    note("upserting")
    seconds = best_seconds(ours, 2)
    slow = best_seconds(chunked, 2)
    engine.dispose()
    return {"upsert_ours_rows_s": _ROWS / seconds, "upsert_chunked_values_rows_s": _ROWS_CHUNKED / slow}


def _joins(directory: Path, url: str, options: argparse.Namespace) -> dict[str, Any]:
    from pydantic import SecretStr

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.configuration import ExposureJoin
    from efd_pipelines.exposures.configuration import load_transformation
    from efd_pipelines.exposures.consdb import write_exposures
    from efd_pipelines.exposures.joins import join_exposures
    from efd_pipelines.settings import load_settings

    environment = {"EFD_ARCHIVE": str(directory / "archive")}
    settings = load_settings(environment, None).model_copy(update={"consdb_url": SecretStr(url)})
    archive = Archive(settings)
    transformation = load_transformation(options.config)
    note("making the archive")
    rows = _make_archive(archive, transformation, options)
    write_exposures(url, "cdb_lsstcam", _exposures(options.exposures))
    note("joining")
    join = ExposureJoin(instrument="lsstcam", config=options.config)
    started, cpu = time.perf_counter(), time.process_time()
    result = join_exposures(archive, settings, join)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "join_seconds": seconds,
        "join_cpu_seconds": cpu,
        "exposures": result.exposures,
        "visits": result.visits,
        "columns": result.columns,
        "values": result.values,
        "rows_archived": rows,
        "frame_per_exposure_seconds": _frames(archive, transformation, options, result.columns),
    }


def _exposures(count: int) -> list[dict[str, Any]]:
    from efd_pipelines.exposures.consdb import naive_tai

    rows = []
    for n in range(count):
        begin = NIGHT + timedelta(seconds=n * CYCLE_S)
        rows.append(
            {
                "day_obs": 20261116,
                "seq_num": n + 1,
                "exposure_id": 20261116 * 100_000 + n + 1,
                "exposure_name": f"MC_O_20261116_{n + 1:06d}",
                "obs_start": naive_tai(begin),
                "obs_end": naive_tai(begin + timedelta(seconds=EXPOSURE_S)),
            }
        )
    return rows


def _make_archive(archive: Any, transformation: Any, options: argparse.Namespace) -> int:
    """Every topic that the configuration reads, in a file for each hour: its fields, and what tells records apart."""
    fields: dict[Any, dict[str, None]] = {}
    indices: dict[Any, set[int]] = {}
    for column in transformation.columns:
        for topic in column.topics:
            fields.setdefault(topic.dataset, {}).update(dict.fromkeys(column.measured(topic)))
            indices.setdefault(topic.dataset, set()).update(int(value) for value in column.subset_values)
    hours = int(options.exposures * CYCLE_S // 3600) + 1
    return sum(
        _make_topic(archive, dataset, list(names), sorted(indices[dataset]) or [1], hours)
        for dataset, names in fields.items()
    )


def _make_topic(archive: Any, dataset: Any, names: list[str], indices: list[int], hours: int) -> int:
    from efd_pipelines.archive.files import write_data_file
    from efd_pipelines.archive.ledger import RAW, relative_of, rows_of
    from efd_pipelines.archive.slices import Slice, SliceUnit
    from efd_pipelines.archive.tables import commit, open_table
    from efd_pipelines.times import microseconds

    relative = relative_of(RAW, dataset)
    rate = min(archive.settings.configuration.rate_hz(dataset), 50.0)
    files, schema, rows = [], None, 0
    for hour in range(-1, hours):
        start_us = microseconds(NIGHT) + hour * 3_600_000_000
        table = pa.concat_tables(_hour(names, start_us, rate, index) for index in indices)
        part = Slice.containing(start_us, SliceUnit.HOUR)
        files.append(write_data_file(archive.store, relative, part.week.key, part.key, table))
        schema, rows = table.schema, rows + table.num_rows
    made = commit(
        archive.store,
        relative,
        open_table(archive.store, relative),
        add=files,
        transactions={},
        schema=schema,
        note={"kind": "drain"},
    )
    archive.ledger.append(rows_of(RAW, dataset, made))
    return rows


def _hour(names: list[str], start_us: int, rate_hz: float, index: int) -> pa.Table:
    from efd_pipelines.topics.layout import Column, arrow_field

    count = int(3600 * rate_hz)
    rng = np.random.default_rng([start_us // 1_000_000, index])
    time_us = start_us + np.arange(count) * round(1e6 / rate_hz)
    wave = np.sin(np.arange(count) / 500).astype(np.float32)
    noise = rng.standard_normal(count, dtype=np.float32)
    private = {
        "salIndex": np.full(count, index, dtype=np.int32),
        "private_sndStamp": time_us / 1e6 + 37.0,
        "private_seqNum": np.arange(count, dtype=np.int32),
        "private_origin": np.full(count, 7, dtype=np.int32),
    }
    columns = [(pa.field("time", pa.timestamp("us", tz="UTC")), pa.array(time_us, pa.timestamp("us", tz="UTC")))]
    for n, name in enumerate(names):
        array = pa.array(wave * n + np.roll(noise, 17 * n))
        columns.append((arrow_field(Column(name, name, None, array.type)), array))
    for name, values in private.items():
        array = pa.array(values)
        columns.append((arrow_field(Column(name, name, None, array.type)), array))
    return pa.Table.from_arrays([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))


def _frames(archive: Any, transformation: Any, options: argparse.Namespace, columns: int) -> float:
    """Seconds that the way of a frame per column and a filter per exposure would take, from some of the columns."""
    from efd_pipelines.archive.reading import read

    simple = [
        column
        for column in transformation.columns
        if column.function in ("mean", "stddev", "min", "max") and not column.store_unpivoted
    ]
    some = simple[:: max(1, len(simple) // _FRAMES)]
    begins = [NIGHT + timedelta(seconds=n * CYCLE_S) for n in range(options.exposures)]
    started = time.perf_counter()
    for column in some:
        for fields, frame in _read_frames(archive, column, begins, read):
            for begin in begins:
                inside = frame[(frame.index >= begin) & (frame.index <= begin + timedelta(seconds=EXPOSURE_S))]
                np.nanmean(inside[fields].to_numpy())
    return (time.perf_counter() - started) * columns / len(some)


def _read_frames(archive: Any, column: Any, begins: list[datetime], read: Any) -> Iterator[tuple[list[str], Any]]:
    from efd_pipelines.times import microseconds

    for topic in column.topics:
        fields = list(column.measured(topic))
        table = read(
            archive.snapshot(topic.dataset),
            columns=["time", "salIndex", *fields],
            start_us=microseconds(begins[0]),
            end_us=microseconds(begins[-1] + timedelta(seconds=EXPOSURE_S)),
        )
        frame = table.to_pandas()
        if column.subset_values:
            frame = frame[frame["salIndex"].isin([int(value) for value in column.subset_values])]
        yield fields, frame.set_index("time")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exposures", type=int, default=100, help="of 30 s, every 36 s; 1000 are a night")
    parser.add_argument("--config", default=str(SHARED) if SHARED.exists() else "builtin:demo")
    parser.add_argument(
        "--live", type=float, metavar="SECONDS", help="instead: how late rows are in the demo as `efd dev` runs it"
    )
    parser.add_argument("--only-upsert", action="store_true", help="leave out the joins")


BENCHMARK = Benchmark(
    name="exposures",
    about="Exposures joined to telemetry from a sealed archive into PostgreSQL; upserts of 480 columns of doubles.",
    measure=measure,
    ratios={
        "upsert: ours to chunks of VALUES": ("upsert_ours_rows_s", "upsert_chunked_values_rows_s"),
        "join: a frame per exposure to ours": ("frame_per_exposure_seconds", "join_seconds"),
        "live: the least of the present service to our 95th percentile": ("present_service_least_s", "latency_p95_s"),
    },
    arguments=_arguments,
    packages=("numba", "numpy", "pyarrow", "psycopg", "SQLAlchemy"),
)

if __name__ == "__main__":
    run(BENCHMARK)
