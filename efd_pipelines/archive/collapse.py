"""Collapse: one row of the ledger in the place of all that a sealed week has, of the archive and of each tier.

A week makes hundreds of rows, a seal says once and for all what it holds. The one row has the certificate's figures and
files, the positions that were reached, and, for who goes by versions, the newest version that changed each stretch of
time: nobody computes again what has not changed. Rows with gaps stay, with what else they said taken off. A week whose
rows and certificate do not agree is left as it is, for the audit to find. Later rows (late records, merges, expiry)
stand beside the one, until the week is sealed again.
Tiers of a week follow when the archive's has collapsed: they have no certificate, and must agree with their tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.archive.certificates import Certificate, DamagedCertificate, read_certificate
from efd_pipelines.archive.expiry import KIND as EXPIRE
from efd_pipelines.archive.ledger_rows import RAW, SCHEMA, SEALED, relative_of
from efd_pipelines.archive.ledger_table import RELATIVE
from efd_pipelines.archive.sealed_rows import Proof, Row, as_rows, collapsed
from efd_pipelines.archive.summed_rows import summed
from efd_pipelines.archive.tables import open_table
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.files import DataFile
    from efd_pipelines.archive.tables import TableSnapshot

__all__ = ["Collapsed", "Row", "as_rows", "collapse", "collapsed", "proof"]

_DATASETS_AT_ONCE = 400
_ROWS_AT_ONCE = 400_000


@dataclass(slots=True)
class Collapsed:
    """What collapsing did: weeks of datasets, the rows that they had, and weeks that were left as they are."""

    weeks: int = 0
    rows: int = 0
    left: int = 0


def collapse(archive: Archive) -> Collapsed:
    """Collapses all weeks that are sealed and have not been; safe to be killed and repeated.

    Raises:
        StaleWriter: another process compacts, collapses or reindexes the ledger; the next round does it.
        StoreUnavailable: the ledger is as it was.
    """
    result = Collapsed()
    _collapse_archives(archive, result)
    _collapse_tiers(archive, result)
    return result


def _collapse_archives(archive: Archive, result: Collapsed) -> None:
    waiting = _waiting(archive)
    archive.ledger.catch_up(_incomplete(archive, waiting))
    snapshot = open_table(archive.store, RELATIVE, partition="month")
    if snapshot is None or not waiting:
        return
    made: list[Row] = []
    for start in range(0, len(waiting), _DATASETS_AT_ONCE):
        part = waiting[start : start + _DATASETS_AT_ONCE]
        for rows in _rows_of(archive, snapshot, part):
            new, left = collapsed(rows, proof(archive, Dataset.parse(rows[0]["dataset"])))
            made += _new(rows, new)
            result.left += left
    if made:
        _put(archive, snapshot, made, result)


def _put(archive: Archive, snapshot: TableSnapshot, made: Sequence[Row], result: Collapsed) -> None:
    covered = archive.ledger.put_sealed(snapshot, pa.Table.from_pylist(made, schema=SCHEMA))
    result.rows += covered
    result.weeks += sum(1 for row in made if row["commit_kind"] == SEALED)


def _collapse_tiers(archive: Archive, result: Collapsed) -> None:
    waiting = _waiting_tiers(archive)
    snapshot = open_table(archive.store, RELATIVE, partition="month")
    if snapshot is None or not waiting.height:
        return
    made: list[Row] = []
    for part in _batches(waiting):
        held = _held(archive, part)
        for rows in _tier_rows(archive, snapshot, part):
            name = rows[0]["table"], rows[0]["dataset"]
            weeks = {row["week"] for row in rows}
            _, new, left = summed(rows, weeks, held[name])
            made += new
            result.left += left
    if made:
        _put(archive, snapshot, made, result)


def _waiting_tiers(archive: Archive) -> pl.DataFrame:
    """Tiers' weeks that have more than one row while the archive's has collapsed: table, dataset, week, rows."""
    import polars as pl

    by = ["table", "dataset", "week"]
    kind = pl.col("commit_kind")
    sealed, loose = [], []
    for part in archive.ledger.in_parts(["commit_kind"]):
        sums = part.group_by(by).agg(
            (kind != EXPIRE).sum().alias("rows"),
            (kind == SEALED).any().alias("sealed"),
            (kind == EXPIRE).any().alias("let_go"),
        )
        is_raw = pl.col("table") == RAW
        sealed.append(sums.filter(is_raw & pl.col("sealed")).select("dataset", "week"))
        loose.append(sums.filter(~is_raw & (pl.col("week") != "")))
    if not loose:
        return pl.DataFrame(schema=[*by, "rows"])
    # What a single row has collapsed into stands alone in most of ten years' weeks.
    whole = pl.concat(loose).group_by(by).agg(pl.col("rows").sum(), pl.col("sealed", "let_go").any())
    wanted = whole.filter((pl.col("rows") > 1) & ~(pl.col("sealed") & pl.col("let_go")))
    found = wanted.join(pl.concat(sealed).unique(), on=["dataset", "week"], how="semi")
    return found.select(*(pl.col(name).cast(pl.String) for name in by), "rows").sort(by)


def _batches(waiting: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Tables with all their weeks, so many rows at a time."""
    import polars as pl

    sums = waiting.group_by("table", "dataset", maintain_order=True).agg(pl.col("rows").sum())
    numbered = sums.select("table", "dataset", (pl.col("rows").cum_sum() // _ROWS_AT_ONCE).alias("batch"))
    yield from (
        waiting.join(numbered, on=["table", "dataset"])
        .sort("batch")
        .drop("rows")
        .partition_by("batch", maintain_order=True)
    )


def _held(archive: Archive, waiting: pl.DataFrame) -> dict[tuple[str, str], list[DataFile]]:
    """What the tiers' tables hold of the weeks that wait; some are opened at once: on S3 each takes 30 ms."""
    weeks = set(waiting["week"])
    names = list(waiting.select("table", "dataset").unique(maintain_order=True).iter_rows())

    def files(name: tuple[str, str]) -> list[DataFile]:
        snapshot = open_table(archive.store, relative_of(name[0], Dataset.parse(name[1])))
        return [] if snapshot is None else snapshot.files(weeks)

    with ThreadPoolExecutor(archive.store.asked_at_once) as pool:
        return dict(zip(names, pool.map(files, names), strict=True))


def _tier_rows(archive: Archive, snapshot: TableSnapshot, waiting: pl.DataFrame) -> Iterator[list[Row]]:
    """The ledger's rows of the weeks that wait, by table, as one version of the ledger has them."""
    wanted = waiting.select("table", "dataset", "week").lazy()
    first = min(waiting["week"])[:7]  # a week's rows are entered in its own month or later
    found = archive.ledger.at(
        snapshot, lambda rows: rows.lazy().join(wanted, on=["table", "dataset", "week"], how="semi").collect(), first
    )
    for part in found.partition_by("table", "dataset", maintain_order=True):
        yield as_rows(part.to_arrow())


def _waiting(archive: Archive) -> list[Dataset]:
    """The datasets with a seal whose week has not collapsed since."""
    import polars as pl

    frame = archive.ledger.frame(["commit_kind"])
    found = frame.filter((pl.col("table") == RAW) & (pl.col("commit_kind") == "seal"))["dataset"].unique()
    return sorted(Dataset.parse(text) for text in found.to_list())


def _incomplete(archive: Archive, datasets: Sequence[Dataset]) -> list[tuple[str, Dataset]]:
    """The tables of which the ledger lacks versions: a sealed row must cover all."""
    known = archive.ledger.known_versions([(RAW, dataset) for dataset in datasets])
    return [(table, Dataset.parse(text)) for (table, text), of in known.items() if len(of) <= max(of)]


def _rows_of(archive: Archive, snapshot: TableSnapshot, datasets: Sequence[Dataset]) -> Iterator[list[Row]]:
    """The ledger's rows of each dataset's raw table, as one version of the ledger has them."""
    import polars as pl

    names = pl.Series([dataset.text for dataset in datasets])
    wanted = (pl.col("table") == RAW) & pl.col("dataset").is_in(names.implode())
    found = archive.ledger.at(snapshot, lambda rows: rows.filter(wanted))
    for part in found.partition_by("dataset", maintain_order=True):
        yield as_rows(part.to_arrow())


def proof(archive: Archive, dataset: Dataset) -> Proof:
    """Reads a dataset's certificates."""

    def read(week: str) -> Certificate | None:
        try:
            return read_certificate(archive, dataset, week)
        except DamagedCertificate:
            return None

    return read


def _new(before: Iterable[Row], after: Iterable[Row]) -> list[Row]:
    """The rows that were made: sealed ones, and what is left of those with gaps."""
    known = {id(row) for row in before}
    return [row for row in after if id(row) not in known]
