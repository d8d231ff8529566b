"""Annotations: what happened at the observatory, beside what its data took to store.

They come from a YAML file that the configuration names, from `efd annotate`, and from Chronograf: its annotations are
points of the measurement `annotations` in its database, exported as line protocol by `influx_inspect export` (a record
per field) or whole. Those that are added are kept in the archive, one small file each, named by its content: adding
one again changes nothing, and two people may add at once.
Source of Chronograf's form: influxdata/chronograf, influx/annotations.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from efd_pipelines.errors import UsageError
from efd_pipelines.times import from_microseconds, parse_time

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

DIRECTORY = "annotations"
MEASUREMENT = "annotations"
_KEYS = {"at", "until", "text", "topics", "source"}
_FORM = "Each entry is as {at: 2026-11-16T12:00, until: 2026-11-17, text: Mirror washed, topics: [lsst.sal.MTM1M3.*]}."


@dataclass(frozen=True, slots=True, order=True)
class Annotation:
    """What happened, from `at` to `until` (the same where it took no time), in UTC.

    `topics` are globs over datasets that it concerns, all where there are none; `source` is who says so.
    """

    at: datetime
    until: datetime
    text: str
    topics: tuple[str, ...] = ()
    source: str = ""

    @property
    def key(self) -> str:
        """A name by its content."""
        return hashlib.sha256(_yaml([self]).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """As YAML has it."""
        entry: dict[str, Any] = {"at": _iso(self.at)}
        if self.until != self.at:
            entry["until"] = _iso(self.until)
        entry["text"] = self.text
        if self.topics:
            entry["topics"] = list(self.topics)
        if self.source:
            entry["source"] = self.source
        return entry


def all_annotations(archive: Archive) -> list[Annotation]:
    """The configured file's annotations and those kept in the archive, by time.

    Raises:
        UsageError: a file is not as it should be; with its name.
    """
    found = set(_kept(archive))
    configured = archive.settings.configuration.reports.annotations
    if configured is not None:
        found |= set(read_annotations(configured_path(archive, configured)))
    return sorted(found)


def configured_path(archive: Archive, name: str) -> Path:
    """Where the configured file is: relative to the configuration that names it."""
    config = archive.settings.config
    return (config.parent if config is not None else Path()) / name


def add(archive: Archive, new: Iterable[Annotation]) -> int:
    """Keeps annotations in the archive; how many were not there."""
    there = {annotation.key for annotation in _kept(archive)}
    added = [annotation for annotation in dict.fromkeys(new) if annotation.key not in there]
    for annotation in added:
        archive.store.write_bytes(f"{DIRECTORY}/{annotation.key}.yaml", _yaml([annotation]).encode())
    return len(added)


def remove(archive: Archive, key: str) -> None:
    """Takes one away that was added.

    Raises:
        UsageError: there is none with this key in the archive.
    """
    if f"{key}.yaml" not in archive.store.list(DIRECTORY):
        raise UsageError(f"The archive has no annotation {key!r}", remedy="`efd annotate --list` shows the keys.")
    archive.store.delete(f"{DIRECTORY}/{key}.yaml")


def read_annotations(path: Path) -> list[Annotation]:
    """Annotations of a YAML file, or of line protocol that was exported from Chronograf's database.

    Raises:
        UsageError: the file is neither; with the entry.
        BadLine: a line is no record of line protocol.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error})", remedy="Name a YAML file, or an export.") from error
    if path.suffix in {".yaml", ".yml"}:
        return list(_of_yaml(text, str(path)))
    return of_chronograf(text, str(path))


def of_chronograf(text: str, name: str) -> list[Annotation]:
    """The annotations of an export of Chronograf's database: the newest form of each, without those deleted.

    Raises:
        BadLine: a line is no record; with `name`.
    """
    from efd_pipelines.history.protocol import read_block

    points: dict[tuple[str, int], dict[str, Any]] = {}
    for row in read_block(text, name).iter_rows(named=True):
        if row["measurement"] == MEASUREMENT:
            kinds = ("string_value", "integer_value", "boolean_value", "float_value")
            value = next((row[kind] for kind in kinds if row[kind] is not None), None)
            points.setdefault((row["tags"], row["time"]), {})[row["field"]] = value
    newest: dict[str, tuple[int, int, dict[str, Any]]] = {}
    for (tags, end_us), fields in points.items():
        # As Chronograf does: an annotation that is moved is a point at another time, the old one marked as deleted.
        modified = int(fields.get("modified_time_ns") or 0)
        if not fields.get("deleted") and (tags not in newest or modified > newest[tags][0]):
            newest[tags] = modified, end_us, fields
    return sorted(_of_point(end_us, fields) for _, end_us, fields in newest.values() if fields.get("text"))


def _of_point(end_us: int, fields: Mapping[str, Any]) -> Annotation:
    start_us = int(fields.get("start_time") or 0) // 1000 or end_us
    begins, ends = sorted((from_microseconds(start_us), from_microseconds(end_us)))
    return Annotation(begins, ends, str(fields["text"]), source="Chronograf")


def _kept(archive: Archive) -> Iterator[Annotation]:
    for name in archive.store.list(DIRECTORY):
        data = archive.store.try_read(f"{DIRECTORY}/{name}") if name.endswith(".yaml") else None
        if data is not None:
            yield from _of_yaml(data.decode(), f"{DIRECTORY}/{name}")


def _of_yaml(text: str, name: str) -> Iterator[Annotation]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is no YAML ({error})", remedy=_FORM) from error
    entries = document.get("annotations") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise UsageError(f"{name} has no list of annotations", remedy=_FORM)
    for number, entry in enumerate(entries, start=1):
        yield _of_entry(entry, f"{name}, entry {number}")


def _of_entry(entry: Any, where: str) -> Annotation:
    if not isinstance(entry, dict) or not {"at", "text"} <= set(entry) <= _KEYS:
        raise UsageError(f"{where} is no annotation", remedy=_FORM)
    at = _time(entry["at"])
    until = _time(entry.get("until", entry["at"]))
    if until < at:
        raise UsageError(f"{where} ends before it begins", remedy=_FORM)
    topics = tuple(str(glob) for glob in entry.get("topics") or ())
    return Annotation(at, until, str(entry["text"]), topics, str(entry.get("source", "")))


def _time(value: Any) -> datetime:
    """The time of what YAML read: it knows dates and times by itself."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return parse_time(str(value))


def _iso(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def _yaml(entries: Iterable[Annotation]) -> str:
    return yaml.safe_dump([entry.as_dict() for entry in entries], sort_keys=False, allow_unicode=True)
