"""The 1 s tier: five exact statistics of forceActuatorData's 812 floats at 50 Hz.

From columns in memory to columns in memory: an hour, the slice in which the tier is computed. Baselines: the best that
Polars and DuckDB know for it, with all cores; Polars with one; and Python's `statistics`, one call for each window,
statistic and field, as kafka-aggregator does it (efd-facts §4), on a part of the fields. `…_mvalues_cpu_s` are for a
second of processor time instead of one of the clock. Then the same with NaN among the samples and for windows of other
lengths, beside Polars. Then end to end, from Parquet files of the archive to a Parquet file. Ours gives `first_` of
each field as well. What is compared is checked to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import Benchmark, Figures, best_seconds, note, run
from efd_pipelines.settings import Settings, load_settings

RATE_HZ = 50
STEP_US = 1_000_000 // RATE_HZ
START_US = 1_700_438_400_000_000
FIVE = ("min", "max", "mean", "median", "stdev")
OTHER_WINDOWS = (7, 49, 51, 3000)
_PYTHON_COLUMNS, _PYTHON_ROWS = 4, 20_000
_OTHER_ROWS, _FILE_ROWS = 30_000, 30_000
_ONE_CORE_ROWS = 60_000
_SQL = {"min": "min", "max": "max", "mean": "avg", "median": "median", "stdev": "stddev_samp"}


def samples(rows: int, columns: int) -> pa.Table:
    """Noise on slow waves, as actuators have it."""
    random = np.random.default_rng(1)
    time = START_US + np.arange(rows) * STEP_US
    wave = np.sin(np.arange(rows) / 500)
    values = {f"force{n}": (100 * n + 50 * wave + random.normal(size=rows)).astype(np.float32) for n in range(columns)}
    return pa.table({"time": pa.array(time).cast(pa.timestamp("us", tz="UTC")), **values})


def holes(table: pa.Table) -> pa.Table:
    """The table with one value in a hundred missing."""
    random = np.random.default_rng(2)
    columns = [table["time"]]
    for name in table.column_names[1:]:
        values = table[name].to_numpy().copy()
        values[random.random(len(values)) < 0.01] = np.nan
        columns.append(pa.chunked_array([pa.array(values)]))
    return pa.table(columns, names=table.column_names)


def ours(table: pa.Table, samples_per_window: int = RATE_HZ) -> Callable[[], pa.Table]:
    from efd_pipelines.tiers.columns import TierForm
    from efd_pipelines.tiers.rows import TableRows
    from efd_pipelines.tiers.summary import summarise

    form = TierForm.of(table.schema, "flat")
    # What is in memory need not be read a tile at a time.
    return lambda: summarise(TableRows(table), samples_per_window * STEP_US, form=form, tile_bytes=table.nbytes)


def kernel_seconds(table: pa.Table) -> float:
    """The computing alone, from a block of numbers to blocks of numbers."""
    from efd_pipelines.tiers.statistics import Samples, statistics_of

    block = np.stack([table[name].to_numpy() for name in table.column_names[1:]])
    starts = np.arange(0, table.num_rows, RATE_HZ)
    ends = np.minimum(starts + RATE_HZ, table.num_rows)
    return best_seconds(lambda: statistics_of(Samples.of_tile(block), starts, ends))


def polars(
    table: pa.Table, samples_per_window: int = RATE_HZ, *, has_nan: bool = False
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Its two ways: by the truncated time, and by dynamic windows."""
    import polars as pl

    frame = pl.DataFrame(table).lazy()
    every = f"{samples_per_window * STEP_US}us"
    aggregations = polars_aggregations(table.column_names[1:], has_nan=has_nan)

    def grouped() -> Any:
        window = pl.col("time").dt.truncate(every)
        return frame.group_by(window, maintain_order=True).agg(aggregations).collect()

    def dynamic() -> Any:
        return frame.group_by_dynamic("time", every=every).agg(aggregations).collect()

    return grouped, dynamic


