"""Entries: what the plain audit asks of the ledger's rows, all datasets at once.

What belongs here: the ledger's rows of raw tables as frames: commits, files, slices, positions, gaps. A week that has
collapsed (`collapse.py`) counts as one slice, `""`; what its row says of commits is taken apart here.
What is found to be wrong with them: `audit.py`, `stored_audit.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.ledger_rows import GAP, NO_RECORDS, SEALED
from efd_pipelines.archive.slices import DEAD, QUARANTINE

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.topics.names import Dataset

COLUMNS = (
    "commit_kind",
    "rows",
    "bytes",
    "files",
    "records",
    "positions",
    "gaps",
    "names",
    "time_min",
    "time_max",
    "at",
    "sealed",
)
_OF_A_MOVE = ("position", "version", "before", "records", "since", "until")


@dataclass(frozen=True)
class Entries:
    """The ledger's rows of the raw tables of some datasets, each once."""

    frame: pl.DataFrame
    datasets: Sequence[Dataset]

    @cached_property
    def plain(self) -> pl.DataFrame:
        """The rows of commits."""

        others = self.frame["commit_kind"].is_in([SEALED, GAP])
        return self.frame.filter(~others) if others.any() else self.frame  # a copy costs a hundred megabytes

    @cached_property
    def sealed(self) -> pl.DataFrame:
        """The rows of weeks that have collapsed; what `sealed` says of each in columns of its own."""
        import polars as pl

        number, pairs = pl.Int64, pl.List(pl.List(pl.Int64))
        move = pl.Struct({"partition": pl.String} | dict.fromkeys(_OF_A_MOVE, number))
        share = pl.Struct({"version": number, "rows": number, "records": number})
        around = pl.Struct({"version": number, "before": number, "after": number})
        said = pl.Struct(
            {
                "versions": pairs,
                "reached": pl.List(move),
                "shared": pl.List(share),
                "around": pl.List(around),
                "fills": pairs,
                "last_us": number,
            }
        )
        rows = self.frame.filter(pl.col("commit_kind") == SEALED)
        return rows.with_columns(pl.col("sealed").str.json_decode(said)).unnest("sealed")

    @cached_property
    def commits(self) -> pl.DataFrame:
        """A row per commit: dataset, version, kind, rows (added less removed), records.

        Of commits that lie wholly in weeks that have collapsed, only those that changed several weeks are here.
        """
        import polars as pl

        shared = self.sealed.select("dataset", "shared").explode("shared").drop_nulls()
        kind = pl.lit(None, pl.String).alias("commit_kind")
        rows = self.plain.select("dataset", "version", "commit_kind", "rows", "records")
        if shared.height:
            of_several = shared.unnest("shared").select("dataset", "version", kind, "rows", "records")
            rows = pl.concat([rows, of_several])
        # By one number: to group by texts takes five times as long.
        keyed = rows.with_columns(pl.struct("dataset", "version").hash().alias("key"))
        sums = keyed.group_by("key").agg(
            pl.col("dataset").first(),
            pl.col("version").first(),
            pl.col("commit_kind").drop_nulls().first().alias("kind"),
            pl.col("rows").sum(),
            pl.col("records").sum(),
        )
        return sums.drop("key")

    @cached_property
    def versions(self) -> pl.DataFrame:
        """What is known of each dataset's table: `versions` that were entered, null where all were, `ranges` of those
        that have collapsed, the `newest`, and `at`, when that was made."""
        import polars as pl

        version = pl.col("version")
        entered = self.frame.group_by("dataset").agg(
            pl.when(version.n_unique() <= version.max()).then(version.unique().implode()).alias("versions"),
            version.max().alias("newest"),
            pl.col("at").filter(version == version.max()).first().cast(pl.Int64),
        )
        ranges = self.sealed.select("dataset", "versions").explode("versions").drop_nulls()
        gathered = ranges.group_by("dataset").agg(pl.col("versions").alias("ranges"))
        return entered.join(gathered, on="dataset", how="left").sort("dataset")

    @cached_property
    def live(self) -> pl.DataFrame:
        """The files that count: dataset, week, slice, hash, and how often each was added more than removed.

        `of` is the slice that `slices` counts them in.
        """
        import polars as pl

        split = pl.col("names").str.strip_chars('["]').str.split('","')
        there = pl.col("names") != "[]"
        names = self.plain.filter(there).select("dataset", "week", "slice", split.alias("names")).explode("names")
        files = names.select(
            "dataset", "week", "slice", pl.col("names").str.slice(1).alias("hash"), _sign(pl.col("names"))
        )
        sealed = self.sealed.filter(there).select("dataset", "week", split.alias("names")).explode("names")
        stem = pl.col("names").str.slice(1).str.extract_groups(r"^(?<slice>.*)-(?<hash>[^-]*)$")
        files = pl.concat(
            [
                files,
                sealed.with_columns(stem.alias("stem"), _sign(pl.col("names")))
                .unnest("stem")
                .select("dataset", "week", "slice", "hash", "times"),
            ]
        )
        # By one number instead of three texts, which are looked at again only for the few files that are left.
        files = files.with_columns(pl.struct("dataset", "week", "hash").hash().alias("key"))
        left = files.group_by("key").agg(pl.col("times").sum()).filter(pl.col("times") != 0)
        found = files.drop("times").join(left, on="key").unique("key", keep="any").drop("key")
        found = self._with_unit(found).rename({"unit": "of"})
        return found.select("dataset", "week", "slice", "of", "hash", "times").sort("dataset", "week", "slice", "hash")

    def _with_unit(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with `unit`, in which they are counted: their slice, or `""` where their week has collapsed."""
        import polars as pl

        collapsed = self.sealed.select("dataset", "week", pl.lit("").alias("unit"))
        if not collapsed.height:
            return rows.with_columns(pl.col("slice").alias("unit"))
        return rows.join(collapsed, on=["dataset", "week"], how="left").with_columns(
            pl.coalesce("unit", "slice").alias("unit")
        )

    @cached_property
    def slices(self) -> pl.DataFrame:
        """What each slice holds: dataset, week, slice, rows, bytes, files; `known` where all its files' names are."""
        import polars as pl

        held = self._with_unit(self.frame.filter(pl.col("week") != ""))
        return (
            held.group_by("dataset", "week", "unit")
            .agg(
                pl.col("rows").sum(),
                pl.col("bytes").sum(),
                pl.col("files").sum(),
                pl.col("names").is_not_null().all().alias("known"),
            )
            .rename({"unit": "slice"})
            .sort("dataset", "week", "slice")
        )

    @cached_property
    def times(self) -> pl.DataFrame:
        """Between which times the rows of each slice lie, by the files' statistics: dataset, week, slice, time_min,
        time_max; the slice of a week that has collapsed is `""`."""
        import polars as pl

        held = self.frame.filter(~pl.col("week").is_in(["", QUARANTINE, DEAD]) & pl.col("time_min").is_not_null())
        return held.group_by("dataset", "week", "slice").agg(
            pl.col("time_min").min().cast(pl.Int64), pl.col("time_max").max().cast(pl.Int64)
        )

    @cached_property
    def positions(self) -> pl.DataFrame:
        """A row per position that a commit reached: dataset, version, records, kind, partition, position, before.

        `partition` is `<source>:<number>`, `before` its position in the commit before, null in the first; `is_one`
        says that the commit moved no other. Of a week that has collapsed, the versions from `since` `until` another are
        as if each partition had moved once, with all its records. Rows are in no order.
        """
        import polars as pl

        moves = pl.concat([self._moves(), self._collapsed_moves()])
        ordered = moves.with_columns(pl.struct("dataset", "partition").hash().alias("key")).sort("key", "version")
        follows = pl.col("key") == pl.col("key").shift(1)
        before = pl.when(follows).then(pl.col("position").shift(1))
        known = pl.when(pl.col("kind") == SEALED).then(pl.col("before")).otherwise(before)
        return ordered.with_columns(known.alias("before")).drop("key")

    def _moves(self) -> pl.DataFrame:
        import polars as pl

        # A commit's positions and records stand on the same row of the ledger.
        moved = self.plain.filter(pl.col("positions") != "{}").select(
            "dataset",
            "version",
            "records",
            pl.col("commit_kind").alias("kind"),
            pl.col("positions").str.strip_chars("{}"),
            (~pl.col("positions").str.contains(",", literal=True)).alias("is_one"),
            pl.col("version").alias("since"),
            pl.col("version").alias("until"),
            pl.lit(None, pl.Int64).alias("before"),
        )
        # Most commits move one partition: only the others are worth taking apart.
        several = moved.filter(~pl.col("is_one")).with_columns(pl.col("positions").str.split(",")).explode("positions")
        named = pl.concat([moved.filter("is_one"), several]).with_columns(
            pl.col("positions").str.splitn('":', 2).struct.rename_fields(["partition", "position"])
        )
        return named.unnest("positions").with_columns(
            pl.col("partition").str.strip_chars('" '), pl.col("position").str.strip_chars(" ").cast(pl.Int64)
        )

    def _collapsed_moves(self) -> pl.DataFrame:
        import polars as pl

        reached = self.sealed.select("dataset", "reached").explode("reached").drop_nulls()
        moves = reached.unnest("reached")
        kind, is_one = pl.lit(SEALED).alias("kind"), pl.lit(value=False).alias("is_one")
        return moves.select(
            "dataset", "version", "records", kind, "partition", "position", is_one, "since", "until", "before"
        )

    def gaps(self) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
        """The recorded gaps by dataset and the version that noticed them."""
        import polars as pl

        noted = self.frame.filter(pl.col("gaps").is_not_null() & (pl.col("gaps") != "[]")).sort("dataset", "version")
        for dataset, version, text in noted.select("dataset", "version", "gaps").iter_rows():
            yield dataset, version, json.loads(text)

    def around(self, dataset: str, version: int) -> tuple[int | None, int | None, int]:
        """The last event time archived before a version, the first from it on, and the history rows between them."""
        import polars as pl

        good = self.plain.filter((pl.col("dataset") == dataset) & ~pl.col("week").is_in(["", QUARANTINE, DEAD]))
        good = good.with_columns(pl.col("time_min").cast(pl.Int64), pl.col("time_max").cast(pl.Int64))
        sealed = self.sealed.filter(pl.col("dataset") == dataset)
        before, after = self._remembered(sealed, version)
        kind = pl.col("commit_kind")
        drains = good.filter(~kind.is_in(NO_RECORDS) & pl.col("time_min").is_not_null())
        if before is None:
            of_sealed = sealed.filter(pl.col("version") < version)["last_us"].max()
            before = _latest(drains.filter(pl.col("version") < version)["time_max"].max(), of_sealed)
        if after is None:
            later = drains.filter(pl.col("version") >= version)
            after = _whole(later.filter(pl.col("version") == pl.col("version").min())["time_min"].min())
        if before is None or after is None:
            return before, after, 0
        between = (pl.col("time_max") >= before) & (pl.col("time_min") <= after)
        filled = int(good.filter((kind == "fill") & between)["rows"].sum())
        stretches = (stretch for fills in sealed["fills"].to_list() for stretch in fills)
        filled += sum(rows for first, last, rows in stretches if last >= before and first <= after)
        return before, after, filled

    def _remembered(self, sealed: pl.DataFrame, version: int) -> tuple[int | None, int | None]:
        """What sealed rows say of the times around a gap that the version noticed."""
        import polars as pl

        said = sealed.select("around").explode("around").drop_nulls().unnest("around")
        of = said.filter(pl.col("version") == version)
        return _whole(of["before"].max()), _whole(of["after"].max())


def _sign(name: pl.Expr) -> pl.Expr:
    import polars as pl

    return pl.when(name.str.starts_with("+")).then(1).otherwise(-1).alias("times")


def _latest(*times: Any) -> int | None:
    return max((int(time) for time in times if time is not None), default=None)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def add_up(sums: dict[tuple[str, str], list[int]], place: tuple[str, str], *figures: int) -> None:
    """Adds figures to those of a place (week, slice); a place whose figures all come to nothing is no longer there."""
    of = sums.setdefault(place, [0] * len(figures))
    for n, figure in enumerate(figures):
        of[n] += figure
    if not any(of):
        del sums[place]
