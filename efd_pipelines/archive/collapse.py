"""Collapse: one row of the ledger in the place of all that a sealed week has.

A week makes hundreds of rows, a seal says once and for all what it holds. The one row has the certificate's figures and
files, the positions that were reached, and, for who goes by versions, the newest version that changed each stretch of
time: nobody computes again what has not changed. Rows with gaps stay, with what else they said taken off. A week whose
rows and certificate do not agree is left as it is, for the audit to find. Later rows (late records, merges, expiry)
stand beside the one, until the week is sealed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.archive.certificates import Certificate, DamagedCertificate, read_certificate
from efd_pipelines.archive.ledger_rows import RAW, SCHEMA, SEALED
from efd_pipelines.archive.ledger_table import RELATIVE
from efd_pipelines.archive.sealed_rows import Proof, Row, as_rows, collapsed
from efd_pipelines.archive.tables import open_table
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.tables import TableSnapshot

__all__ = ["Collapsed", "Row", "as_rows", "collapse", "collapsed", "proof"]

_DATASETS_AT_ONCE = 400


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
    waiting = _waiting(archive)
    archive.ledger.catch_up(_incomplete(archive, waiting))
    snapshot = open_table(archive.store, RELATIVE, partition="month")
    if snapshot is None or not waiting:
        return result
    made: list[Row] = []
    for start in range(0, len(waiting), _DATASETS_AT_ONCE):
        part = waiting[start : start + _DATASETS_AT_ONCE]
        for rows in _rows_of(archive, snapshot, part):
            new, left = collapsed(rows, proof(archive, Dataset.parse(rows[0]["dataset"])))
            made += _new(rows, new)
            result.left += left
    if made:
        result.weeks = sum(1 for row in made if row["commit_kind"] == SEALED)
        result.rows = archive.ledger.put_sealed(snapshot, pa.Table.from_pylist(made, schema=SCHEMA))
    return result


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
    found = archive.ledger.at(snapshot, wanted)
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
