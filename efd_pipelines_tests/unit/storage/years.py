"""Years of ledger: what the ledger says after years of all topics, made at once instead of commit by commit.

Weeks that have collapsed have a row for each topic, and one for each tier that a topic's rate gives it; the last two
weeks are not sealed yet and have a row for each drain and each of its tiers. What belongs here: making it, and
measuring a report of it in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile, write_data_file
from efd_pipelines.archive.ledger_rows import RAW, SCHEMA, SEALED
from efd_pipelines.archive.ledger_table import RELATIVE
from efd_pipelines.archive.tables import commit
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

HOURS = 168
WINDOWS_S = {"1s": 1, "1m": 60, "1h": 3600}
_HOUR_US = 3_600_000_000
_FILE_ROWS = 500_000
_SEALED = {
    "around": [], "fills": [], "history": 0, "last_us": 1_700_000_000_000_000, "shared": [], "superseded": 0,
    "reached": [{"before": 0, "partition": "uYbF2mQ8Tg2bZQ1Xr4nQWw/xxxxxxxxxxxxxxxxxxxxxx:0", "position": 10_000,
                 "records": 10_000, "since": 1, "until": 170, "version": 170}],
    "versions": [[1, 170]],
}  # fmt: skip
_REPORT = """
import json, sys, time
from pathlib import Path
from efd_pipelines.archive.archive import Archive
from efd_pipelines.settings import load_settings
from efd_pipelines.storage import storage_report
from efd_pipelines.times import Week

root, how = sys.argv[1], {name: Week.parse(key) for name, key in json.loads(sys.argv[2]).items()}
began = time.monotonic()
report = storage_report(Archive(load_settings({}, None, archive=root)), **how)
status = Path("/proc/self/status").read_text()
print(json.dumps({
    "cpu_s": time.process_time(), "wall_s": time.monotonic() - began,
    "peak_mib": int(status.split("VmHWM:")[1].split()[0]) / 1024, "messages": report.total("messages"),
    "rows": report.total("rows"), "topics": len(report.topics), "missing": report.missing,
}))
"""


def records_of(number: int, week: int) -> int:
    """Records of one topic's week."""
    return HOURS * (10 + number % 97 + week % 13)


def write_years(archive: Archive, datasets: Sequence[Dataset], weeks: Sequence[Week], drains: int = HOURS) -> None:
    """Commits a ledger of these weeks; the last two are not sealed, and were drained so many times each."""
    by_month: dict[str, list[pl.DataFrame]] = {}
    for n, week in enumerate(weeks):
        running = n >= len(weeks) - 2
        month = (week.end + timedelta(days=0 if running else 1)).strftime("%Y-%m")
        by_month.setdefault(month, []).extend(_rows(archive, datasets, week, n, drains if running else 0))
    files = [file for month, parts in sorted(by_month.items()) for file in _written(archive, month, parts)]
    commit(
        archive.store,
        RELATIVE,
        None,
        add=files,
        transactions={},
        schema=SCHEMA.remove(SCHEMA.get_field_index("month")),
        note={"kind": "append"},
        partition="month",
    )


def _written(archive: Archive, month: str, parts: Sequence[pl.DataFrame]) -> Iterator[DataFile]:
    """Files as the ledger's compaction makes them."""
    import polars as pl

    whole = pl.concat(parts)
    for start in range(0, whole.height, _FILE_ROWS):
        table = whole.slice(start, _FILE_ROWS).to_arrow().cast(SCHEMA).drop_columns(["month"])
        yield write_data_file(archive.store, RELATIVE, month, "c", table, partition="month")


