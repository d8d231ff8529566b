"""Healing: the missing intervals of a component's weeks, each from the best source that has it.

Kafka first: where brokers are configured and a week is young enough for them, the backlog is drained before anything
is called missing. Then the history's sources in their order, InfluxDB before files: a stretch of which one had nothing
is asked of the next. Everything is done in small commits, and what was done is noted, so that a run that is killed, or
whose time is up, goes on where it stopped; done again, nothing changes.
What is missing: `coverage.py`. Rows: `filling.py`. Which weeks are next: `planning.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.ledger import RAW, LedgerRow
from efd_pipelines.archive.positions import decided_time_field
from efd_pipelines.archive.tables import open_table
from efd_pipelines.errors import SettingsError, StaleWriter
from efd_pipelines.history.asked import Asked
from efd_pipelines.history.coverage import missing_intervals
from efd_pipelines.history.declared import DeclaredSchemas
from efd_pipelines.history.filling import Target, fill
from efd_pipelines.history.influx import InfluxHistory
from efd_pipelines.history.intervals import Interval, seconds_of, united, without
from efd_pipelines.history.lines import LineHistory
from efd_pipelines.history.sources import HistorySource, Piece
from efd_pipelines.history.turns import Turn
from efd_pipelines.memory import give_back
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

_log = logging.getLogger(__name__)
KAFKA_KEEPS = timedelta(days=15)
"""Brokers keep records for 7 days at most (efd-facts §2.3): twice that, for a retention that was raised in need."""

_COMMIT_BYTES = 64 * 1024 * 1024
_LEDGER_EVERY_S = 60.0
_LEDGER_ROWS = 1000

Progress = Callable[["HealResult"], None]


@dataclass(slots=True)
class HealResult:
    """What healing did, or would have to do.

    Args:
        missing_s: what the archive lacked and no source had been asked for, over all datasets.
        asked_s: how much of that has been asked for.
        rows, values: rows filled in; values that the sources gave for them.
        known: points whose records were in the archive already.
        ambiguous: fields that could belong to two columns and were left out, by dataset.
        left: whether time was up before everything had been asked for.
    """

    datasets: int = 0
    missing_s: float = 0.0
    asked_s: float = 0.0
    rows: int = 0
    values: int = 0
    bytes: int = 0
    known: int = 0
    commits: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
    ambiguous: dict[str, list[str]] = field(default_factory=dict)
    left: bool = False
    seconds: float = 0.0

    @property
    def hours_left(self) -> float | None:
        """How long the rest takes at the pace so far."""
        rest_s = self.missing_s - self.asked_s
        return rest_s / self.asked_s * self.seconds / 3600 if self.asked_s else None


def heal(
    archive: Archive,
    settings: Settings,
    *,
    component: str,
    weeks: Sequence[Week],
    sources: Sequence[HistorySource] | None = None,
    datasets: Collection[Dataset] | None = None,
    drained_us: int | None = None,
    again: bool = False,
    seconds: float | None = None,
    run: str = "",
    progress: Progress | None = None,
) -> HealResult:
    """Fills what the archive lacks of a component's weeks.

    Args:
        sources: where from; None takes those that the settings name.
        datasets: only these.
        drained_us: when the component's backlog was read to its end, by whoever just did.
        again: also ask for what was asked for before.
        seconds: stop after that time.

    Raises:
        KafkaUnavailable, RegistryUnavailable, StoreUnavailable, HistoryUnavailable: what was committed before stands.
    """
    archive.prepare()
    with ExitStack() as stack:
        if sources is None:
            sources = stack.enter_context(configured_sources(settings))
        if not sources:
            return HealResult()
        if drained_us is None:
            drained_us = drained(archive, settings, component, weeks, run)
        schemas = stack.enter_context(DeclaredSchemas(archive, settings))
        healing = _Healing(archive, settings, sources, schemas, again, seconds, run, progress)
        for week in weeks:
            healing.week(component, week, datasets, drained_us)
        return healing.result


@contextmanager
def configured_sources(settings: Settings) -> Iterator[list[HistorySource]]:
    """The sources that the settings name, the best first."""
    with ExitStack() as stack:
        found: list[HistorySource] = []
        if settings.history_influx_url:
            found.append(stack.enter_context(InfluxHistory(settings)))
        if settings.history_lines:
            found.append(stack.enter_context(LineHistory(settings.history_lines)))
        yield found


def drained(archive: Archive, settings: Settings, component: str, weeks: Sequence[Week], run: str) -> int | None:
    """Reads the component's backlog where Kafka may still have something of the weeks; when, in UTC microseconds."""
    now = datetime.now(UTC)
    if not settings.kafka_bootstrap or all(week.end + KAFKA_KEEPS < now for week in weeks):
        return None
    drain(archive, settings, components={component}, run=run)
    return microseconds(now)


