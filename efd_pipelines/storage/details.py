"""Details: what a report knows that is not in the ledger but in the records: rates, latencies, advice.

What belongs here: holding them together. Finding them: `rates.py`, `latency.py`, `advice.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efd_pipelines.storage.advice import Advice
    from efd_pipelines.storage.estimates import Estimate
    from efd_pipelines.storage.latency import Latency
    from efd_pipelines.storage.page import Section
    from efd_pipelines.storage.rates import Rates


@dataclass(frozen=True, slots=True)
class Details:
    """What could be found; None or nothing where the period or the archive does not tell."""

    rates: Rates | None
    latencies: tuple[Latency, ...]
    advice: Advice | None
    estimates: tuple[Estimate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What the report's JSON has of them."""
        return {
            "throughput": None if self.rates is None else self.rates.to_json(),
            "latencies": [one.to_json() for one in self.latencies],
            "advice": None if self.advice is None else self.advice.to_json(),
            "estimates": [one.to_json() for one in self.estimates],
        }

    def sections(self) -> list[Section]:
        """What the report's page has of them."""
        from efd_pipelines.storage.advice import advice_section, topics_section
        from efd_pipelines.storage.estimates import estimates_section
        from efd_pipelines.storage.latency import latency_section
        from efd_pipelines.storage.rates import rates_section

        found = [
            None if self.rates is None else rates_section(self.rates),
            latency_section(self.latencies),
            None if self.advice is None else advice_section(self.advice),
            None if self.advice is None else topics_section(self.advice),
            estimates_section(self.estimates),
        ]
        return [section for section in found if section is not None]