def _rows(archive: Archive, datasets: Sequence[Dataset], week: Week, n: int, drains: int) -> list[pl.DataFrame]:
    import polars as pl

    number = pl.int_range(pl.len(), dtype=pl.Int64)
    count = HOURS * (10 + number % 97 + n % 13)
    names = pl.DataFrame({
        "dataset": [one.text for one in datasets], "component": [one.component for one in datasets],
        "kind": [one.kind.value for one in datasets],
        "rate_hz": [archive.settings.configuration.rate_hz(one) or 0.0 for one in datasets],
    }).with_columns(count.alias("rows"))  # fmt: skip
    sealed = _SEALED | {"last_us": week.end_us - 1, "versions": [[170 * n + 1, 170 * n + 170]]}
    raw = names.with_columns(
        pl.lit(RAW).alias("table"),
        pl.lit(SEALED).alias("commit_kind"),
        pl.lit(170 * n + 170).alias("version"),
        pl.lit(json.dumps(sealed, separators=(",", ":"), sort_keys=True)).alias("sealed"),
        pl.lit(week.end_us + 24 * _HOUR_US).alias("at"),
    )
    hours = pl.DataFrame({"hour": range(0, HOURS, HOURS // max(drains, 1))}, schema={"hour": pl.Int64})
    if drains:
        raw = names.join(hours, how="cross").with_columns(
            pl.lit(RAW).alias("table"),
            pl.lit("drain").alias("commit_kind"),
            (pl.lit(170 * n + 1) + pl.col("hour")).alias("version"),
            pl.lit(None, pl.String).alias("sealed"),
            (week.start_us + (pl.col("hour") + 1) * _HOUR_US).alias("at"),
            pl.col("rows") // drains,
        )
    tiers = []
    for tier, window_s in WINDOWS_S.items():
        of = names.filter((pl.col("kind") == "telemetry") & (pl.col("rate_hz") > 1 / window_s)).with_columns(
            pl.lit(tier).alias("table"),
            pl.lit(SEALED).alias("commit_kind"),
            pl.lit(170 * n + 169).alias("version"),
            pl.lit(f'{{"versions":[[{170 * n + 1},{170 * n + 169}]]}}').alias("sealed"),
            pl.lit(week.end_us).alias("at"),
        )
        if drains:
            of = of.join(hours, how="cross").with_columns(
                pl.lit("tier").alias("commit_kind"),
                (pl.lit(170 * n + 1) + pl.col("hour")).alias("version"),
                pl.lit(None, pl.String).alias("sealed"),
                (week.start_us + (pl.col("hour") + 1) * _HOUR_US).alias("at"),
                pl.col("rows") // drains,
            )
        tiers.append(of)
    return [_in_form(part, week) for part in (raw, *tiers)]


def _in_form(part: pl.DataFrame, week: Week) -> pl.DataFrame:
    """The ledger's columns, in its types."""
    import polars as pl

    types = pl.DataFrame(SCHEMA.empty_table()).schema
    hour = pl.col("hour") if "hour" in part.columns else pl.lit(0)
    whole = part.with_columns(
        pl.lit(week.key).alias("week"),
        pl.format("{}.{}", pl.lit(week.key), hour).alias("slice"),
        (5 * pl.col("rows")).alias("bytes"),
        (9 * pl.col("rows")).alias("avro_bytes"),
        pl.lit(1).alias("files"),
        pl.col("rows").alias("records"),
        (week.start_us + hour * _HOUR_US).alias("time_min"),
        (week.start_us + (hour + 1) * _HOUR_US - 1).alias("time_max"),
        pl.lit('{"uYbF2mQ8Tg2bZQ1Xr4nQWw/xxxxxxxxxxxxxxxxxxxxxx:0":100}').alias("positions"),
        pl.lit("{}").alias("epochs"),
        pl.lit("[]").alias("gaps"),
        pl.lit("[1]").alias("schemas"),
        pl.lit("[]").alias("names"),
        pl.lit("made").alias("run"),
        pl.lit(None, pl.String).alias("changes"),
        pl.when(pl.col("commit_kind") == SEALED).then(0).alias("history"),
        pl.lit(None, pl.Int64).alias("changed"),
        pl.lit("").alias("month"),
    )
    return whole.select(pl.col(name).cast(kind) for name, kind in types.items())


def measured(archive: Archive, how: Mapping[str, Week]) -> dict[str, Any]:
    """A report made by a process of its own: its CPU and peak of memory, imports and all, and what it counted."""
    command = [sys.executable, "-c", _REPORT, str(archive.settings.archive)]
    keys = json.dumps({name: week.key for name, week in how.items()})
    done = subprocess.run([*command, keys], capture_output=True, check=True, text=True, timeout=900)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
