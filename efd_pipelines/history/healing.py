"""Healing: the missing intervals of a component's weeks, each from the best source that has it.

Kafka first: where brokers are configured and a week is young enough for them, the backlog is drained before anything
is called missing. Then the history's sources in their order, InfluxDB before files: a stretch of which one had nothing
is asked of the next. Everything is done in small commits, and what was done is noted, so that a run that is killed, or
whose time is up, goes on where it stopped; done again, nothing changes.
What is missing: `coverage.py`. What the sources give for it: `answers.py`. Which weeks are next: `planning.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.tables import open_table
from efd_pipelines.history import turns
from efd_pipelines.history.answers import Answers
from efd_pipelines.history.asked import Asked
from efd_pipelines.history.configured import configured_sources
from efd_pipelines.history.coverage import missing_intervals
from efd_pipelines.history.declared import DeclaredSchemas
from efd_pipelines.history.influx import InfluxHistory
from efd_pipelines.history.intervals import Interval, seconds_of
from efd_pipelines.history.results import Estimate, HealResult, Progress
from efd_pipelines.history.sources import HistorySource
from efd_pipelines.history.turns import Turn
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset, Kind

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

_log = logging.getLogger(__name__)
KAFKA_KEEPS = timedelta(days=15)
"""Brokers keep records for 7 days at most (efd-facts §2.3): twice that, for a retention that was raised in need."""

_THREADS = 4


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
        self._began = time.monotonic()
        self._until = None if seconds is None else self._began + seconds
        self._run = run
        self.result = HealResult()
        self._answers = Answers(
            archive,
            settings,
            sources,
            schemas,
            again=again,
            run=run,
            result=self.result,
            progress=progress,
            is_over=lambda: self._is_over(),
        )

    def week(self, component: str, week: Week, datasets: Collection[Dataset] | None, drained_us: int | None) -> None:
        """Heals one week, dataset by dataset, as many at once as the server may be asked questions."""
        if self._is_over():
            self.result.left = True
            return
        asked = Asked(self._archive.store, component, week)
        todo = self.todo(component, week, datasets, drained_us, asked)
        self.result.datasets += len(todo)
        left = (self._answers.left(asked, dataset, holes) for dataset, holes in todo.items())
        self.result.missing_s += sum(map(seconds_of, left))
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
        return {dataset: holes for dataset, holes in missing.items() if self._answers.left(asked, dataset, holes)}

    def estimate(self, component: str, week: Week, drained_us: int | None) -> tuple[int, float, int]:
        """Datasets, seconds and values that healing the week would ask for."""
        asked = Asked(self._archive.store, component, week)
        count, missing_s, values = 0, 0.0, 0
        for dataset, holes in self.todo(component, week, None, drained_us, asked).items():
            left = self._answers.left(asked, dataset, holes)
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
            work = [pool.submit(self._answers.take, dataset, holes, asked, rows) for dataset, holes in todo.items()]
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

    def _is_over(self) -> bool:
        return self._until is not None and time.monotonic() >= self._until
