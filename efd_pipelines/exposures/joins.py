"""Joins: the values of an instrument's exposures and visits, computed from the archive and written to ConsDB.

One run reads the exposures and visits, asks what of them is stale (`staleness.py`), has it computed (`plans.py`,
`computing.py`, `sharing.py`), and writes values and provenance (`results.py`) while the next is computed. A visit that
is an exposure is computed once. The week of an exposure does not matter to it: a window that crosses Monday 00:00 UTC
reads both.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.archive.archive import Archive
from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.exposures.computing import Progress, Values
from efd_pipelines.exposures.configuration import Transformation, load_transformation
from efd_pipelines.exposures.consdb import ConsDB, has_visits, read_exposures
from efd_pipelines.exposures.plans import Plan, plan_join
from efd_pipelines.exposures.results import Computation, Outcome, keys_of, read_provenance, register, write
from efd_pipelines.exposures.sharing import compute_all
from efd_pipelines.exposures.staleness import Changes, Need, archive_changes, stale, versions_after, waiting
from efd_pipelines.exposures.subjects import EXPOSURE, SUBJECTS, VISIT, Subject
from efd_pipelines.exposures.tables import ResultTables
from efd_pipelines.exposures.windows import Exposures, Windows
from efd_pipelines.settings import Settings
from efd_pipelines.times import INVALID_TIME, Week
from efd_pipelines.topics.names import Dataset

WINDOWS_AT_ONCE = 250
FEWER_AT_ONCE = 50
"""With columns of several topics, whose samples are held until all of their topics have been read; and where workers of
Dask share the work: what is no more, as live joins are, is computed here."""


@dataclass(frozen=True, slots=True)
class WeekJoin:
    """What was computed of the exposures that began in one week."""

    exposures: int
    values: int
    nulls: int


@dataclass(frozen=True, slots=True)
class JoinResult:
    """What a join did.

    `exposures` and `visits` were computed; of the exposures, `values` and `nulls` count what came out, an unpivoted
    column as one. `columns` can be computed, `skipped` has those that cannot and why, `warnings` what else is not as
    configured. Of the other exposures `unchanged` were up to date, `unended` have no end yet, `waiting` wait for
    telemetry that is on its way: a later run takes them.
    """

    instrument: str
    exposures: int
    columns: int
    values: int
    nulls: int
    seconds: float
    skipped: Mapping[str, str] = field(default_factory=dict)
    by_week: Mapping[str, WeekJoin] = field(default_factory=dict)
    unchanged: int = 0
    unended: int = 0
    waiting: int = 0
    visits: int = 0
    warnings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Exposures, or visits, that were looked at: those with everything there is to compute, and what of it is due.

    `due` has shape (exposures, columns of `needs`); `versions` is what the values of each rest on so far.
    """

    tables: ResultTables
    exposures: Exposures
    needs: Sequence[Need]
    due: NDArray[np.bool_]
    versions: Sequence[Mapping[str, int]]
    unended: int
    waiting: int

    @property
    def is_due(self) -> NDArray[np.bool_]:
        return np.asarray(self.due.any(axis=1))