class _Healing:
    """One call of `heal`."""

    def __init__(
        self,
        archive: Archive,
        settings: Settings,
        sources: Sequence[HistorySource],
        schemas: DeclaredSchemas,
        again: bool,
        seconds: float | None,
        run: str,
        progress: Progress | None,
    ) -> None:
        self._archive = archive
        self._settings = settings
        self._sources = sources
        self._schemas = schemas
        self._again = again
        self._began = time.monotonic()
        self._until = None if seconds is None else self._began + seconds
        self._run = run
        self._progress = progress
        self._lock = threading.Lock()
        self._ledgered = time.monotonic()
        self.result = HealResult()

    def week(self, component: str, week: Week, datasets: Collection[Dataset] | None, drained_us: int | None) -> None:
        """Heals one week, dataset by dataset, as many at once as the server may be asked questions."""
        if self._is_over():
            self.result.left = True
            return
        asked = Asked(self._archive.store, component, week)
        wanted = [one for one in self._datasets(component) if datasets is None or one in datasets]
        missing = self._missing(wanted, week, drained_us)
        todo = {dataset: holes for dataset, holes in missing.items() if self._left(asked, dataset, holes)}
        self.result.datasets += len(todo)
        self.result.missing_s += sum(seconds_of(self._left(asked, dataset, holes)) for dataset, holes in todo.items())
        if todo:
            with self._turn() as turn:
                if turn is not None and not turn.is_held:
                    self.result.left = True
                    return
                self._heal(todo, asked)
        if not self.result.left and datasets is None and week.end < datetime.now(UTC):
            asked.finish()

    def _heal(self, todo: Mapping[Dataset, Sequence[Interval]], asked: Asked) -> None:
        tables = [(RAW, dataset) for dataset in todo]
        with (
            self._archive.ledger.announced(self._run, tables) as rows,
            ThreadPoolExecutor(self._settings.history_queries) as pool,
        ):
            work = [pool.submit(self._dataset, dataset, holes, asked, rows) for dataset, holes in todo.items()]
            try:
                for one in work:
                    one.result()
            except BaseException:
                # The others stop at their next piece.
                self._until = time.monotonic()
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                asked.keep()

    @contextmanager
    def _turn(self) -> Iterator[Turn | None]:
        """The turn to ask a server; files may be read by everybody at once."""
        if not any(isinstance(source, InfluxHistory) for source in self._sources):
            yield None
            return
        with Turn(self._archive.store, self._run or "a run without a name", waiting=self._waits) as turn:
            yield turn

    def _waits(self, holder: str) -> bool:
        _log.info("waiting for %s, which asks the history's server now", holder)
        return not self._is_over()

    def _datasets(self, component: str) -> list[Dataset]:
        """What the archive or a source has of the component, the fewest fields first: events are soon done."""
        found = set(self._archive.datasets(component))
        for source in self._sources:
            found |= {dataset for dataset in source.datasets() if dataset.component == component}
        covers = self._settings.configuration.topics.covers
        return sorted(dataset for dataset in found if covers(dataset))

    def _missing(
        self, datasets: Sequence[Dataset], week: Week, drained_us: int | None
    ) -> dict[Dataset, list[Interval]]:
        def of(dataset: Dataset) -> list[Interval]:
            if not any(dataset in source.datasets() for source in self._sources):
                return []
            snapshot = open_table(self._archive.store, self._archive.relative(dataset))
            return missing_intervals(snapshot, week, drained_us=drained_us)

        with ThreadPoolExecutor(4) as pool:
            found = dict(zip(datasets, pool.map(of, datasets), strict=True))
        return {dataset: holes for dataset, holes in found.items() if holes}

    def _left(self, asked: Asked, dataset: Dataset, holes: Sequence[Interval]) -> list[Interval]:
        """What some source has not been asked for yet."""
        left: list[Interval] = []
        for source in self._sources:
            if dataset in source.datasets():
                left += holes if self._again else without(holes, asked.intervals(dataset, source.name))
        return united(left)

    def _dataset(self, dataset: Dataset, holes: Sequence[Interval], asked: Asked, rows: list[LedgerRow]) -> None:
        """Asks source after source for a dataset's holes; the next one only for what the last had nothing of."""
        total_s = seconds_of(self._left(asked, dataset, holes))
        left = list(holes)
        for source in self._sources:
            if dataset not in source.datasets():
                continue
            before = [] if self._again else asked.intervals(dataset, source.name)
            found: list[Interval] = []
            for interval in without(left, before):
                if not self._ask(source, dataset, interval, asked, rows, found):
                    return
            left = without(left, found)
        with self._lock:
            self.result.asked_s += total_s

    def _ask(
        self,
        source: HistorySource,
        dataset: Dataset,
        interval: Interval,
        asked: Asked,
        rows: list[LedgerRow],
        found: list[Interval],
    ) -> bool:
        """Asks for one hole, piece by piece; whether there was time for all of it."""
        target = self._target(dataset, source)
        waiting: list[Piece] = []
        if self._is_over():
            self.result.left = True
            return False
        for piece in source.pieces(dataset, interval):
            waiting.append(piece)
            if piece.points.num_rows:
                found.append(piece.interval)
            if sum(one.points.nbytes for one in waiting) > _COMMIT_BYTES:
                self._fill(target, waiting, asked, rows)
                waiting = []
            if self._is_over() and piece.interval.end_us < interval.end_us:
                self._fill(target, waiting, asked, rows)
                self.result.left = True
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
                self.result.rows += filled.rows
                self.result.bytes += filled.bytes
                self.result.known += filled.known
                self.result.commits += bool(filled.rows)
                counts = self.result.by_source
                counts[target.source] = counts.get(target.source, 0) + filled.rows
                if filled.ambiguous:
                    self.result.ambiguous[target.dataset.text] = sorted(filled.ambiguous)
                rows += filled.ledger
                self._append(rows)
        asked.note(target.dataset, target.source, intervals)
        with self._lock:
            self.result.values += sum(piece.values for piece in pieces)
            self.result.seconds = time.monotonic() - self._began
            if self._progress:
                self._progress(replace(self.result))
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

    def _is_over(self) -> bool:
        return self._until is not None and time.monotonic() >= self._until


def source_of(settings: Settings, kind: str, path: str | None = None) -> HistorySource:
    """The source of a name on the command line: `influx`, or `lines` with a file or directory.

    Raises:
        SettingsError: it is not configured.
    """
    if kind == "influx":
        return InfluxHistory(settings)
    if path is None and settings.history_lines is None:
        raise SettingsError(
            "No files of line protocol are named",
            remedy="Give the file or directory, or set EFD_HISTORY_LINES.",
        )
    return LineHistory(path or str(settings.history_lines))
