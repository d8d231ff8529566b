"""Subjects: what telemetry is joined to, exposures and visits, and how their tables are called.

ConsDB has both (`cdb_<instrument>.exposure`, `.visit1`), with windows of the same kind; results go to tables of their
own (efd-facts.md §5.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from efd_pipelines.exposures.configuration import UNPIVOTED, ExposureColumn, Transformation


@dataclass(frozen=True, slots=True)
class Subject:
    """Exposures, or visits: `table` has them in `cdb_<instrument>`, `key` is its column with their number."""

    table: str
    key: str
    results: str

    @property
    def unpivoted(self) -> str:
        return f"{self.results}{UNPIVOTED}"

    @property
    def provenance(self) -> str:
        return f"{self.results}_provenance"

    def columns(self, transformation: Transformation) -> tuple[ExposureColumn, ...]:
        """The columns that a configuration has for them, in either table."""
        tables = {self.results, self.unpivoted}
        return tuple(column for column in transformation.columns if tables & set(column.tables))


EXPOSURE = Subject("exposure", "exposure_id", "exposure_efd")
VISIT = Subject("visit1", "visit_id", "visit1_efd")
SUBJECTS = (EXPOSURE, VISIT)
