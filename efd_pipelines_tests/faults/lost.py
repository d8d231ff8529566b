"""Lost: points that only a history has, InfluxDB or files exported from it, until a case brings them home.

Each batch lies in a week of its own, older than all before it, so that what Kafka delivers late of one batch covers
none of the next ones' time. What is delivered late stands in both, and Kafka's row supersedes the history's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.simulator.series import Series
from efd_pipelines.times import Week, microseconds
from efd_pipelines_tests.integration.influx_points import as_rows, lines_of, write_points

TOPIC = SalTopic.of(
    "lsst.sal.Heal.sample",
    [SalField("count", "int"), SalField("level", "float"), SalField("text", "string"), SalField("values", "double", 3)],
)
COMPONENT = "Heal"
_FIRST_WEEK = 2


@dataclass(slots=True)
class Batch:
    """Points of one week. `is_late` where Kafka has delivered them after all."""

    week: Week
    series: Series
    is_late: bool = False

    def expected(self) -> tuple[int, int, bool]:
        """Writer, how many it numbered, and whether Kafka has them too."""
        return int(self.series.columns["private_origin"]), len(self.series), self.is_late


class History:
    """What a deployment's histories have: a database, and a directory of files, both of one archive."""

    def __init__(self, influx: InfluxServer, database: str, files: Path) -> None:
        self._influx = influx
        self._database = database
        self._files = files
        self.batches: list[Batch] = []
        files.mkdir(parents=True)
        # A directory without any file is refused, as a mistake.
        (files / "none.lp").write_text("# nothing yet\n")

    @property
    def environ(self) -> dict[str, str]:
        return {
            "EFD_HISTORY_INFLUX_URL": self._influx.url,
            "EFD_HISTORY_DATABASE": self._database,
            "EFD_HISTORY_LINES": str(self._files),
        }

    def lose(self, rng: np.random.Generator, seed: int) -> Batch:
        """A batch that no broker has: in InfluxDB, in a file, or a part in each and some in both."""
        week = Week.containing(datetime.now(UTC) - timedelta(weeks=_FIRST_WEEK + len(self.batches)))
        start = week.start + timedelta(minutes=float(rng.uniform(0, 6 * 24 * 60)))
        series = random_series(TOPIC, int(rng.integers(10, 80)), microseconds(start), seed=seed)
        rows = as_rows(series)
        half = len(series) // 2
        where = str(rng.choice(["influx", "influx", "file", "both"]))
        if where != "file":
            write_points(self._influx, self._database, TOPIC.name, rows if where == "influx" else rows[: half + 3])
        if where != "influx":
            of_file = rows if where == "file" else rows[half:]
            (self._files / f"{len(self.batches)}.lp").write_text("\n".join(lines_of(TOPIC.name, of_file)) + "\n")
        self.batches.append(Batch(week, series))
        return self.batches[-1]

    def weeks(self) -> list[str]:
        """The weeks of all batches, the newest first."""
        return [batch.week.key for batch in self.batches]