def polars_aggregations(names: list[str], *, has_nan: bool = False) -> list[Any]:
    import polars as pl

    aggregations = []
    for name in names:
        column = pl.col(name).fill_nan(None) if has_nan else pl.col(name)
        five = (column.min(), column.max(), column.mean(), column.median(), column.std())
        aggregations += [one.alias(f"{s}_{name}") for s, one in zip(FIVE, five, strict=True)]
    return aggregations


def duckdb(table: pa.Table) -> Callable[[], Any]:
    import duckdb as engine

    figures = duckdb_figures(table.column_names[1:])
    connection = engine.connect()
    connection.execute("SET preserve_insertion_order = false")
    connection.register("incoming", table)
    connection.execute("CREATE TABLE samples AS SELECT epoch_us(time) // 1000000 AS w, * FROM incoming")
    query = f"SELECT w, {figures} FROM samples GROUP BY w ORDER BY w"
    return lambda: connection.sql(query).to_arrow_table()


def duckdb_figures(names: list[str]) -> str:
    return ", ".join(f"{_SQL[s]}({name}) AS {s}_{name}" for name in names for s in FIVE)


def python_statistics(table: pa.Table) -> dict[str, list[float]]:
    """As kafka-aggregator: a list of each window's values, and a function of `statistics` for each figure."""
    functions: tuple[Callable[[list[float]], float], ...] = (
        min,
        max,
        statistics.mean,
        statistics.median,
        statistics.stdev,
    )
    results: dict[str, list[float]] = {}
    for name in table.column_names[1:]:
        values = table[name].to_pylist()
        windows = [values[start : start + RATE_HZ] for start in range(0, len(values), RATE_HZ)]
        for statistic, function in zip(FIVE, functions, strict=True):
            results[f"{statistic}_{name}"] = [float(function(window)) for window in windows]
    return results


def check_equal(found: pa.Table, other: Any, names: list[str]) -> None:
    """The exact ones bit for bit, mean and stdev within float32."""
    for name in names:
        for statistic in FIVE:
            mine = found[f"{statistic}_{name}"].to_numpy()
            theirs = np.asarray(other[f"{statistic}_{name}"], np.float64).astype(np.float32)
            if statistic in ("min", "max", "median"):
                np.testing.assert_array_equal(mine, theirs)
            else:
                np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-6)


def measure(options: argparse.Namespace) -> Figures:
    if options.week:
        from benchmarks import _week

        return _week.measure(options)
    table = samples(options.rows, options.columns)
    values = options.rows * options.columns / 1e6
    if options.only_polars:
        return {"polars_mvalues_s": values / _best(*polars(table), repeats=1)}
    figures = _in_memory(table, values)
    figures |= _other_windows(table)
    figures |= _end_to_end(table.slice(0, options.end_to_end_rows))
    figures["polars_one_core_mvalues_s"] = _polars_on_one_core(options)
    return {**figures, "rows": options.rows, "columns": options.columns, "samples_per_window": RATE_HZ}


def _best(*ways: Callable[[], Any], repeats: int = 2) -> float:
    return min(best_seconds(way, repeats) for way in ways)


