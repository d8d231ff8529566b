"""Requests: what an export is asked for, as a user writes it.

Topics by name or glob, times or observing days or exposures, fields, a tier or a window, and the form of what is
written. Whatever cannot be meant is refused here or in `selection.py`, before anything is written. Which times a
request means: `ranges.py`; what it means in an archive as it is now: `selection.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from efd_pipelines.archive.ledger import RAW
from efd_pipelines.errors import UsageError
from efd_pipelines.exposures.identifiers import check_identifier
from efd_pipelines.tiers.tier import tier_named
from efd_pipelines.times import day_obs_interval, microseconds, parse_time

ArraysWanted = Literal["archived", "flat", "list"]
"""Arrays as the archive has them, an element a column (`force0 … force155`), or an array a column of lists."""

TimeScale = Literal["utc", "tai", "both"]
"""`time` in UTC, or `tai_time` in TAI without a zone, as ConsDB has it, or both."""

SubjectName = Literal["exposures", "visits"]

_UNITS_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)")


@dataclass(frozen=True, slots=True)
class Asked:
    """The exposures, or visits, of an instrument whose windows are exported, `padding_s` longer on both sides.

    `numbers` are their first and last; all of the time range without.
    """

    subject: SubjectName
    instrument: str
    numbers: tuple[int, int] | None = None
    padding_s: float = 0.0

    @property
    def column(self) -> str:
        """The column that tells which one a row belongs to."""
        return "exposure_id" if self.subject == "exposures" else "visit_id"

    @classmethod
    def parse(cls, subject: str, text: str, padding_s: float = 0.0) -> Asked:
        """Those of `INSTRUMENT` or `INSTRUMENT:NUMBER[..NUMBER]`.

        Raises:
            UsageError: the text is neither.
        """
        instrument, colon, numbers = text.partition(":")
        check_identifier(instrument)
        if subject not in get_args(SubjectName):
            raise UsageError(f"There are no {subject!r}", remedy="Ask for exposures or visits.")
        if not 0.0 <= padding_s <= 86_400.0:
            raise UsageError(f"A padding of {padding_s} s cannot be meant", remedy="Give seconds, at most a day.")
        name: SubjectName = "exposures" if subject == "exposures" else "visits"
        return cls(name, instrument, _numbers(numbers) if colon else None, padding_s)

    def to_json(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "instrument": self.instrument,
            "numbers": None if self.numbers is None else list(self.numbers),
            "padding_s": self.padding_s,
        }


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; times in UTC, the end excluded. `fields` None is all fields of the messages.

    `start` and `end` are both None only where `asked` names exposures by number. `window_us` resamples telemetry that
    is faster than it. `day_obs` is as it was written, for the manifest: `start` and `end` are its.
    """

    topics: tuple[str, ...]
    start: datetime | None
    end: datetime | None
    fields: tuple[str, ...] | None = None
    tier: str = RAW
    window_us: int | None = None
    arrays: ArraysWanted = "archived"
    time_scale: TimeScale = "utc"
    day_obs: str | None = None
    asked: Asked | None = None

    @classmethod
    def of(
        cls,
        topics: Sequence[str] | str,
        start: datetime | str | None = None,
        end: datetime | str | None = None,
        fields: Sequence[str] | None = None,
        tier: str = RAW,
        *,
        resample: str | None = None,
        arrays: str = "archived",
        time_scale: str = "utc",
        day_obs: str | int | None = None,
        exposures: str | None = None,
        visits: str | None = None,
        padding_s: float = 0.0,
    ) -> Request:
        """The request of what a user wrote; times without a zone are UTC.

        Raises:
            UsageError: no topics, no fields, no such tier, window or form, or a range that is none, empty or reversed.
        """
        if tier != RAW:
            tier_named(tier)
        names = (topics,) if isinstance(topics, str) else tuple(str(topic) for topic in topics)
        if not names:
            raise UsageError("No topic is given", remedy="Name datasets, or globs as lsst.sal.MTM1M3.*.")
        if fields is not None and not fields:
            raise UsageError("No field is given", remedy="Name fields, or leave them out for all.")
        asked = _asked(exposures, visits, padding_s)
        first, last = _range(start, end, day_obs, asked)
        return cls(
            topics=names,
            start=first,
            end=last,
            fields=None if fields is None else tuple(fields),
            tier=tier,
            window_us=_window(resample, tier),
            arrays=_one_of(arrays, ArraysWanted, "arrays"),
            time_scale=_one_of(time_scale, TimeScale, "time scale"),
            day_obs=None if day_obs is None else str(day_obs),
            asked=asked,
        )

    @property
    def start_us(self) -> int | None:
        return None if self.start is None else microseconds(self.start)

    @property
    def end_us(self) -> int | None:
        return None if self.end is None else microseconds(self.end)

    def to_json(self) -> dict[str, Any]:
        return {
            "topics": list(self.topics),
            "from": None if self.start is None else self.start.isoformat(),
            "to": None if self.end is None else self.end.isoformat(),
            "fields": None if self.fields is None else list(self.fields),
            "tier": self.tier,
            "resample_s": None if self.window_us is None else self.window_us / 1e6,
            "arrays": self.arrays,
            "time_scale": self.time_scale,
            "day_obs": self.day_obs,
            "exposures": None if self.asked is None else self.asked.to_json(),
        }


