"""Configured: the sources of history that the settings name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from efd_pipelines.history.influx import InfluxHistory
from efd_pipelines.history.intervals import Interval
from efd_pipelines.history.lines import LineHistory
from efd_pipelines.history.sources import HistorySource
from efd_pipelines.times import Week

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings


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