def _in_memory(table: pa.Table, values: float) -> dict[str, float]:
    names = table.column_names[1:]
    part = table.select(table.column_names[: _PYTHON_COLUMNS + 1]).slice(0, _PYTHON_ROWS)
    way, by_sql = ours(table), duckdb(table)
    note("checking that all agree")
    found = way()
    for other in (polars(table)[0](), by_sql()):
        check_equal(found, other, names)
    check_equal(found.slice(0, -(-part.num_rows // RATE_HZ)), python_statistics(part), part.column_names[1:])
    del found, other
    note("measuring from memory to memory")
    figures = {"ours_kernel_mvalues_s": values / kernel_seconds(table)}
    few = part.num_rows * _PYTHON_COLUMNS / 1e6
    cases: tuple[tuple[str, float, int, tuple[Callable[[], Any], ...]], ...] = (
        ("ours", values, 5, (way,)),
        ("polars", values, 1, polars(table)),
        ("duckdb", values, 1, (by_sql,)),
        ("python_statistics", few, 1, (lambda: python_statistics(part),)),
    )
    for name, of, repeats, ways in cases:
        wall_s, processor_s = _least(ways, repeats)
        figures[f"{name}_mvalues_s"], figures[f"{name}_mvalues_cpu_s"] = of / wall_s, of / processor_s
    return figures


def _least(ways: Sequence[Callable[[], Any]], repeats: int) -> tuple[float, float]:
    """The shortest time and the least processor time, of all threads, that any run of some ways took.

    Where others use the processors as well, the second says more.
    """
    wall_s, processor_s = [], []
    for way in ways:
        for _ in range(repeats + 1):
            began, used = time.perf_counter(), time.process_time()
            way()
            wall_s.append(time.perf_counter() - began)
            processor_s.append(time.process_time() - used)
    return min(wall_s), min(processor_s)


def _other_windows(table: pa.Table) -> dict[str, float]:
    """Ours and Polars, with NaN in the data and with windows of other lengths. Polars has a part of the rows."""
    figures: dict[str, float] = {}
    fields = table.num_columns - 1
    cases = [("nan", holes(table), RATE_HZ), *((f"window_{n}", table, n) for n in OTHER_WINDOWS)]
    for case, data, length in cases:
        note(f"measuring {case}")
        part = data.slice(0, _OTHER_ROWS)
        others = polars(part, length, has_nan=case == "nan")
        check_equal(ours(part, length)(), others[0](), data.column_names[1:])
        wall_s, processor_s = _least((ours(data, length),), 4)
        values = data.num_rows * fields / 1e6
        figures[f"ours_{case}_mvalues_s"], figures[f"ours_{case}_mvalues_cpu_s"] = values / wall_s, values / processor_s
        figures[f"polars_{case}_mvalues_s"] = part.num_rows * fields / 1e6 / _best(*others, repeats=1)
    return figures


def _end_to_end(table: pa.Table) -> dict[str, float]:
    """From the same Parquet files, as the archive writes them, to Parquet."""
    import duckdb as engine
    import polars as pl

    note("measuring from Parquet to Parquet")
    values = table.num_rows * (table.num_columns - 1) / 1e6
    with TemporaryDirectory() as directory:
        files = _written(Path(directory), table)
        settings = load_settings({}, None, archive=directory)
        aggregations = polars_aggregations(table.column_names[1:])
        query = f"""COPY (SELECT epoch_us(time) // 1000000 AS w, {duckdb_figures(table.column_names[1:])}
            FROM read_parquet({files}) GROUP BY w ORDER BY w)
            TO '{directory}/duckdb.parquet' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"""

        def by_ours() -> None:
            _summarise_files(settings, "ours", files, table.schema)

        def by_polars() -> None:
            window = pl.col("time").dt.truncate("1s")
            grouped = pl.scan_parquet(files).group_by(window, maintain_order=True).agg(aggregations).collect()
            grouped.write_parquet(f"{directory}/polars.parquet", compression="zstd", compression_level=1)

        seconds = {
            "ours": best_seconds(by_ours, 2),
            "polars": best_seconds(by_polars, 1),
            "duckdb": best_seconds(lambda: engine.connect().execute(query), 1),
        }
        (mine,) = (Path(directory) / "ours").rglob("*.parquet")
        check_equal(pq.read_table(mine), pl.read_parquet(f"{directory}/polars.parquet"), table.column_names[1:])
    return {f"end_to_end_{name}_mvalues_s": values / taken for name, taken in seconds.items()}


def _written(directory: Path, table: pa.Table) -> list[str]:
    """Files of ten minutes, as a drain leaves them."""
    from efd_pipelines.archive.files import encode

    paths = []
    for first in range(0, table.num_rows, _FILE_ROWS):
        paths.append(str(directory / f"{first:08}.parquet"))
        Path(paths[-1]).write_bytes(encode(table.slice(first, _FILE_ROWS)))
    return paths


def _summarise_files(settings: Settings, relative: str, files: list[str], schema: pa.Schema) -> None:
    """What a tier does with the files of a slice."""
    from efd_pipelines.archive.files import DataFile, encoded_file, put_file
    from efd_pipelines.archive.store import Store
    from efd_pipelines.tiers.columns import TierForm
    from efd_pipelines.tiers.rows import ArchivedRows
    from efd_pipelines.tiers.summary import summarise

    store = Store(settings.archive, settings)
    known = [DataFile(Path(file).name, "", "", 0, 0) for file in files]
    with ArchivedRows(store, "", known, schema, START_US, START_US + 3_600_000_000) as rows:
        form = TierForm.of(rows.schema, "flat")
        file = encoded_file("2023-11-20", "2023-11-20T00", summarise(rows, 1_000_000, form=form), form.file)
        put_file(store, relative, file)


def _polars_on_one_core(options: argparse.Namespace) -> float:
    """In another process: Polars takes its number of threads when it is imported."""
    command = [sys.executable, "-m", "benchmarks.tiers", "--json", "--only-polars"]
    command += ["--rows", str(min(options.rows, _ONE_CORE_ROWS)), "--columns", str(options.columns)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True).stdout
    return float(json.loads(answer)["polars_mvalues_s"])


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=180_000, help="samples, at 50 Hz")
    parser.add_argument("--columns", type=int, default=812, help="fields of float32")
    parser.add_argument("--end-to-end-rows", type=int, default=60_000, help="samples that are read from Parquet")
    parser.add_argument("--only-polars", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--week", action="store_true", help="by hand: a whole week, by the command line (`_week.py`)")
    parser.add_argument("--week-hours", type=int, default=168, help="hours that the week has")
    parser.add_argument("--directory", help="where the week's archive is made")
    parser.add_argument("--processes", type=int, default=2, help="how many summarise the week")


BENCHMARK = Benchmark(
    name="tiers",
    about="Five exact statistics of 812 float32 fields at 50 Hz in windows of 1 s; million input values a second.",
    measure=measure,
    ratios={
        "ours to Polars, all cores": ("ours_mvalues_s", "polars_mvalues_s"),
        "ours to Polars, one core": ("ours_mvalues_s", "polars_one_core_mvalues_s"),
        "ours to DuckDB": ("ours_mvalues_s", "duckdb_mvalues_s"),
        "ours to Python's statistics": ("ours_mvalues_s", "python_statistics_mvalues_s"),
        **{
            f"ours to {who}, a second of one processor": ("ours_mvalues_cpu_s", f"{name}_mvalues_cpu_s")
            for who, name in (("Polars", "polars"), ("DuckDB", "duckdb"), ("Python's statistics", "python_statistics"))
        },
        "ours to Polars, with NaN": ("ours_nan_mvalues_s", "polars_nan_mvalues_s"),
        **{
            f"ours to Polars, windows of {n}": (f"ours_window_{n}_mvalues_s", f"polars_window_{n}_mvalues_s")
            for n in OTHER_WINDOWS
        },
        "ours with NaN to without": ("ours_nan_mvalues_s", "ours_mvalues_s"),
        **{f"ours, windows of {n} to 50": (f"ours_window_{n}_mvalues_s", "ours_mvalues_s") for n in OTHER_WINDOWS},
        "Parquet to Parquet, ours to Polars": ("end_to_end_ours_mvalues_s", "end_to_end_polars_mvalues_s"),
        "Parquet to Parquet, ours to DuckDB": ("end_to_end_ours_mvalues_s", "end_to_end_duckdb_mvalues_s"),
    },
    arguments=_arguments,
    packages=("numba", "numpy", "pyarrow", "polars", "duckdb"),
)

if __name__ == "__main__":
    run(BENCHMARK)
