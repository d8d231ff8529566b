"""Deleting: taking single points out of InfluxDB: those that the archive no longer has, or has with fewer fields.

Writing a point again only adds fields and replaces values, so a field that is gone would stay. 1.x deletes by InfluxQL,
in all retention policies of the database at once (which is why each publication has databases of its own); 2.x by its
delete API. Points that lie together are deleted as a range.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.publishing.server import Destination, Influx, literal, quoted

_STATEMENTS = 100


@dataclass(frozen=True, slots=True)
class Range:
    """Points of one salIndex (−1: none) from one stamp to another, both included, in nanoseconds."""

    sal_index: int
    first: int
    last: int


def ranges_of(sal_index: NDArray[np.int64], stamps: NDArray[np.int64], gone: NDArray[np.bool_]) -> Iterator[Range]:
    """The points that are gone, of all that there are, those without another one in between together."""
    order = np.lexsort((stamps, sal_index))
    indices, times, is_gone = sal_index[order], stamps[order], gone[order]
    places = np.flatnonzero(is_gone)
    if not len(places):
        return
    breaks = np.flatnonzero((np.diff(places) != 1) | (np.diff(indices[places]) != 0)) + 1
    for run in np.split(places, breaks):
        yield Range(int(indices[run[0]]), int(times[run[0]]), int(times[run[-1]]))


def delete(
    influx: Influx, destination: Destination, measurement: str, ranges: Iterator[Range], *, is_indexed: bool
) -> None:
    """Deletes ranges of points; what is not there is no error.

    Raises:
        InfluxUnavailable, PublishingRefused: nothing, or some of it, was deleted.
    """
    if influx.has_buckets:
        for one in ranges:
            _delete_of_bucket(influx, destination, measurement, one, is_indexed)
        return
    while some := list(itertools.islice(ranges, _STATEMENTS)):
        influx.query("; ".join(_statement(measurement, one, is_indexed) for one in some), destination)


def _statement(measurement: str, one: Range, is_indexed: bool) -> str:
    tag = f""" AND "salIndex" = {literal(_tag(one))}""" if is_indexed else ""
    return f"DELETE FROM {quoted(measurement)} WHERE time >= {one.first} AND time <= {one.last}{tag}"  # noqa: S608


def _tag(one: Range) -> str:
    return "" if one.sal_index < 0 else str(one.sal_index)


def _delete_of_bucket(influx: Influx, destination: Destination, measurement: str, one: Range, is_indexed: bool) -> None:
    tag = f' AND salIndex="{_tag(one)}"' if is_indexed else ""
    name = measurement.replace("\\", "\\\\").replace('"', '\\"')
    body = {"start": _iso(one.first), "stop": _iso(one.last), "predicate": f'_measurement="{name}"{tag}'}
    params = {"bucket": destination.bucket, "org": influx.organisation}
    influx.ask("POST", "/api/v2/delete", params=params, json=body)


def _iso(stamp: int) -> str:
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
