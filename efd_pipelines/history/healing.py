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
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.ledger import RAW, LedgerRow
from efd_pipelines.archive.positions import decided_time_field
from efd_pipelines.archive.tables import open_table
from efd_pipelines.errors import StaleWriter
from efd_pipelines.history import turns
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
from efd_pipelines.topics.names import Dataset, Kind

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

_log = logging.getLogger(__name__)
KAFKA_KEEPS = timedelta(days=15)
"""Brokers keep records for 7 days at most (efd-facts §2.3): twice that, for a retention that was raised in need."""

_COMMIT_BYTES = 96 * 1024 * 1024
_THREADS = 4
_APART_US = 600_000_000
"""Where a source has points no further apart, no other one is asked for what may be between them."""

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
            sources = stack.enter_context(configured_sources(settings, component, weeks))
        if not sources:
            return HealResult()
        if drained_us is None:
            drained_us = drained(archive, settings, component, weeks, run)
        schemas = stack.enter_context(DeclaredSchemas(archive, settings))
        healing = _Healing(archive, settings, sources, schemas, again, seconds, run, progress)
        for week in weeks:
            healing.week(component, week, datasets, drained_us)
        return healing.result


@dataclass(frozen=True, slots=True)
class Estimate:
    """What healing would ask for.

    Args:
        missing_s: how much is missing, over all datasets.
        values: about how many values the sources have of it, by samples.
        hours: how long that takes at the rate that is allowed.
    """

    datasets: int
    missing_s: float
    values: int
    hours: float


def estimate(
    archive: Archive, settings: Settings, *, component: str, weeks: Sequence[Week], sources: Sequence[HistorySource]
) -> Estimate:
    """How much `heal` would have to do, without doing it; the history is asked for samples.

    Raises:
        StoreUnavailable, HistoryUnavailable: a service did not answer.
    """
    with DeclaredSchemas(archive, settings) as schemas:
        healing = _Healing(archive, settings, sources, schemas, False, None, "", None)
        found = [healing.estimate(component, week, None) for week in weeks]
    values = sum(one[2] for one in found)
    return Estimate(
        datasets=sum(one[0] for one in found),
        missing_s=sum(one[1] for one in found),
        values=values,
        hours=values / settings.history_values_s / 3600,
    )


@contextmanager
def configured_sources(settings: Settings, component: str, weeks: Sequence[Week]) -> Iterator[list[HistorySource]]:
    """The sources that the settings name, the best first."""
    with ExitStack() as stack:
        found: list[HistorySource] = []
        if settings.history_influx_url:
            found.append(stack.enter_context(InfluxHistory(settings)))
        if settings.history_lines:
            found.append(stack.enter_context(lines_of(settings.history_lines, component, weeks)))
        yield found


def is_configured(settings: Settings) -> bool:
    """Whether the settings name any source of history."""
    return bool(settings.history_influx_url or settings.history_lines)


def lines_of(path: Path, component: str, weeks: Sequence[Week]) -> LineHistory:
    """Files of line protocol, as far as they matter for a component's weeks."""
    limits = Interval(min(week.start_us for week in weeks), max(week.end_us for week in weeks))
    return LineHistory(path, component=component, limits=limits)


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
        todo = self.todo(component, week, datasets, drained_us, asked)
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

    def todo(
        self,
        component: str,
        week: Week,
        datasets: Collection[Dataset] | None,
        drained_us: int | None,
        asked: Asked,
    ) -> dict[Dataset, list[Interval]]:
        """The holes of the datasets of which some source has not been asked for everything."""
        wanted = [one for one in self._datasets(component) if datasets is None or one in datasets]
        missing = self._missing(wanted, week, drained_us)
        return {dataset: holes for dataset, holes in missing.items() if self._left(asked, dataset, holes)}

    def estimate(self, component: str, week: Week, drained_us: int | None) -> tuple[int, float, int]:
        """Datasets, seconds and values that healing the week would ask for."""
        asked = Asked(self._archive.store, component, week)
        count, missing_s, values = 0, 0.0, 0
        for dataset, holes in self.todo(component, week, None, drained_us, asked).items():
            left = self._left(asked, dataset, holes)
            source = next(source for source in self._sources if dataset in source.datasets())
            count, missing_s = count + 1, missing_s + seconds_of(left)
            values += source.about(dataset, left)
        return count, missing_s, values

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
        who = self._run or "a run without a name"
        with Turn(self._archive.store, who, waiting=self._waits, lease_s=turns.LEASE_S) as turn:
            yield turn

    def _waits(self, holder: str) -> bool:
        _log.info("waiting for %s, which asks the history's server now", holder)
        return not self._is_over()

    def _datasets(self, component: str) -> list[Dataset]:
        """What the archive or a source has of the component; telemetry last, all else is soon done."""
        found = set(self._archive.datasets(component))
        for source in self._sources:
            found |= {dataset for dataset in source.datasets() if dataset.component == component}
        covers = self._settings.configuration.topics.covers
        wanted = [dataset for dataset in found if covers(dataset)]
        return sorted(wanted, key=lambda dataset: (dataset.kind is Kind.TELEMETRY, dataset))

    def _missing(
        self, datasets: Sequence[Dataset], week: Week, drained_us: int | None
    ) -> dict[Dataset, list[Interval]]:
        def of(dataset: Dataset) -> list[Interval]:
            if not any(dataset in source.datasets() for source in self._sources):
                return []
            snapshot = open_table(self._archive.store, self._archive.relative(dataset))
            if snapshot is not None and is_expired(snapshot, week):
                return []
            return missing_intervals(snapshot, week, drained_us=drained_us)

        with ThreadPoolExecutor(_THREADS) as pool:
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
        count = _Count(self.result, self._lock, total_s)
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
        count: _Count,
    ) -> bool:
        """Asks for one hole, piece by piece; whether there was time for all of it."""
        target = self._target(dataset, source)
        waiting: list[Piece] = []
        if self._is_over():
            self.result.left = True
            return False
        for piece in source.pieces(dataset, interval):
            waiting.append(piece)
            found += piece.stretches(_APART_US)
            count.add(piece)
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


class _Count:
    """How much of a dataset's holes has been asked for."""

    def __init__(self, result: HealResult, lock: threading.Lock, total_s: float) -> None:
        self._result = result
        self._lock = lock
        self._left_s = total_s

    def add(self, piece: Piece) -> None:
        """Another piece; one that a second source is asked for as well counts once."""
        with self._lock:
            seconds = min(self._left_s, piece.interval.seconds)
            self._left_s -= seconds
            self._result.asked_s += seconds
            self._result.values += piece.values

    def finish(self) -> None:
        """Nothing is left of them."""
        with self._lock:
            self._result.asked_s += self._left_s
            self._left_s = 0.0
