"""Asked: what a restore is asked for, by the command line or Dagster's form, and the target that it means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efd_pipelines.errors import UsageError
from efd_pipelines.restoring.restore import Target
from efd_pipelines.times import Week

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

EFD = "efd"
"""The database of all SAL topics (efd-facts.md §2.1)."""

VALUES_S = 1_000_000.0
"""The pace where none is given: values a second."""

KINDS = ("influx", "lines", "kafka")


@dataclass(frozen=True, slots=True)
class Asked:
    """A restore of a component's weeks.

    Args:
        to: `influx`, `lines` or `kafka`.
        out: the directory of `lines`.
        database: of `influx` and `lines`; by default `efd` for SAL components and the namespace for others.
        prefix: of `kafka`'s topics; None: those that the records came from.
        tags: fields that are tags in InfluxDB.
        with_history: whether Kafka gets rows that came from InfluxDB; InfluxDB does.
    """

    component: str
    weeks: tuple[Week, ...]
    to: str
    out: str = ""
    database: str = ""
    prefix: str | None = None
    tags: tuple[str, ...] = ()
    with_history: bool = False
    values_s: float = VALUES_S

    def check(self) -> None:
        """Refuses what cannot be meant.

        Raises:
            UsageError: it cannot.
        """
        if self.to not in KINDS:
            raise UsageError(f"--to {self.to} is not known", remedy=f"There are {', '.join(KINDS)}.")
        if self.to == "lines" and not self.out:
            raise UsageError("No directory is named for the lines", remedy="Name one with --out.")
        if self.values_s <= 0:
            raise UsageError("The pace must be above 0", remedy="Give values a second.")
        if self.prefix is not None and self.to != "kafka":
            raise UsageError("A prefix is for --to kafka", remedy="Leave it out, or name a --database.")

    @property
    def database_name(self) -> str:
        return self.database or (self.component.rpartition("@")[2] if "." in self.component else EFD)


@contextmanager
def target_of(asked: Asked, archive: Archive, settings: Settings) -> Iterator[Target]:
    """The target, with its connections.

    Raises:
        UsageError: what is asked for cannot be meant.
        SettingsError: a setting of the service is missing.
    """
    asked.check()
    if asked.to == "lines":
        from efd_pipelines.restoring.lines import LinesTarget

        yield LinesTarget(asked.out, asked.database_name, tags=asked.tags)
    elif asked.to == "influx":
        from efd_pipelines.publishing.server import Destination, Influx
        from efd_pipelines.restoring.influx import InfluxTarget

        with Influx(settings) as influx:
            destination = Destination(asked.database_name)
            yield InfluxTarget(archive, influx, destination, values_s=asked.values_s, tags=asked.tags)
    else:
        from efd_pipelines.restoring.kafka import KafkaTarget

        settings.require_kafka()
        settings.require_registry()
        with KafkaTarget(
            archive,
            settings,
            prefix=asked.prefix,
            values_s=asked.values_s,
            with_history=asked.with_history,
        ) as target:
            yield target


def weeks_of(first: str, last: str) -> Sequence[Week]:
    """The weeks of two Mondays, both included; the first alone where there is no last.

    Raises:
        UsageError: one is no Monday, or the last is before the first.
    """
    from efd_pipelines.times import weeks_between

    found = weeks_between(Week.parse(first), Week.parse(last or first))
    if not found:
        raise UsageError(f"{last} is before {first}", remedy="Give the earlier week first.")
    return found