def join_exposures(
    archive: Archive,
    settings: Settings,
    exposure_config: ExposureJoin,
    *,
    day_obs: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    week: Week | None = None,
    run: str = "",
    recompute: bool = False,
    nulls_overwrite: bool = False,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> JoinResult:
    """Computes the values of the exposures and visits that are stale, and writes them; safe to repeat and to run twice.

    Exposures are those whose window touches the week or times (`end` excluded), or of the observing day; all without.
    `recompute` takes those that are up to date too. With `nulls_overwrite` a value that there is no more becomes NULL.

    Raises:
        TransformationError: the configuration is wrong.
        DatabaseUnavailable, DataError: ConsDB does not answer, or refuses.
        StoreUnavailable: the archive does not answer.
        DaskUnavailable: the cluster is gone; what was written stands, and another run computes the rest.
    """
    started = time.monotonic()
    transformation = load_transformation(exposure_config.config)
    with ConsDB(settings.require_consdb()) as consdb:
        found = {
            subject: read_exposures(
                consdb,
                exposure_config.exposure_schema,
                subject=subject,
                week=week,
                day_obs=day_obs,
                start=start,
                end=end,
            ).padded(round(exposure_config.padding_s * 1e6))
            for subject in _subjects(consdb, exposure_config, transformation)
        }
        plan = plan_join(archive, transformation)
        changes = archive_changes(archive, transformation.datasets, _first_read(found.values(), plan, transformation))
        reached = _reached(plan, changes, settings)
        looked = []
        for subject, exposures in found.items():
            tables = ResultTables.of(consdb, exposure_config.result_schema, subject, transformation)
            tables.ensure()
            register(tables, transformation.version)
            looked.append(_candidates(tables, exposures, plan, transformation, changes, reached, recompute, now))
        computation = Computation(transformation.version, run, nulls_overwrite)
        weeks = _compute_and_write(settings, plan, looked, computation, progress)
    first = looked[0]
    return JoinResult(
        instrument=exposure_config.instrument,
        exposures=sum(one.exposures for one in weeks.values()),
        columns=len(plan.columns),
        values=sum(one.values for one in weeks.values()),
        nulls=sum(one.nulls for one in weeks.values()),
        seconds=time.monotonic() - started,
        skipped=plan.skipped,
        by_week=weeks,
        unchanged=int((~first.is_due).sum()),
        unended=first.unended,
        waiting=first.waiting,
        visits=sum(int(one.is_due.sum()) for one in looked if one.tables.subject is VISIT),
        warnings=dict(plan.warnings),
    )


def _subjects(consdb: ConsDB, join: ExposureJoin, transformation: Transformation) -> list[Subject]:
    """Exposures always; visits where the configuration has columns for them and ConsDB has any."""
    return [
        subject
        for subject in SUBJECTS
        if subject is EXPOSURE or (subject.columns(transformation) and has_visits(consdb, join.exposure_schema))
    ]


def candidates_of(
    archive: Archive,
    settings: Settings,
    tables: ResultTables,
    found: Exposures,
    plan: Plan,
    transformation: Transformation,
    now: datetime,
) -> Candidates:
    """What of some exposures, with padded windows, is due.

    Raises:
        DatabaseUnavailable, StoreUnavailable: a service does not answer.
    """
    changes = archive_changes(archive, transformation.datasets)
    reached = _reached(plan, changes, settings)
    return _candidates(tables, found, plan, transformation, changes, reached, recompute=False, now=now)


def _candidates(
    tables: ResultTables,
    found: Exposures,
    plan: Plan,
    transformation: Transformation,
    changes: Mapping[Dataset, Changes],
    reached: Mapping[Dataset, int],
    recompute: bool,
    now: datetime | None,
) -> Candidates:
    ended = found.take(found.end_us != INVALID_TIME)
    late = waiting(ended, reached, now or datetime.now(UTC))
    ready = ended.take(~late)
    needs = needs_of(tables)
    written = read_provenance(tables, ready)
    if recompute:
        due = np.ones((len(ready), len(needs)), dtype=bool)
    else:
        due = stale(ready, written, needs, reads_of(plan, transformation), changes)
    before = [written.get(key) for key in keys_of(ready)]
    versions: list[Mapping[str, int]] = [was.versions if was is not None else {} for was in before]
    return Candidates(tables, ready, needs, due, versions, len(found) - len(ended), int(late.sum()))


def needs_of(tables: ResultTables) -> list[Need]:
    """What each column of results depends on."""
    return [
        Need(column.name, column.digest, tuple(topic.dataset for topic in column.topics))
        for column in tables.all_columns
    ]


def _first_read(found: Iterable[Exposures], plan: Plan, transformation: Transformation) -> int | None:
    """The first event time that any of the exposures looks at, in UTC microseconds; None where there is none."""
    begins = [int(exposures.begin_us.min()) for exposures in found if len(exposures)]
    before = max((before for before, _ in reads_of(plan, transformation).values()), default=0)
    return min(begins) - before if begins else None


def reads_of(plan: Plan, transformation: Transformation) -> dict[Dataset, tuple[int, int]]:
    """How far before and behind a window each dataset is read, in microseconds."""
    reads = dict.fromkeys(transformation.datasets, (0, 0))
    for column in transformation.columns:
        for topic in column.topics:
            before, after = reads[topic.dataset]
            reads[topic.dataset] = max(before, -column.start_offset_us), after
    for reading in plan.readings:
        before, after = reads[reading.dataset]
        reads[reading.dataset] = max(before, reading.before_us), max(after, reading.after_us)
    return reads


def _reached(plan: Plan, changes: Mapping[Dataset, Changes], settings: Settings) -> dict[Dataset, int]:
    """To when each topic is archived: the latest sample, and two declared intervals in which none need have come."""
    return {
        reading.dataset: changes[reading.dataset].reached_us
        + round(2e6 / settings.configuration.rate_hz(reading.dataset))
        for reading in plan.readings
        if changes[reading.dataset].reached_us != INVALID_TIME
    }


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of which the same columns are computed, and the exposures and visits that have them.

    `chosen` says, for each of the candidates, which of them and with which of the windows.
    """

    columns: frozenset[str]
    windows: Windows
    chosen: tuple[tuple[Candidates, NDArray[np.int64], NDArray[np.int64]], ...]


def _batches(looked: Sequence[Candidates], at_once: int) -> Iterator[Batch]:
    """What is due, each window once: what is due of an exposure is computed for the visit with its window as well."""
    parts = [(one, np.flatnonzero(one.is_due)) for one in looked]
    edges = np.concatenate(
        [np.stack([one.exposures.begin_us[at], one.exposures.end_us[at]], axis=1) for one, at in parts]
    )
    if not len(edges):
        return
    windows, of = np.unique(edges, axis=0, return_inverse=True)
    of = of.reshape(-1)
    names = sorted({need.name for one in looked for need in one.needs})
    due = np.zeros((len(windows), len(names)), dtype=bool)
    place = {name: n for n, name in enumerate(names)}
    first = 0
    for one, at in parts:
        mine = of[first : first + len(at)]
        first += len(at)
        for n, need in enumerate(one.needs):
            due[mine[one.due[at, n]], place[need.name]] = True
    kinds, kind_of = np.unique(due, axis=0, return_inverse=True)
    kind_of = kind_of.reshape(-1)
    for kind, wanted in enumerate(kinds):
        members = np.flatnonzero(kind_of == kind)
        columns = frozenset(name for name, is_due in zip(names, wanted.tolist(), strict=True) if is_due)
        for start in range(0, len(members), at_once):
            some = members[start : start + at_once]
            yield Batch(columns, Windows(windows[some, 0], windows[some, 1]), tuple(_placed(parts, of, some)))


def _placed(
    parts: Sequence[tuple[Candidates, NDArray[np.int64]]], of: NDArray[np.int64], members: NDArray[np.int64]
) -> Iterator[tuple[Candidates, NDArray[np.int64], NDArray[np.int64]]]:
    first = 0
    for one, at in parts:
        mine = of[first : first + len(at)]
        first += len(at)
        where = np.searchsorted(members, mine)
        where[where == len(members)] = 0
        here = members[where] == mine
        yield one, at[here], where[here]


def _compute_and_write(
    settings: Settings,
    plan: Plan,
    looked: Sequence[Candidates],
    computation: Computation,
    progress: Progress | None,
) -> dict[str, WeekJoin]:
    """Writes one batch while the next is computed."""
    weeks: dict[str, WeekJoin] = {}
    few = bool(settings.dask_scheduler) or any(column.is_combined for column in plan.columns)
    batches = list(_batches(looked, FEWER_AT_ONCE if few else WINDOWS_AT_ONCE))
    wanted = [(plan.only(batch.columns), batch.windows) for batch in batches]
    writing: Future[None] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="write") as writer:
        for batch, values in zip(batches, compute_all(settings, wanted, progress), strict=True):
            outcomes = [_outcome(plan, one, at, where, batch.columns) for one, at, where in batch.chosen if len(at)]
            if writing is not None:
                writing.result()
            writing = writer.submit(write, outcomes, values, computation)
            for outcome in outcomes:
                if outcome.tables.subject is EXPOSURE:
                    _count(weeks, outcome, values)
        if writing is not None:
            writing.result()
    return weeks


def _outcome(
    plan: Plan, one: Candidates, at: NDArray[np.int64], where: NDArray[np.int64], columns: frozenset[str]
) -> Outcome:
    done = np.array([need.name in columns for need in one.needs], dtype=bool)
    after: dict[int, Mapping[str, int]] = {}
    versions: list[Mapping[str, int]] = []
    for n in at.tolist():
        was = one.versions[n]
        if id(was) not in after:
            after[id(was)] = versions_after(was, plan.versions, one.needs, done)
        versions.append(after[id(was)])
    return Outcome(one.tables, one.exposures.take(at), where, versions)


def _count(weeks: dict[str, WeekJoin], outcome: Outcome, values: Values) -> None:
    own = {column.name for column in outcome.tables.all_columns}
    chosen = np.array([name in own for name in values.columns], dtype=bool)
    known = values.known()[:, chosen]
    there = np.count_nonzero(known, axis=1)[outcome.at]
    for begin_us, count in zip(outcome.exposures.begin_us.tolist(), there.tolist(), strict=True):
        key = Week.containing(begin_us).key
        was = weeks.get(key, WeekJoin(0, 0, 0))
        weeks[key] = WeekJoin(was.exposures + 1, was.values + count, was.nulls + known.shape[1] - count)
