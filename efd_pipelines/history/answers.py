"""Answers: what the sources give for a dataset's holes, committed and noted piece by piece.

The best source is asked first, the next one only for what it had nothing of. Whoever is killed here loses the pieces
since the last commit. Which holes there are, and whose turn it is: `healing.py`. What a commit is: `filling.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.archive.ledger import LedgerRow
from efd_pipelines.archive.positions import decided_time_field
from efd_pipelines.archive.tables import open_table
from efd_pipelines.errors import StaleWriter
from efd_pipelines.history.asked import Asked
from efd_pipelines.history.declared import DeclaredSchemas
from efd_pipelines.history.filling import Target, fill
from efd_pipelines.history.intervals import Interval, seconds_of, united, without
from efd_pipelines.history.results import Count, HealResult, Progress
from efd_pipelines.history.sources import HistorySource, Piece
from efd_pipelines.memory import give_back
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

COMMIT_BYTES = 96 * 1024 * 1024
_APART_US = 600_000_000
"""Where a source has points no further apart, no other one is asked for what may be between them."""

_LEDGER_EVERY_S = 60.0
_LEDGER_ROWS = 1000


class Answers:
    """The sources' answers, for one call of `heal`; safe to use from several threads.

    Args:
        again: also ask for what was asked for before.
        is_over: whether time is up.
    """

    def __init__(
        self,
        archive: Archive,
        settings: Settings,
        sources: Sequence[HistorySource],
        schemas: DeclaredSchemas,
        *,
        again: bool,
        run: str,
        result: HealResult,
        progress: Progress | None,
        is_over: Callable[[], bool],
    ) -> None:
        self._archive = archive
        self._settings = settings
        self._sources = sources
        self._schemas = schemas
        self._again = again
        self._run = run
        self._result = result
        self._progress = progress
        self._is_over = is_over
        self._lock = threading.Lock()
        self._began = self._ledgered = time.monotonic()

    def left(self, asked: Asked, dataset: Dataset, holes: Sequence[Interval]) -> list[Interval]:
        """What some source has not been asked for yet."""
        left: list[Interval] = []
        for source in self._sources:
            if dataset in source.datasets():
                left += holes if self._again else without(holes, asked.intervals(dataset, source.name))
        return united(left)

    def take(self, dataset: Dataset, holes: Sequence[Interval], asked: Asked, rows: list[LedgerRow]) -> None:
        """Asks source after source for a dataset's holes; the next one only for what the last had nothing of."""
        total_s = seconds_of(self.left(asked, dataset, holes))
        count = Count(self._result, self._lock, total_s)
        left = list(holes)
        sources = [source for source in self._sources if dataset in source.datasets()]
        for place, source in enumerate(sources):
            before = [] if self._again else asked.intervals(dataset, source.name)
            found: list[Interval] = []
            for interval in without(left, before):
                if not self._ask(source, dataset, interval, asked, rows, found, count):
                    return
            answered = united(found, apart_us=_APART_US)
            left = without(left, answered)
            for other in sources[place + 1 :]:
                asked.note(dataset, other.name, answered)
        count.finish()

    def _ask(
        self,
        source: HistorySource,
        dataset: Dataset,
        interval: Interval,
        asked: Asked,
        rows: list[LedgerRow],
        found: list[Interval],
        count: Count,
    ) -> bool:
        """Asks for one hole, piece by piece; whether there was time for all of it."""
        target = self._target(dataset, source)
        waiting: list[Piece] = []
        if self._is_over():
            self._result.left = True
            return False
        for piece in source.pieces(dataset, interval):
            waiting.append(piece)
            found += piece.stretches(_APART_US)
            count.add(piece)
            if sum(one.points.nbytes for one in waiting) > COMMIT_BYTES:
                self._fill(target, waiting, asked, rows)
                waiting = []
            if self._is_over() and piece.interval.end_us < interval.end_us:
                self._fill(target, waiting, asked, rows)
                self._result.left = True
                return False
        self._fill(target, waiting, asked, rows)
        return True

    def _target(self, dataset: Dataset, source: HistorySource) -> Target:
        configured = self._settings.configuration.time_field(dataset)
        snapshot = open_table(self._archive.store, self._archive.relative(dataset))
        time_field = decided_time_field(snapshot, configured)
        return Target(dataset, self._schemas.of(dataset), time_field, source.name)

    def _fill(self, target: Target, pieces: Sequence[Piece], asked: Asked, rows: list[LedgerRow]) -> None:
        """Commits what the pieces have, and notes that they were asked for."""
        if not pieces:
            return
        intervals = united(piece.interval for piece in pieces)
        points = pa.concat_tables([piece.points for piece in pieces], promote_options="permissive")
        if points.num_rows:
            filled = fill(self._archive, self._settings, target, points, intervals, run=self._run)
            with self._lock:
                self._result.rows += filled.rows
                self._result.bytes += filled.bytes
                self._result.known += filled.known
                self._result.commits += bool(filled.rows)
                counts = self._result.by_source
                counts[target.source] = counts.get(target.source, 0) + filled.rows
                if filled.ambiguous:
                    self._result.ambiguous[target.dataset.text] = sorted(filled.ambiguous)
                rows += filled.ledger
                self._append(rows)
        asked.note(target.dataset, target.source, intervals)
        with self._lock:
            self._result.seconds = time.monotonic() - self._began
            if self._progress:
                self._progress(replace(self._result))
        give_back()

    def _append(self, rows: list[LedgerRow]) -> None:
        """Enters what was committed into the ledger, now and then: a run may take days."""
        if len(rows) < _LEDGER_ROWS and time.monotonic() - self._ledgered < _LEDGER_EVERY_S:
            return
        self._archive.ledger.append(rows)
        rows.clear()
        self._ledgered = time.monotonic()
        with suppress(StaleWriter):
            self._archive.ledger.compact()
