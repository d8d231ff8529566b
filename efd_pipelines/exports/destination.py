"""Destinations: where an export goes, all of it or nothing.

What belongs here: what directories (`directory.py`) and buckets (`bucket.py`) have in common. Both keep what was
written under another name or behind a mark until all of it is there, and a record of each finished piece of work, so
that an export that was interrupted goes on where it was. An export that stands is told by its manifest; the same
request may renew it, another one is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from efd_pipelines.archive.store import Store
from efd_pipelines.errors import ServiceUnavailable, StoreFull, UsageError
from efd_pipelines.exports.request import is_same

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

MANIFEST = "manifest.json"
SUFFIX = ".parquet"


class NotAnExport(UsageError):
    """What lies at the destination is not this export."""

    remedy = "Choose another --out, or remove what is there."


class Occupied(UsageError):
    """Another process is exporting to the same place."""

    remedy = "Wait until it has finished, or choose another --out."


class WrittenFile(Protocol):
    """A file on its way; `sha256` and `size_bytes` are of what has been written so far."""

    @property
    def sha256(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    def write(self, data: Any) -> int: ...


class Stage(Protocol):
    """An export on its way. It can be sent to another process, which then writes files of it."""

    def create(self, path: str) -> contextlib.AbstractContextManager[WrittenFile]:
        """A new file, there when the context ends; path relative to the export, at most one directory deep.

        Raises:
            StaleWriter: another process has taken over; nothing was written.
        """
        ...

    def note(self, record: str, data: bytes) -> None:
        """Keeps the record of a finished piece of work until the export is published."""
        ...

    def noted(self, record: str) -> bytes | None:
        """The record of a piece of work that was finished before, by whichever process."""
        ...

    def holds(self, files: Mapping[str, int]) -> bool:
        """Whether files of those sizes have been written."""
        ...

    def begin(self, directories: Sequence[str]) -> None:
        """Prepares the directories that files will be written to."""
        ...

    def publish(self, manifest: bytes) -> None:
        """Makes the export visible, in place of the one that stands there: the files of the manifest and no others."""
        ...


class Destination(Protocol):
    """A place for one export."""

    def uri(self, path: str = "") -> str:
        """The address of the export, or of a file of it."""
        ...

    def manifest(self) -> bytes | None:
        """The manifest of whatever export stands here."""
        ...

    def standing(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The manifest of the export that stands here; None where there is none and one may be written.

        Raises:
            NotAnExport: something else is here, or the export of another request.
        """
        ...

    def is_whole(self, manifest: dict[str, Any]) -> bool:
        """Whether all files of the manifest are here, by their sizes."""
        ...

    def free_bytes(self) -> int | None:
        """How much room there is, where that can be known."""
        ...

    def stage(self, request: dict[str, Any]) -> contextlib.AbstractContextManager[Stage]:
        """Begin an export, or go on with one of the same request.

        What was not published when the context ends is removed, unless it was interrupted: then it stays, hidden, for
        the next time.
        """
        ...

    def remove(self, manifest: dict[str, Any]) -> None:
        """Removes the export of the manifest: first what makes it one, then its files, and nothing else."""
        ...


def destination_at(out: str, settings: Settings) -> Destination:
    """The destination of a directory or of `s3://bucket/prefix`."""
    from efd_pipelines.exports.bucket import Bucket
    from efd_pipelines.exports.directory import Directory

    if out.startswith("s3://"):
        if out.removeprefix("s3://").strip("/").count("/") < 1:
            raise UsageError(f"{out} is a whole bucket", remedy="Give a prefix: s3://bucket/prefix.")
        return Bucket(Store(out, settings))
    if "://" in out or not out:
        raise UsageError(f"{out!r} is no place for an export", remedy="Give a directory or s3://bucket/prefix.")
    return Directory(Store(os.path.realpath(out), settings))


@dataclass(slots=True)
class Hashed:
    """A file that is hashed and counted while it is written."""

    file: Any
    size_bytes: int = 0
    closed: bool = False
    _hash: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        return str(self._hash.hexdigest())

    def write(self, data: Any) -> int:
        self.file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        self.file.flush()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """The file itself is closed by whoever opened it."""
        self.closed = True


def checked(where: str, data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    """The manifest that `data` is.

    Raises:
        NotAnExport: it is none, or that of another request.
    """
    manifest = parsed(where, data)
    if not is_same(manifest["request"], request):
        raise NotAnExport(f"{where} holds the export of another request: {json.dumps(manifest['request'])}")
    return manifest


def parsed(where: str, data: bytes) -> dict[str, Any]:
    """The manifest that `data` is, of whatever request.

    Raises:
        NotAnExport: it is none.
    """
    try:
        manifest = dict(json.loads(data))
        dict(manifest["request"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotAnExport(f"{where}/{MANIFEST} is not the manifest of an export") from error
    return manifest


def files_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the manifest's files, by path."""
    return {file["path"]: int(file["bytes"]) for topic in manifest["topics"] for file in topic["files"]}


def is_interruption(error: BaseException) -> bool:
    """Whether what was written should stay, to go on with: nothing was wrong with what was asked."""
    if isinstance(error, ServiceUnavailable):
        return not isinstance(error, StoreFull)
    return isinstance(error, KeyboardInterrupt | SystemExit)


def encoded(content: Any) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()
