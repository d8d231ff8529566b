"""Lines: restoring to files of line protocol, a gzip file for each portion, which `influx -import` or we read back.

`<directory>/<component>/<name>/<week>/<slice>.lp.gz`, written under another name and renamed, so that a file that is
there is whole and is passed over when a restore goes on. `manifest.lp` beside them, JSON in a comment, so that whoever
reads the directory passes over it, has the rows and lines of each.
A text of several lines stays one value: InfluxDB's /write and `efd archive backfill --from lines` take it, but `influx
-import`, which reads line by line, does not; the notes say how many points have such texts.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.slices import QUARANTINE
from efd_pipelines.errors import DataError, UsageError
from efd_pipelines.restoring.points import PointsOfDataset
from efd_pipelines.restoring.portions import Portion
from efd_pipelines.restoring.restore import Given
from efd_pipelines.restoring.rows import Order
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

MANIFEST = "manifest.lp"
_COMMENT = "# "
_LEVEL = 1
_READ_BYTES = 1 << 20


class LinesUnwritable(DataError):
    """A file of line protocol that cannot be written."""

    remedy = "Make room, or name another directory with --out; what is whole already is passed over."


class LinesTarget:
    """A directory of files.

    Args:
        database, retention_policy: where `influx -import` puts the points.
        tags: fields that are tags.

    Raises:
        UsageError: it is a file.
    """

    outside = frozenset({QUARANTINE})
    order: Order = "time"

    def __init__(
        self, directory: str | Path, database: str, retention_policy: str = "autogen", *, tags: Sequence[str] = ()
    ) -> None:
        self._directory = Path(directory)
        if self._directory.exists() and not self._directory.is_dir():
            raise UsageError(f"{self._directory} is no directory", remedy="Name a directory with --out.")
        self._header = _header(database, retention_policy)
        self._files: dict[str, dict[str, Any]] = self._manifest()
        self._points: dict[Dataset, PointsOfDataset] = {}
        self._tags, self._broken = tuple(tags), 0

    def done(self, portion: Portion) -> Given | None:
        known = self._files.get(_name(portion))
        if known is None or not (self._directory / _name(portion)).is_file():
            return None
        return Given(**known["given"])

    def take(self, portion: Portion, rows: Iterator[pa.Table]) -> Given:
        points = self._points.setdefault(portion.dataset, PointsOfDataset(portion.dataset, self._tags))
        name, given, feeds = _name(portion), Given(), 0
        path = self._directory / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without the time of writing, so that the same rows make the same file.
            with temporary.open("wb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as file:
                file.write(self._header)
                for part in rows:
                    feeds += self._write(file, points, part, given)
            given.bytes = temporary.stat().st_size
            temporary.replace(path)
            self._files[name] = {"given": asdict(given), "line_feeds": feeds + self._header.count(b"\n")}
            self._keep()
        except OSError as error:
            raise LinesUnwritable(f"{path} cannot be written ({error.strerror})") from error
        finally:
            temporary.unlink(missing_ok=True)
        return given

    def _write(self, file: gzip.GzipFile, points: PointsOfDataset, rows: pa.Table, given: Given) -> int:
        lines = feeds = 0
        for batch, _ in points.batches(rows):
            file.write(batch.data)
            in_batch = int(np.count_nonzero(np.frombuffer(batch.data, np.uint8) == ord("\n")))
            self._broken += in_batch - len(batch)
            feeds += in_batch
            lines += len(batch)
            given.values += batch.fields
        given.rows += lines
        given.left_out += rows.num_rows - lines
        given.expected += lines
        return feeds

    def counted(self, dataset: Dataset, week: Week) -> int | None:
        """Lines of the files, which are read to their ends for that."""
        total = 0
        prefix = f"{dataset.path}/{week.key}/"
        for name, known in self._files.items():
            if name.startswith(prefix):
                found = _line_feeds(self._directory / name)
                total += known["given"]["rows"] + min(0, found - known["line_feeds"])
        return total

    def notes(self) -> Sequence[str]:
        found = []
        if self._broken:
            found.append(
                f"Texts of several lines: {self._broken} line ends within values. `influx -import` cannot read them; "
                "InfluxDB's /write and `efd archive backfill --from lines` can."
            )
        return found + ambiguous_notes(self._points.values())

    def _manifest(self) -> dict[str, dict[str, Any]]:
        try:
            text = (self._directory / MANIFEST).read_text(encoding="utf-8")
            found: dict[str, dict[str, Any]] = json.loads(text.removeprefix(_COMMENT))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self._directory / MANIFEST} cannot be read ({error})", remedy="Name another directory with --out."
            ) from error
        return found

    def _keep(self) -> None:
        temporary = self._directory / f".{MANIFEST}.{os.getpid()}"
        temporary.write_text(f"{_COMMENT}{json.dumps(self._files, sort_keys=True)}\n", encoding="utf-8")
        temporary.replace(self._directory / MANIFEST)


def ambiguous_notes(points: Any) -> list[str]:
    """What is to be said of names that two fields claim."""
    return [
        f"{one.dataset}: two fields have these names, the first one's values were written: "
        f"{', '.join(sorted(one.ambiguous))}"
        for one in points
        if one.ambiguous
    ]


def _name(portion: Portion) -> str:
    return f"{portion.dataset.path}/{portion.week.key}/{portion.key}.lp.gz"


def _header(database: str, retention_policy: str) -> bytes:
    """What `influx -import` wants to know first."""
    lines = ["# DDL", f"CREATE DATABASE {database}", "# DML", f"# CONTEXT-DATABASE: {database}"]
    return "\n".join([*lines, f"# CONTEXT-RETENTION-POLICY: {retention_policy}", ""]).encode()


def _line_feeds(path: Path) -> int:
    count = 0
    try:
        with gzip.open(path, "rb") as file:
            while part := file.read(_READ_BYTES):
                count += part.count(b"\n")
    except (OSError, EOFError):
        return 0  # gone, or cut off: the counts tell
    return count
