"""Expiry: exports that have been kept for as long as was asked for, and those that were never finished.

Only what a manifest names is removed, and only where the manifest itself says until when the export is kept; what
somebody put beside it stays. An export that was interrupted and not gone on with for a week is removed as well, in a
directory and on S3, and what was sent of files that S3 never got whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.store import Store
from efd_pipelines.exports.bucket import Bucket, forget_upload, forgotten_uploads
from efd_pipelines.exports.destination import Destination, NotAnExport, destination_at, parsed
from efd_pipelines.exports.directory import left_behind, remove_left_behind
from efd_pipelines.times import parse_time

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

ABANDONED = timedelta(days=7)
"""An unfinished export is given up when it has not been gone on with for so long."""

_UNFINISHED = "was never finished"


@dataclass(frozen=True, slots=True)
class Standing:
    """An export that lies somewhere; `expires_at` None is kept for ever."""

    place: str
    made_at: str
    expires_at: datetime | None
    rows: int
    bytes: int
    topics: int
    destination: Destination
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expired:
    """An export that was removed, or would be."""

    place: str
    why: str
    bytes: int


def exports_in(settings: Settings, place: str) -> list[Standing]:
    """The exports in a directory or prefix: itself, and those directly in it.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    return [found for one in _places(settings, place) if (found := _standing(settings, one)) is not None]


def _places(settings: Settings, place: str) -> list[str]:
    """A directory or prefix, and those directly in it."""
    root = place.rstrip("/")
    is_bucket = root.startswith("s3://") and root.count("/") < 3
    names = [] if is_bucket else Store(root, settings).list("")
    return [root, *(f"{root}/{name}" for name in names if not name.startswith(("_", ".")))]


def expire(
    settings: Settings, places: Sequence[str], now: datetime | None = None, *, dry_run: bool = False
) -> list[Expired]:
    """Removes the exports in some places whose time is over; what is removed.

    Raises:
        StoreUnavailable: the store did not answer; what is left is removed the next time.
    """
    at = now or datetime.now(UTC)
    found = []
    for place in dict.fromkeys(places):
        for one in exports_in(settings, place):
            if one.expires_at is not None and one.expires_at <= at:
                found.append(Expired(one.place, f"kept until {one.expires_at.isoformat()}", one.bytes))
                if not dry_run:
                    one.destination.remove(one.manifest)
        found += _abandoned(settings, place, at - ABANDONED, dry_run=dry_run)
    return found


def _abandoned(settings: Settings, place: str, before: datetime, *, dry_run: bool) -> Iterator[Expired]:
    if place.startswith("s3://"):
        yield from _abandoned_in_bucket(settings, place.rstrip("/"), before, dry_run=dry_run)
        return
    for directory in left_behind(place, before):
        if dry_run or remove_left_behind(directory):
            yield Expired(str(directory), _UNFINISHED, 0)


def _abandoned_in_bucket(settings: Settings, place: str, before: datetime, *, dry_run: bool) -> Iterator[Expired]:
    for one in _places(settings, place):
        bucket = Bucket(Store(one, settings))
        found = bucket.left_behind(before)
        if found and (dry_run or bucket.remove_left_behind(before)):
            yield Expired(one, _UNFINISHED, sum(found.values()))
    store = Store(place, settings)
    for path, upload in forgotten_uploads(store, before):
        if not dry_run:
            forget_upload(store, path, upload)
        yield Expired(store.uri(path), "was never sent whole", 0)


def _standing(settings: Settings, place: str) -> Standing | None:
    try:
        destination = destination_at(place, settings)
        data = destination.manifest()
        if data is None:
            return None
        manifest = parsed(place, data)
        expires = manifest.get("expires_at")
        return Standing(
            place=place,
            made_at=str(manifest["made_at"]),
            expires_at=None if expires is None else parse_time(str(expires)),
            rows=int(manifest["rows"]),
            bytes=int(manifest["bytes"]),
            topics=sum(1 for topic in manifest["topics"] if topic["files"]),
            destination=destination,
            manifest=manifest,
        )
    except (NotAnExport, KeyError):  # somebody else's file of that name
        return None