_DEFAULTS: Mapping[str, Any] = {
    "resample_s": None,
    "arrays": "archived",
    "time_scale": "utc",
    "day_obs": None,
    "exposures": None,
}


def is_same(held: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    """Whether two requests, as manifests have them, are the same; older manifests lack what was not asked for then."""
    return {**_DEFAULTS, **held} == {**_DEFAULTS, **request}


def _asked(exposures: str | None, visits: str | None, padding_s: float) -> Asked | None:
    if exposures and visits:
        raise UsageError("Both exposures and visits are given", remedy="Ask for one of them.")
    if exposures:
        return Asked.parse("exposures", exposures, padding_s)
    if visits:
        return Asked.parse("visits", visits, padding_s)
    if padding_s:
        raise UsageError("A padding is given without exposures or visits", remedy="Leave it out, or name them.")
    return None


def _range(
    start: datetime | str | None, end: datetime | str | None, day_obs: str | int | None, asked: Asked | None
) -> tuple[datetime | None, datetime | None]:
    if day_obs is not None:
        if start is not None or end is not None:
            raise UsageError("Both times and an observing day are given", remedy="Give one of them.")
        return _days(str(day_obs))
    if start is None or end is None:
        if start is None and end is None and asked is not None and asked.numbers is not None:
            return None, None
        what = "No times are given" if start is None and end is None else "Only one end of the range is given"
        raise UsageError(what, remedy="Give beginning and end, an observing day, or exposures by their numbers.")
    first, last = utc_of(start), utc_of(end)
    if first >= last:
        problem = "is empty" if first == last else "ends before it begins"
        raise UsageError(
            f"The range {first.isoformat()} to {last.isoformat()} {problem}",
            remedy="The end is excluded and must be later than the beginning.",
        )
    return first, last


def _days(text: str) -> tuple[datetime, datetime]:
    """Of an observing day, or several as `20261121..20261123`, both included."""
    first, dots, last = text.partition("..")
    begin, end = day_obs_interval(_day(first))[0], day_obs_interval(_day(last if dots else first))[1]
    if begin >= end:
        raise UsageError(f"The observing days {text} end before they begin", remedy="Give the earlier one first.")
    return begin, end


def _day(text: str) -> int:
    if not re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text):
        raise UsageError(f"{text!r} is no observing day", remedy="Write it as 20261121, or 20261121..20261123.")
    return int(text.replace("-", ""))


def _numbers(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise UsageError(
            f"{text!r} are no exposures",
            remedy="Give a number, or the first and the last as 2026112100001..2026112100050.",
        )
    return int(found[1]), int(found[2] or found[1])


def _window(text: str | None, tier: str) -> int | None:
    if not text:
        return None
    if tier != RAW:
        raise UsageError("Both a tier and a window are given", remedy="Give one of them.")
    found = _WINDOW.fullmatch(text.strip())
    window_us = round(float(found[1]) * _UNITS_S[found[2]] * 1e6) if found else 0
    if not 1000 <= window_us <= 86_400_000_000:
        raise UsageError(f"{text!r} is no window", remedy="Give one from 1ms to 1d, as 500ms, 10s, 5min or 1h.")
    return window_us


def _one_of(value: str, choices: Any, what: str) -> Any:
    known = get_args(choices)
    if value not in known:
        raise UsageError(f"{value!r} is no {what}", remedy=f"Give one of {', '.join(known)}.")
    return value


def utc_of(when: datetime | str) -> datetime:
    """UTC of a time or its text; one without a zone is UTC."""
    if isinstance(when, str):
        return parse_time(when)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
