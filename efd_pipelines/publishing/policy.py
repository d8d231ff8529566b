"""Policy: which datasets and columns are published, from which table, into which database.

`influx_1s` and `influx_1m` publish a tier, and what is too slow for the tier as it was sent; `influx_events` what is no
telemetry. The sections are in the configuration (`publishing`); here they are applied.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import pyarrow as pa

from efd_pipelines.archive.ledger import RAW
from efd_pipelines.configuration import OTHER_SUBSYSTEM, Configuration, InfluxPolicy
from efd_pipelines.errors import UsageError
from efd_pipelines.publishing.server import Destination
from efd_pipelines.tiers.tier import TIERS, Tier, aggregated
from efd_pipelines.times import from_microseconds, microseconds
from efd_pipelines.topics.layout import SYSTEM_COLUMNS
from efd_pipelines.topics.names import Dataset, Kind

PUBLICATIONS = ("influx_1s", "influx_1m", "influx_events")
COUNT = "count"
SEQUENCE = "private_seqNum"
_TIERS = {"influx_1s": "1s", "influx_1m": "1m"}
_NEVER = frozenset({"time", "salIndex", *SYSTEM_COLUMNS})


@dataclass(frozen=True, slots=True)
class Publication:
    """What one asset publishes."""

    name: str
    policy: InfluxPolicy
    configuration: Configuration

    @classmethod
    def named(cls, name: str, configuration: Configuration) -> Publication:
        """The publication of a name.

        Raises:
            UsageError: there is none.
        """
        if name not in PUBLICATIONS:
            raise UsageError(f"Nothing is published as {name!r}", remedy=f"Publications are {', '.join(PUBLICATIONS)}.")
        return cls(name, getattr(configuration.publishing, name), configuration)

    @property
    def tier(self) -> Tier | None:
        name = _TIERS.get(self.name)
        return None if name is None else TIERS[name]

    def table_of(self, dataset: Dataset) -> str | None:
        """The table that is published of a dataset: the tier's name, or `raw`; None where nothing is."""
        if dataset.kind not in self.policy.kinds or not self.policy.topics.covers(dataset):
            return None
        tier = self.tier
        if tier is None or dataset.kind is not Kind.TELEMETRY:
            return RAW
        if aggregated(dataset, self.configuration, tier):
            return tier.name
        return RAW if self.policy.slow_telemetry else None

    def columns_of(self, schema: pa.Schema, table: str) -> list[str]:
        """The columns that become fields; the one by which points are counted is always among them."""
        marker = COUNT if table != RAW else SEQUENCE
        names = [name for name in schema.names if name not in _NEVER]
        return [name for name in names if name == marker or self.policy.fields.covers(name)]

    def destination(self, dataset: Dataset, time_us: int) -> Destination:
        """Where a point of this time goes."""
        return Destination(self._database(dataset, from_microseconds(time_us).year), self.policy.retention_policy)

    def _database(self, dataset: Dataset, year: int) -> str:
        subsystem = self.configuration.subsystem_of(dataset.component)
        component = re.sub(r"[^A-Za-z0-9_.-]", "-", dataset.component)
        return self.policy.database.format(subsystem=subsystem, component=component, year=year)

    def may_have(self, destination: Destination) -> bool:
        """Whether a destination has a name that this publication gives: with any component, a known subsystem."""
        subsystems = "|".join(map(re.escape, (*self.configuration.subsystems, OTHER_SUBSYSTEM)))
        parts = re.split(r"(\{[^}]*\})", self.policy.database)
        kinds = {"s": f"(?:{subsystems})", "c": r"[A-Za-z0-9_.-]+", "y": r"\d{4}"}
        pattern = "".join(kinds[part[1]] if part.startswith("{") else re.escape(part) for part in parts)
        is_named = re.fullmatch(pattern, destination.database) is not None
        return is_named and destination.retention_policy == self.policy.retention_policy

    def oldest_us(self, now: datetime) -> int:
        """Before this, points have run out: they are not published, and may be gone."""
        if self.policy.retention_days is None:
            return -(2**62)
        return microseconds(now - timedelta(days=self.policy.retention_days))

    def place(self, url: str) -> str:
        """Where it is kept what has been published to a server, relative to the archive's root.

        Databases of another name are another place: nothing of what is recorded is there.
        """
        parts = urlsplit(url)
        host = re.sub(r"[^A-Za-z0-9.-]", "-", parts.hostname or "")
        names = f"{parts.path}|{self.policy.database}|{self.policy.retention_policy}"
        digest = hashlib.sha256(names.encode()).hexdigest()[:8]
        return f"published/{self.name}/{host}-{parts.port or (443 if parts.scheme == 'https' else 80)}-{digest}"


def measurement_of(dataset: Dataset) -> str:
    """What a dataset is called in InfluxDB: its name, as in the EFD."""
    return dataset.text
