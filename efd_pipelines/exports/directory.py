"""Directories: an export on a local or mounted file system.

Files are written beside the export (`.<name>.partial`), records of finished work beside that (`.<name>.progress`), and
a rename makes all of it visible when it is whole. Workers on other machines need the same directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from efd_pipelines.archive.store import Store
from efd_pipelines.errors import StaleWriter
from efd_pipelines.exports.destination import (
    MANIFEST,
    Hashed,
    NotAnExport,
    Occupied,
    Stage,
    WrittenFile,
    checked,
    encoded,
    files_of,
    is_interruption,
)

_RUN = "run.json"
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of a local or mounted file system."""

    store: Store

    @property
    def path(self) -> Path:
        return Path(self.store.root)

    @property
    def staging(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def progress(self) -> Path:
        return self.path.with_name(f".{self.path.name}.progress")

    @property
    def _replaced(self) -> Path:
        return self.path.with_name(f".{self.path.name}.replaced")

    def uri(self, path: str = "") -> str:
        return self.store.uri(path)

    def manifest(self) -> bytes | None:
        return self.store.try_read(MANIFEST)

    def standing(self, request: dict[str, Any]) -> dict[str, Any] | None:
        with self.store.errors("look at the destination"):
            if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
                return None
            if not (self.path / MANIFEST).is_file():
                raise NotAnExport(f"{self.path} is not empty and holds no export")
            return checked(str(self.path), (self.path / MANIFEST).read_bytes(), request)

    def is_whole(self, manifest: dict[str, Any]) -> bool:
        return _are_there(self.path, files_of(manifest))

    def free_bytes(self) -> int | None:
        there = next(parent for parent in (self.path, *self.path.parents) if parent.exists())
        with self.store.errors("ask for the room at the destination"):
            return shutil.disk_usage(there).free

    @contextlib.contextmanager
    def stage(self, request: dict[str, Any]) -> Iterator[Stage]:
        with self.store.errors("make the export's directory"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._locked()
        run = uuid.uuid4().hex
        try:
            with self.store.errors("remove what an interrupted export left"):
                if not self._was_for(request):
                    _empty(self.staging)
                    _remove(self.progress)
                _remove(self._replaced)
                self.progress.mkdir(exist_ok=True)
                (self.progress / _RUN).write_bytes(encoded({"request": request, "run": run}))
            yield DirectoryStage(self, run)
        except BaseException as error:
            if is_interruption(error):
                raise
            self._give_up(lock)
            raise
        else:
            self._give_up(lock)
        finally:
            os.close(lock)

    def _give_up(self, lock: int) -> None:
        if _is_same(lock, self.staging):
            shutil.rmtree(self.staging, ignore_errors=True)
        shutil.rmtree(self.progress, ignore_errors=True)

    def _was_for(self, request: dict[str, Any]) -> bool:
        """Whether an export of this request was interrupted here."""
        try:
            found = json.loads((self.progress / _RUN).read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        return bool(found.get("request") == request)

    def _locked(self) -> int:
        """The staging directory, locked by this process until it is closed; the lock goes with a rename."""
        while True:
            self.staging.mkdir(exist_ok=True)
            lock = os.open(self.staging, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise Occupied(f"Another process is exporting to {self.path}") from None
            if _is_same(lock, self.staging):
                return lock
            os.close(lock)

    def swap(self) -> None:
        """Puts the staged export in the place of what stands here."""
        with self.store.errors("put the export in its place"):
            if (self.path / MANIFEST).is_file():
                self.path.rename(self._replaced)
            try:
                self.staging.rename(self.path)
            except OSError as error:
                raise NotAnExport(f"{self.path} came to be while the export was written") from error
            flush(self.path.parent)
            _remove(self._replaced)

    def remove(self, manifest: dict[str, Any]) -> None:
        with self.store.errors("remove the export"):
            (self.path / MANIFEST).unlink(missing_ok=True)
            for path in (*files_of(manifest), *manifest.get("texts", ["README.md"])):
                (self.path / path).unlink(missing_ok=True)
            for directory in sorted(
                {(self.path / path).parent for path in files_of(manifest)} | {self.path}, reverse=True
            ):
                with contextlib.suppress(OSError):  # somebody else keeps something there
                    directory.rmdir()


@dataclass(frozen=True, slots=True)
class DirectoryStage:
    """An export on its way into a directory."""

    directory: Directory
    run: str

    def begin(self, directories: Sequence[str]) -> None:
        with self.directory.store.errors("make the export's directories"):
            for one in directories:
                (self.directory.staging / one).mkdir(exist_ok=True)

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[WrittenFile]:
        target = self.directory.staging / path
        with self.directory.store.errors(f"write {path}"):
            # Not its parents: a worker that comes too late must not begin a new export.
            target.parent.mkdir(exist_ok=True)
            temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
            try:
                with temporary.open("xb") as file:
                    yield Hashed(file)
                    file.flush()
                    os.fsync(file.fileno())
                self._check()
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def _check(self) -> None:
        data = (self.directory.progress / _RUN).read_bytes()
        if json.loads(data).get("run") != self.run:
            raise StaleWriter(f"Another process is exporting to {self.directory.path}")

    def note(self, record: str, data: bytes) -> None:
        with self.directory.store.errors("note what was written"):
            path = self.directory.progress / f"{record}.json"
            temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
            temporary.write_bytes(data)
            temporary.replace(path)

    def noted(self, record: str) -> bytes | None:
        with self.directory.store.errors("look what was written before"):
            try:
                return (self.directory.progress / f"{record}.json").read_bytes()
            except FileNotFoundError:
                return None

    def holds(self, files: Mapping[str, int]) -> bool:
        return _are_there(self.directory.staging, files)

    def publish(self, manifest: bytes) -> None:
        with self.create(MANIFEST) as file:
            file.write(manifest)
        wanted = {MANIFEST, *files_of(json.loads(manifest)), *json.loads(manifest).get("texts", [])}
        with self.directory.store.errors("write the export"):
            for directory, _, names in os.walk(self.directory.staging, topdown=False):
                for name in names:
                    path = Path(directory, name)
                    if str(path.relative_to(self.directory.staging)) not in wanted:
                        path.unlink()
                if Path(directory) != self.directory.staging and not any(Path(directory).iterdir()):
                    Path(directory).rmdir()
                else:
                    flush(Path(directory))
        self.directory.swap()


def left_behind(place: str, before: datetime) -> list[Path]:
    """What interrupted exports left in a directory, and nobody has touched since a time."""
    if not Path(place).is_dir():
        return []
    found = []
    for path in sorted(Path(place).glob(".*.partial")):
        progress = path.with_name(path.name.removesuffix(".partial") + ".progress")
        touched = max(one.stat().st_mtime for one in (path, progress) if one.exists())
        if path.is_dir() and touched < before.timestamp():
            found.append(path)
    return found


def remove_left_behind(staging: Path) -> bool:
    """Removes what an interrupted export left, unless somebody goes on with it right now; whether it is gone."""
    lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(staging.with_name(staging.name.removesuffix(".partial") + ".progress"), ignore_errors=True)
        shutil.rmtree(staging, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return not staging.exists()


def _are_there(directory: Path, files: Mapping[str, int]) -> bool:
    there = ((directory / path, size) for path, size in files.items())
    return all(path.is_file() and path.stat().st_size == size for path, size in there)


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


def flush(directory: Path) -> None:
    """Have the names in a directory on disk: a rename must not outlive a power cut that its files do not."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
