"""Destinations: where an export goes, all of it or nothing.

In a directory, files are written beside it under a name of their own, and renamed when the export is whole.
On S3 there is no renaming: a marker names the unfinished export, the manifest is written last, and what has
none is no export. An export that stands is told by its manifest; the same request may renew it, another one
is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from efd_pipelines.archive.store import Store
from efd_pipelines.errors import StaleWriter, UsageError

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

MANIFEST = "manifest.json"
MARKER = "unfinished.json"
UPLOAD_BYTES = 5 * 1024 * 1024


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
    """An export on its way."""

    def create(self, path: str) -> contextlib.AbstractContextManager[WrittenFile]:
        """A new file; path relative to the export."""
        ...

    def publish(self, manifest: bytes) -> None:
        """Makes the export visible, in place of the one that stands there."""
        ...


class Destination(Protocol):
    """A place for one export."""

    def uri(self, path: str = "") -> str:
        """The address of the export, or of a file of it."""
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

    def stage(self, request: dict[str, Any]) -> contextlib.AbstractContextManager[Stage]:
        """Begin an export; what was not published when the context ends is removed."""
        ...


def destination_at(out: str, settings: Settings) -> Destination:
    """The destination of a directory or of `s3://bucket/prefix`."""
    if out.startswith("s3://"):
        if out.removeprefix("s3://").strip("/").count("/") < 1:
            raise UsageError(f"{out} is a whole bucket", remedy="Give a prefix: s3://bucket/prefix.")
        return Bucket(Store(out, settings))
    if "://" in out or not out:
        raise UsageError(f"{out!r} is no place for an export", remedy="Give a directory or s3://bucket/prefix.")
    return Directory(Store(os.path.realpath(out), settings))


@dataclass(slots=True)
class Directory:
    """A directory of a local or mounted file system."""

    store: Store

    @property
    def path(self) -> Path:
        return Path(self.store.root)

    @property
    def _staging(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def _replaced(self) -> Path:
        return self.path.with_name(f".{self.path.name}.replaced")

    def uri(self, path: str = "") -> str:
        return self.store.uri(path)

    def standing(self, request: dict[str, Any]) -> dict[str, Any] | None:
        with self.store.errors("look at the destination"):
            if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
                return None
            if not (self.path / MANIFEST).is_file():
                raise NotAnExport(f"{self.path} is not empty and holds no export")
            return _checked(str(self.path), (self.path / MANIFEST).read_bytes(), request)

    def is_whole(self, manifest: dict[str, Any]) -> bool:
        there = ((self.path / path, size) for path, size in _files(manifest).items())
        return all(path.is_file() and path.stat().st_size == size for path, size in there)

    @contextlib.contextmanager
    def stage(self, request: dict[str, Any]) -> Iterator[Stage]:
        with self.store.errors("make the export's directory"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._locked()
        try:
            with self.store.errors("remove what an interrupted export left"):
                _empty(self._staging)
                _remove(self._replaced)
            yield _DirectoryStage(self)
        finally:
            if _is_same(lock, self._staging):
                shutil.rmtree(self._staging, ignore_errors=True)
            os.close(lock)

    def _locked(self) -> int:
        """The staging directory, locked by this process until it is closed; the lock goes with a rename."""
        while True:
            self._staging.mkdir(exist_ok=True)
            lock = os.open(self._staging, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise Occupied(f"Another process is exporting to {self.path}") from None
            if _is_same(lock, self._staging):
                return lock
            os.close(lock)

    def swap(self) -> None:
        """Puts the staged export in the place of what stands here."""
        with self.store.errors("put the export in its place"):
            if (self.path / MANIFEST).is_file():
                self.path.rename(self._replaced)
            try:
                self._staging.rename(self.path)
            except OSError as error:
                raise NotAnExport(f"{self.path} came to be while the export was written") from error
            _flush(self.path.parent)
            _remove(self._replaced)


@dataclass(slots=True)
class _DirectoryStage:
    directory: Directory

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[WrittenFile]:
        target = self.directory._staging / path
        with self.directory.store.errors(f"write {path}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                yield Hashed(file)
                file.flush()
                os.fsync(file.fileno())

    def publish(self, manifest: bytes) -> None:
        with self.create(MANIFEST) as file:
            file.write(manifest)
        with self.directory.store.errors("write the export"):
            for directory, _, _ in os.walk(self.directory._staging):
                _flush(Path(directory))
        self.directory.swap()


@dataclass(slots=True)
class Bucket:
    """A prefix of a bucket."""

    store: Store

    def uri(self, path: str = "") -> str:
        return self.store.uri(path)

    def standing(self, request: dict[str, Any]) -> dict[str, Any] | None:
        found = self.sizes()
        if MANIFEST in found:
            return _checked(self.store.root, self.store.read_bytes(MANIFEST), request)
        if found and (MARKER not in found or not self._is_ours(request)):
            raise NotAnExport(f"{self.store.root} is not empty and holds no export of this request")
        return None

    def is_whole(self, manifest: dict[str, Any]) -> bool:
        found = self.sizes()
        return all(found.get(path) == size for path, size in _files(manifest).items())

    def sizes(self) -> dict[str, int]:
        """Objects under the prefix, with their sizes."""
        with self.store.errors("list the destination"):
            try:
                found = self.store.fs.find(self.store.path(""), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self.store.path("")) + 1
        return {path[start:]: int(info["size"]) for path, info in found.items() if len(path) > start}

    @contextlib.contextmanager
    def stage(self, request: dict[str, Any]) -> Iterator[Stage]:
        run = uuid.uuid4().hex
        self.store.write_bytes(MARKER, _json({"request": request, "run": run}))
        self.store.delete(MANIFEST)
        stage = _BucketStage(self, run)
        try:
            yield stage
        except BaseException:
            stage.clean(keep=set())
            raise

    def _is_ours(self, request: dict[str, Any]) -> bool:
        return bool(json.loads(self.store.read_bytes(MARKER)).get("request") == request)


@dataclass(slots=True)
class _BucketStage:
    bucket: Bucket
    run: str
    written: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[WrittenFile]:
        store = self.bucket.store
        with store.errors(f"write {path}"):
            file = store.fs.open(store.path(path), "wb", block_size=UPLOAD_BYTES)
            try:
                yield Hashed(file)
            except BaseException:
                file.discard()
                file.closed = True  # or fsspec uploads what there is when the object is collected
                raise
            file.close()
        self.written.add(path)

    def publish(self, manifest: bytes) -> None:
        store = self.bucket.store
        if not self._is_still_ours():
            raise StaleWriter(f"Another process is exporting to {store.root}")
        self.clean(keep={MARKER, *self.written})
        store.write_bytes(MANIFEST, manifest)
        store.delete(MARKER)

    def clean(self, keep: set[str]) -> None:
        """Removes objects, unless another process has taken over the prefix; the marker goes last."""
        if self._is_still_ours():
            for path in sorted({*self.bucket.sizes()} - keep, key=lambda path: path == MARKER):
                self.bucket.store.delete(path)

    def _is_still_ours(self) -> bool:
        marker = self.bucket.store.try_read(MARKER)
        return marker is not None and json.loads(marker).get("run") == self.run


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


def _checked(where: str, data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        held = manifest["request"]
    except (ValueError, KeyError, TypeError) as error:
        raise NotAnExport(f"{where}/{MANIFEST} is not the manifest of an export") from error
    if held != request:
        raise NotAnExport(f"{where} holds the export of another request: {json.dumps(held)}")
    return dict(manifest)


def _files(manifest: dict[str, Any]) -> dict[str, int]:
    """Sizes of the manifest's files, by path."""
    return {file["path"]: int(file["bytes"]) for topic in manifest["topics"] for file in topic["files"]}


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()


def _is_same(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def _flush(directory: Path) -> None:
    """Have the names in a directory on disk: a rename must not outlive a power cut that its files do not."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
