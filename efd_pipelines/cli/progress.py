"""Progress: how far a command is, at which rate and how long it will take, on stderr and only on a terminal.

What belongs here: the bar that commands give to the functions that work. Their results: `answers.py`.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID


class Gauge:
    """A bar while a command works; nothing where stderr is no terminal.

    Args:
        what: is being done.
        unit: of what is counted.
        total: how much there is, where that is known beforehand.
    """

    def __init__(self, what: str, unit: str, total: float | None = None) -> None:
        self._what = what
        self._unit = unit
        self._total = total
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _bar(self._unit)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def count(self, done: float) -> None:
        """So much is done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def part(self, done: float, total: float) -> None:
        """So much of so much is done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None)

    def step(self, what: str, done: float, total: float) -> None:
        """The same, and what is being done now."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what, completed=done, total=total or None)


def _bar(unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Count(ProgressColumn):
        """How much, of how much, how fast."""

        def render(self, task: Task) -> Text:
            of = f" of {task.total:,.0f}" if task.total else ""
            rate = f", {task.speed:,.0f}/s" if task.speed and task.speed >= 1 else ""
            return Text(f"{task.completed:,.0f}{of} {unit}{rate}")

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=16),
        Count(Column(no_wrap=True)),
        TimeElapsedColumn(Column(no_wrap=True)),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
