"""Stores: the one root under which everything is kept, a local directory or a prefix of an S3 bucket.

Whole objects are written atomically or not at all; what the file system or the object store says when it
refuses is mapped here onto `StoreUnavailable` and `StoreFull`. Delta commits go through delta-rs, a second S3
client: `storage_options` feeds it from the same settings.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efd_pipelines.errors import ArchiveError, EfdError, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_ROOM_TEXT = re.compile(
    r"No space left|Disk quota|StorageFull|QuotaExceeded|InsufficientStorage|os error 28", re.IGNORECASE
)
_TEMPORARY = ".tmp-"
_CONNECT_S = 10
_ANSWER_S = 60
_PART_BYTES = 16 * 1024 * 1024
_LARGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a listing; `written_s` is when it was last written, in unix seconds."""

    name: str
    size_bytes: int
    written_s: float


class UnsafeStore(ArchiveError):
    """A store on which two writers could overwrite each other."""

    remedy = "Use a store that honours If-None-Match on PUT, or a local directory."


class Store:
    """A root, `path` or `s3://bucket/prefix`; all other paths are relative to it."""

    def __init__(self, root: str, settings: Settings) -> None:
        self.is_remote = root.startswith("s3://")
        self.root = root.rstrip("/") if self.is_remote else str(Path(root).absolute())
        self._settings = settings

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.root, self._settings)

    @property
    def asked_at_once(self) -> int:
        """How many small things are asked for at once: on S3 each is tens of milliseconds of waiting."""
        return 16 if self.is_remote else 2

    def uri(self, relative: str = "") -> str:
        """Where it lies, for people and for other readers."""
        return f"{self.root}/{relative}" if relative else self.root

    def path(self, relative: str) -> str:
        """The path as `fs` takes it."""
        return self.uri(relative).removeprefix("s3://")

    @cached_property
    def storage_options(self) -> dict[str, str]:
        """What delta-rs needs to reach the store; keys come from the standard AWS variables."""
        if not self.is_remote:
            return {}
        options = {
            "AWS_REGION": self._settings.s3_region,
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
            "connect_timeout": f"{_CONNECT_S}s",
            "timeout": f"{_ANSWER_S}s",
        }
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            if os.environ.get(name):
                options[name] = os.environ[name]
        if self._settings.s3_endpoint:
            options["AWS_ENDPOINT_URL"] = self._settings.s3_endpoint
            options["AWS_ALLOW_HTTP"] = str(self._settings.s3_endpoint.startswith("http://")).lower()
        return options

    @cached_property
    def fs(self) -> Any:
        """The fsspec file system."""
        import fsspec

        if not self.is_remote:
            return fsspec.filesystem("file")
        # The checksums that botocore sends by default since 1.36 are refused by Ceph and others (boto3#4392).
        return fsspec.filesystem(
            "s3",
            endpoint_url=self._settings.s3_endpoint,
            client_kwargs={"region_name": self._settings.s3_region},
            config_kwargs={
                "s3": {"addressing_style": "path"},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                "connect_timeout": _CONNECT_S,
                "read_timeout": _ANSWER_S,
                "retries": {"mode": "standard", "max_attempts": 4},
            },
            use_listings_cache=False,
            # Parquet's readers ask for exact ranges; s3fs would read 50 MiB ahead of each.
            default_cache_type="none",
        )

    @cached_property
    def arrow_fs(self) -> Any:
        """The same for pyarrow."""
        import pyarrow.fs as pafs

        return pafs.PyFileSystem(pafs.FSSpecHandler(self.fs)) if self.is_remote else pafs.LocalFileSystem()

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Maps what the store and delta-rs raise; `doing` says what was tried, e.g. "write raw/X"."""
        try:
            yield
        except EfdError:
            raise
        except OSError as error:
            raise self._mapped(doing, error, error.errno in _NO_ROOM) from error
        except Exception as error:
            if not _is_foreign(error):
                raise
            raise self._mapped(doing, error, False) from error

    def _mapped(self, doing: str, error: Exception, full: bool) -> StoreUnavailable:
        text = _first_line(error)
        kind = StoreFull if full or _NO_ROOM_TEXT.search(str(error)) else StoreUnavailable
        return kind(f"Could not {doing} in {self.root}: {text}")

    def read_bytes(self, relative: str) -> bytes:
        with self.errors(f"read {relative}"):
            data: bytes = self.fs.cat_file(self.path(relative))
            return data

    def try_read(self, relative: str) -> bytes | None:
        """The bytes of an object, None where it is not there."""
        with self.errors(f"read {relative}"):
            try:
                data: bytes = self.fs.cat_file(self.path(relative))
            except FileNotFoundError:
                return None
            return data

    def write_bytes(self, relative: str, data: Any) -> None:
        """Writes a whole object: readers see all of it or what was there before.

        Raises:
            StoreFull: there is no room left.
            StoreUnavailable: the store did not take it.
        """
        with self.errors(f"write {relative}"):
            if self.is_remote:
                self.fs.pipe_file(self.path(relative), bytes(data))
            else:
                _write_local(Path(self.path(relative)), data)

    def create(self, relative: str, data: bytes) -> bool:
        """Writes a whole object where there is none; whether it was not there: of many that try, one does.

        Raises:
            StoreFull, StoreUnavailable: the store did not take it.
        """
        if not self.is_remote:
            with self.errors(f"write {relative}"):
                return _create_local(Path(self.path(relative)), data)
        bucket, _, key = self.path(relative).partition("/")
        try:
            with self.errors(f"write {relative}"):
                self.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except StoreUnavailable as error:
            if _is_refused_precondition(error):
                return False
            raise
        return True

    @contextlib.contextmanager
    def new_file(self, directory: str) -> Iterator[Path]:
        """A path on local disk for a file that is written bit by bit, and then kept (`keep_file`) or dropped.

        In a directory it lies beside its place, so that it can be renamed.
        """
        parent = Path(tempfile.gettempdir()) if self.is_remote else Path(self.path(directory))
        with self.errors(f"write to {directory}"):
            parent.mkdir(parents=True, exist_ok=True)
        path = parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            # A disk that refuses this too has said so before; what stays is an orphan, which cleaning removes.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def keep_file(self, path: Path, relative: str) -> None:
        """Makes a finished file of `new_file` an object: readers see all of it or what was there before.

        Raises:
            StoreFull: there is no room left.
            StoreUnavailable: the store did not take it.
        """
        with self.errors(f"write {relative}"):
            if self.is_remote:
                # By default ten parts of 50 MiB would be in memory at once.
                self.fs.put_file(str(path), self.path(relative), chunksize=_PART_BYTES, max_concurrency=2)
                return
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            path.replace(self.path(relative))

    def exists(self, relative: str) -> bool:
        with self.errors(f"look for {relative}"):
            return bool(self.fs.exists(self.path(relative)))

    def size(self, relative: str) -> int | None:
        """Bytes of an object, None where it is not there."""
        with self.errors(f"look for {relative}"):
            try:
                return int(self.fs.info(self.path(relative))["size"])
            except FileNotFoundError:
                return None

    def delete(self, relative: str) -> None:
        """Removes an object; nothing happens where it is not there."""
        with self.errors(f"remove {relative}"), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(relative))

    def delete_all(self, relatives: Sequence[str]) -> None:
        """Removes many objects, a thousand at a time where the store can; those that are not there are passed over."""
        if not self.is_remote:
            for relative in relatives:
                self.delete(relative)
        elif relatives:
            with self.errors(f"remove {len(relatives)} objects"):
                self.fs.rm([self.path(relative) for relative in relatives])

    def entries(self, directory: str) -> Iterator[Entry]:
        """Every object directly under a directory or prefix, what killed writers left there too."""
        with self.errors(f"list {directory}"):
            try:
                found = self.fs.ls(self.path(directory), detail=True)
            except FileNotFoundError:
                return
        for entry in found:
            if entry["type"] == "file":
                written_s = entry["LastModified"].timestamp() if self.is_remote else entry["mtime"]
                yield Entry(str(entry["name"]).rpartition("/")[2], int(entry["size"] or 0), float(written_s))

    def list(self, relative: str) -> Sequence[str]:
        """Names directly under a directory or prefix, sorted; none where it is not there."""
        with self.errors(f"list {relative}"):
            try:
                found = self.fs.ls(self.path(relative), detail=False)
            except FileNotFoundError:
                return []
            names = [str(path).rstrip("/").rpartition("/")[2] for path in found]
            return sorted(name for name in names if name and not name.startswith(_TEMPORARY))

    def sizes(self, relative: str) -> dict[str, int]:
        """Names and bytes of the objects directly under a directory or prefix; none where it is not there."""
        with self.errors(f"list {relative}"):
            if not self.is_remote:
                return _sizes_in(self.path(relative))
            try:
                found = self.fs.ls(self.path(relative), detail=True)
            except FileNotFoundError:
                return {}
            return {
                str(entry["name"]).rpartition("/")[2]: int(entry["size"] or 0)
                for entry in found
                if entry["type"] == "file"
            }

    def probe(self) -> None:
        """Tries whether two writers could overwrite each other here.

        Raises:
            UnsafeStore: the store ignores `If-None-Match`, or its names do not tell case.
            StoreUnavailable: it does not answer, or cannot be written.
        """
        name = f"_probe/{uuid.uuid4().hex}"
        if self.is_remote:
            self._probe_remote(name)
        else:
            self._probe_local(name)

    def _probe_remote(self, name: str) -> None:
        bucket, _, key = self.path(name).partition("/")
        with self.errors("write a probe"):
            self.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"1", IfNoneMatch="*")
        try:
            if self._put_again(bucket, key):
                raise UnsafeStore(f"{self.root} takes a second PUT with If-None-Match")
        finally:
            self.delete(name)

    def _put_again(self, bucket: str, key: str) -> bool:
        try:
            with self.errors("write a probe"):
                self.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*")
        except StoreUnavailable as error:
            if _is_refused_precondition(error):
                return False
            raise
        return True

    def _probe_local(self, name: str) -> None:
        self.write_bytes(f"{name}a", b"1")
        try:
            if self.exists(f"{name}A"):
                raise UnsafeStore(
                    f"{self.root} does not tell upper from lower case; 24 pairs of topics differ only in case",
                    remedy="Use a case-sensitive file system.",
                )
        finally:
            self.delete(f"{name}a")


def _sizes_in(directory: str) -> dict[str, int]:
    """As fsspec's listing says it, in a fifth of the time: an audit asks for thousands of directories."""
    try:
        with os.scandir(directory) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if not entry.name.startswith(_TEMPORARY)}
    except FileNotFoundError:
        return {}


def _write_local(path: Path, data: Any) -> None:
    """Temporary name, flush to disk, rename: a killed process leaves no half file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            _leave_cache(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _leave_cache(handle: int) -> None:
    """Takes a large file that is on disk out of the system's memory: gigabytes that nobody reads soon would drive out
    what is read, and finding memory for them took a fourth of the processor time."""
    if hasattr(os, "posix_fadvise") and os.fstat(handle).st_size >= _LARGE_BYTES:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def _create_local(path: Path, data: bytes) -> bool:
    """A link under the final name, which a file system makes for one of many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _is_foreign(error: Exception) -> bool:
    """Whether a store's client raised it (botocore, aiohttp, delta-rs, pyarrow), and not a mistake of ours."""
    module = type(error).__module__.partition(".")[0]
    return module in {"botocore", "aiobotocore", "aiohttp", "s3fs", "deltalake", "_internal", "pyarrow"}


def _is_refused_precondition(error: BaseException | None) -> bool:
    """Whether the store answered 412 to a conditional request, somewhere in the chain of causes."""
    while error is not None:
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if code in {"PreconditionFailed", "ConditionalRequestConflict", "412"}:
            return True
        error = error.__cause__
    return False


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
