"""Asked: which stretches of a component's week a source has been asked for already.

That a source has nothing of a stretch can be seen in no table, and asking again for years of silence would take years.
So it is noted after each commit, in `history/asked/<component>/<week>.json`; the note may lag behind the tables, never
lead, and may be deleted: then everything is asked for again, and what is there already is not filled in twice.
A week of which nothing is left to be asked for is marked by `<week>.done`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable

from efd_pipelines.archive.store import Store
from efd_pipelines.history.intervals import Interval, united
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

ROOT = "history/asked"
_EVERY_S = 15.0
_DONE = ".done"


class Asked:
    """The note of one component's week; safe to use from several threads."""

    def __init__(self, store: Store, component: str, week: Week) -> None:
        self._store = store
        self._path = f"{directory_of(component)}/{week.key}"
        self._lock = threading.Lock()
        self._kept_at = time.monotonic()
        self._noted = self._read()
        self._is_changed = False

    def intervals(self, dataset: Dataset, source: str) -> list[Interval]:
        """What the source was asked for."""
        with self._lock:
            found = self._noted.get(dataset.text, {}).get(source, [])
            return [Interval(start_us, end_us) for start_us, end_us in found]

    def note(self, dataset: Dataset, source: str, intervals: Iterable[Interval]) -> None:
        """The source has been asked for these, and what it had is committed."""
        with self._lock:
            of = self._noted.setdefault(dataset.text, {})
            before = [Interval(start_us, end_us) for start_us, end_us in of.get(source, [])]
            of[source] = [[one.start_us, one.end_us] for one in united([*before, *intervals])]
            self._is_changed = True
            if time.monotonic() - self._kept_at > _EVERY_S:
                self._keep()

    def keep(self) -> None:
        """Writes what was noted."""
        with self._lock:
            if self._is_changed:
                self._keep()

    def finish(self) -> None:
        """Nothing is left to be asked for."""
        self.keep()
        self._store.write_bytes(f"{self._path}{_DONE}", json.dumps({"at": time.time()}).encode())

    def _keep(self) -> None:
        self._store.write_bytes(f"{self._path}.json", json.dumps(self._noted, separators=(",", ":")).encode())
        self._kept_at = time.monotonic()
        self._is_changed = False

    def _read(self) -> dict[str, dict[str, list[list[int]]]]:
        data = self._store.try_read(f"{self._path}.json")
        found: dict[str, dict[str, list[list[int]]]] = {} if data is None else json.loads(data)
        return found


def directory_of(component: str) -> str:
    """Where a component's notes are; `~` stands before what a path must not begin with."""
    return f"{ROOT}/{component if component and component[0] not in '._' else f'~{component}'}"


def is_begun(store: Store, component: str, week: Week) -> bool:
    """Whether something of the week was asked for."""
    return store.exists(f"{directory_of(component)}/{week.key}.json")


def finished_weeks(store: Store, component: str) -> set[Week]:
    """The weeks of which nothing was left to be asked for."""
    names = store.list(directory_of(component))
    return {Week.parse(name.removesuffix(_DONE)) for name in names if name.endswith(_DONE)}


def finished_at(store: Store, component: str, week: Week) -> float | None:
    """When nothing of the week was left to be asked for, in unix seconds."""
    data = store.try_read(f"{directory_of(component)}/{week.key}{_DONE}")
    return None if data is None else float(json.loads(data)["at"])
