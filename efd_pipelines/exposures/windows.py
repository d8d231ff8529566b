"""Windows: when exposures were, in UTC, and where a window lies among samples sorted by time.

ConsDB's `obs_start` and `obs_end` are naive TAI; a window is closed at both ends and is UTC from here on. Reading
exposures: `consdb.py`. Reading samples: `columns.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.times import INVALID_TIME, utc_us_from_tai_datetimes

Microseconds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """Closed windows in UTC; arrays of one length."""

    begin_us: Microseconds
    end_us: Microseconds

    def __len__(self) -> int:
        return len(self.begin_us)

    def take(self, chosen: NDArray[Any]) -> Windows:
        """Those of an index array or a mask."""
        return Windows(self.begin_us[chosen], self.end_us[chosen])


@dataclass(frozen=True, slots=True)
class Exposures:
    """Exposures, or visits, with their closed windows; arrays of one length.

    `exposure_id` is the visit's where they are visits. `begin_us` and `end_us` are UTC; `end_us` is `INVALID_TIME`
    where the exposure has not ended.
    """

    day_obs: NDArray[np.int64]
    seq_num: NDArray[np.int64]
    exposure_id: NDArray[np.int64]
    begin_us: Microseconds
    end_us: Microseconds

    def __len__(self) -> int:
        return len(self.exposure_id)

    @classmethod
    def of_rows(cls, rows: Sequence[Any]) -> Exposures:
        """Of (day_obs, seq_num, exposure_id, obs_start, obs_end), the times naive TAI, `obs_end` possibly None.

        Raises:
            LeapSecondsExpired: an exposure is later than the table of leap seconds.
        """
        numbers = np.array([tuple(row)[:3] for row in rows], dtype=np.int64).reshape(-1, 3)
        tai = np.array([tuple(row)[3:5] for row in rows], dtype="datetime64[us]").reshape(-1, 2)
        utc = utc_us_from_tai_datetimes(tai)
        ends_us = np.where(np.isnat(utc), INVALID_TIME, utc.astype(np.int64))
        return cls(numbers[:, 0], numbers[:, 1], numbers[:, 2], ends_us[:, 0], ends_us[:, 1])

    @property
    def windows(self) -> Windows:
        return Windows(self.begin_us, self.end_us)

    def take(self, chosen: NDArray[Any]) -> Exposures:
        """Those of an index array or a mask."""
        return Exposures(
            self.day_obs[chosen],
            self.seq_num[chosen],
            self.exposure_id[chosen],
            self.begin_us[chosen],
            self.end_us[chosen],
        )

    def padded(self, padding_us: int) -> Exposures:
        """The same, with windows that are wider on both sides."""
        ended = self.end_us != INVALID_TIME
        end_us = np.where(ended, self.end_us + padding_us, INVALID_TIME)
        return Exposures(self.day_obs, self.seq_num, self.exposure_id, self.begin_us - padding_us, end_us)


def bounds(
    time_us: Microseconds, begin_us: Microseconds, end_us: Microseconds
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First index and end index (excluded) of closed windows among times that are sorted."""
    first = np.searchsorted(time_us, begin_us, side="left")
    end = np.searchsorted(time_us, end_us, side="right")
    return first, np.maximum(first, end)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time that is read at once: both ends included; `members` are the windows in it."""

    begin_us: int
    end_us: int
    members: NDArray[np.int64]


def spans(begin_us: Microseconds, end_us: Microseconds, longest_us: int, gap_us: int) -> list[Span]:
    """The stretches that hold windows sorted by their beginning: each window whole in one of them.

    A stretch is closed when the next window would make it longer than `longest_us` or begins more than `gap_us`
    after all before have ended; a single window may be longer.
    """
    found: list[Span] = []
    first = 0
    latest = 0
    for n in range(len(begin_us)):
        if n == first:
            latest = int(end_us[n])
        elif begin_us[n] > latest + gap_us or max(latest, int(end_us[n])) - begin_us[first] > longest_us:
            found.append(Span(int(begin_us[first]), latest, np.arange(first, n)))
            first, latest = n, int(end_us[n])
        else:
            latest = max(latest, int(end_us[n]))
    if len(begin_us):
        found.append(Span(int(begin_us[first]), latest, np.arange(first, len(begin_us))))
    return found
