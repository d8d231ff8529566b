"""The 1 s tier: five exact statistics of forceActuatorData's 812 floats at 50 Hz, from memory to memory.

Baselines: the best that Polars and DuckDB know for it, with all cores; Polars with one; and Python's `statistics`, one
call for each window, statistic and field, as kafka-aggregator does it (efd-facts §4), on a part of the fields.
Ours gives `first_` of each field as well and runs on one core. What is compared is checked to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import Benchmark, Figures, best_seconds, note, run

RATE_HZ = 50
START_US = 1_700_438_400_000_000
FIVE = ("min", "max", "mean", "median", "stdev")
_PYTHON_COLUMNS = 4
_SQL = {"min": "min", "max": "max", "mean": "avg", "median": "median", "stdev": "stddev_samp"}


def samples(rows: int, columns: int) -> pa.Table:
    """Noise on slow waves, as actuators have it."""
    random = np.random.default_rng(1)
    time = START_US + np.arange(rows) * (1_000_000 // RATE_HZ)
    wave = np.sin(np.arange(rows) / 500)
    values = {f"force{n}": (100 * n + 50 * wave + random.normal(size=rows)).astype(np.float32) for n in range(columns)}
    return pa.table({"time": pa.array(time).cast(pa.timestamp("us", tz="UTC")), **values})


def ours(table: pa.Table) -> pa.Table:
    from efd_pipelines.tiers.rows import TableRows
    from efd_pipelines.tiers.summary import summarise

    return summarise(TableRows(table), 1_000_000)


def kernel_seconds(table: pa.Table) -> float:
    """The computing alone, from a block of numbers."""
    from efd_pipelines.tiers.statistics import window_statistics

    block = np.stack([table[name].to_numpy() for name in table.column_names[1:]])
    starts = np.arange(0, table.num_rows, RATE_HZ)
    ends = np.minimum(starts + RATE_HZ, table.num_rows)
    return best_seconds(lambda: window_statistics(block, starts, ends))


def polars(table: pa.Table) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Its two ways: by the truncated time, and by dynamic windows."""
    import polars as pl

    frame = pl.DataFrame(table)
    names = table.column_names[1:]
    aggregations = []
    for name in names:
        column = pl.col(name)
        five = (column.min(), column.max(), column.mean(), column.median(), column.std())
        aggregations += [one.alias(f"{s}_{name}") for s, one in zip(FIVE, five, strict=True)]

    def grouped() -> Any:
        window = pl.col("time").dt.truncate("1s")
        return frame.lazy().group_by(window, maintain_order=True).agg(aggregations).collect()

    def dynamic() -> Any:
        return frame.lazy().group_by_dynamic("time", every="1s").agg(aggregations).collect()

    return grouped, dynamic


def duckdb(table: pa.Table) -> Callable[[], Any]:
    import duckdb as engine

    names = table.column_names[1:]
    figures = ", ".join(f"{_SQL[s]}({name}) AS {s}_{name}" for name in names for s in FIVE)
    connection = engine.connect()
    connection.execute("SET preserve_insertion_order = false")
    connection.register("incoming", table)
    connection.execute("CREATE TABLE samples AS SELECT epoch_us(time) // 1000000 AS w, * FROM incoming")
    query = f"SELECT w, {figures} FROM samples GROUP BY w ORDER BY w"
    return lambda: connection.sql(query).to_arrow_table()


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
    table = samples(options.rows, options.columns)
    names = table.column_names[1:]
    values = options.rows * options.columns / 1e6
    grouped, dynamic = polars(table)
    if options.only_polars:
        return {"polars_mvalues_s": values / min(best_seconds(grouped), best_seconds(dynamic))}
    part = table.select(table.column_names[: _PYTHON_COLUMNS + 1])
    by_sql = duckdb(table)
    note("checking that all agree")
    found = ours(table)
    for other in (grouped(), by_sql()):
        check_equal(found, other, names)
    check_equal(found, python_statistics(part), part.column_names[1:])
    note("measuring")
    seconds = {
        "ours": best_seconds(lambda: ours(table), 5),
        "ours_kernel": kernel_seconds(table),
        "polars": min(best_seconds(grouped), best_seconds(dynamic)),
        "duckdb": best_seconds(by_sql, 1),
    }
    figures = {f"{name}_mvalues_s": values / taken for name, taken in seconds.items()}
    figures["python_statistics_mvalues_s"] = (
        options.rows * _PYTHON_COLUMNS / 1e6 / best_seconds(lambda: python_statistics(part), 1)
    )
    figures["polars_one_core_mvalues_s"] = _polars_on_one_core(options)
    return {**figures, "rows": options.rows, "columns": options.columns, "samples_per_window": RATE_HZ}


def _polars_on_one_core(options: argparse.Namespace) -> float:
    """In another process: Polars takes its number of threads when it is imported."""
    command = [sys.executable, "-m", "benchmarks.tiers", "--json", "--only-polars"]
    command += ["--rows", str(options.rows), "--columns", str(options.columns)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True).stdout
    return float(json.loads(answer)["polars_mvalues_s"])


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=20_000, help="samples, at 50 Hz")
    parser.add_argument("--columns", type=int, default=812, help="fields of float32")
    parser.add_argument("--only-polars", action="store_true", help=argparse.SUPPRESS)


BENCHMARK = Benchmark(
    name="tiers",
    about="Five exact statistics of 812 float32 fields at 50 Hz in windows of 1 s; million input values a second.",
    measure=measure,
    ratios={
        "ours to Polars, all cores": ("ours_mvalues_s", "polars_mvalues_s"),
        "ours to Polars, one core": ("ours_mvalues_s", "polars_one_core_mvalues_s"),
        "ours to DuckDB": ("ours_mvalues_s", "duckdb_mvalues_s"),
        "ours to Python's statistics": ("ours_mvalues_s", "python_statistics_mvalues_s"),
    },
    arguments=_arguments,
    packages=("numba", "numpy", "pyarrow", "polars", "duckdb"),
)

if __name__ == "__main__":
    run(BENCHMARK)
