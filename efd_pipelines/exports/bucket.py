"""Buckets: an export under a prefix on S3.

There is no renaming: a mark names the unfinished export, each topic has an object that no reader of Parquet takes
(`UNFINISHED`), so that who reads what is half there is told so; the manifest is written when all is there, and then the
marks go. Two processes at one prefix: the later one takes over, the earlier one is refused at its next file.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efd_pipelines.archive.store import Store
from efd_pipelines.errors import StaleWriter
from efd_pipelines.exports.destination import (
    MANIFEST,
    Hashed,
    NotAnExport,
    Stage,
    WrittenFile,
    checked,
    encoded,
    files_of,
    is_interruption,
)

MARKER = "unfinished.json"
UNFINISHED = "this-export-is-unfinished.parquet"
UPLOAD_BYTES = 5 * 1024 * 1024
_PROGRESS = "_progress"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix of a bucket."""

    store: Store

    def uri(self, path: str = "") -> str:
        return self.store.uri(path)

    def manifest(self) -> bytes | None:
        return None if self.store.exists(MARKER) else self.store.try_read(MANIFEST)

    def standing(self, request: dict[str, Any]) -> dict[str, Any] | None:
        found = self.sizes()
        if MANIFEST in found:
            return checked(self.store.root, self.store.read_bytes(MANIFEST), request)
        if found and (MARKER not in found or not self._is_ours(request)):
            raise NotAnExport(f"{self.store.root} is not empty and holds no export of this request")
        return None

    def is_whole(self, manifest: dict[str, Any]) -> bool:
        found = self.sizes()
        return MARKER not in found and all(found.get(path) == size for path, size in files_of(manifest).items())

    def free_bytes(self) -> int | None:
        return None

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
        self.store.write_bytes(MARKER, encoded({"request": request, "run": run}))
        self.store.delete(MANIFEST)
        stage = BucketStage(self, run)
        try:
            yield stage
        except BaseException as error:
            if not is_interruption(error):
                stage.clean(keep=set())
            raise

    def remove(self, manifest: dict[str, Any]) -> None:
        self.store.write_bytes(MARKER, encoded({"request": manifest["request"], "run": uuid.uuid4().hex}))
        self.store.delete(MANIFEST)
        self.store.delete_all([*files_of(manifest), *manifest.get("texts", ["README.md"])])
        self.store.delete(MARKER)

    def _is_ours(self, request: dict[str, Any]) -> bool:
        return bool(json.loads(self.store.read_bytes(MARKER)).get("request") == request)


@dataclass(frozen=True, slots=True)
class BucketStage:
    """An export on its way into a bucket."""

    bucket: Bucket
    run: str

    def begin(self, directories: Sequence[str]) -> None:
        for one in directories:
            self.bucket.store.write_bytes(f"{one}/{UNFINISHED}", b"This export is not finished: read it later.\n")

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[WrittenFile]:
        store = self.bucket.store
        with store.errors(f"write {path}"):
            file = store.fs.open(store.path(path), "wb", block_size=UPLOAD_BYTES)
            try:
                yield Hashed(file)
                self._check()
            except BaseException:
                file.discard()
                file.closed = True  # or fsspec uploads what there is when the object is collected
                raise
            file.close()

    def _check(self) -> None:
        if not self._is_still_ours():
            raise StaleWriter(f"Another process is exporting to {self.bucket.store.root}")

    def note(self, record: str, data: bytes) -> None:
        self.bucket.store.write_bytes(f"{_PROGRESS}/{record}.json", data)

    def noted(self, record: str) -> bytes | None:
        return self.bucket.store.try_read(f"{_PROGRESS}/{record}.json")

    def holds(self, files: Mapping[str, int]) -> bool:
        return all(self.bucket.store.size(path) == size for path, size in files.items())

    def publish(self, manifest: bytes) -> None:
        store = self.bucket.store
        self._check()
        document = json.loads(manifest)
        wanted = {*files_of(document), *document.get("texts", [])}
        marks = {path for path in self.bucket.sizes() if path.startswith(f"{_PROGRESS}/") or path.endswith(UNFINISHED)}
        self.clean(keep={MARKER, *marks, *wanted})
        store.write_bytes(MANIFEST, manifest)
        self.clean(keep={MARKER, MANIFEST, *wanted})
        store.delete(MARKER)

    def clean(self, keep: set[str]) -> None:
        """Removes objects, unless another process has taken over the prefix; the marker goes last."""
        if self._is_still_ours():
            gone = {*self.bucket.sizes()} - keep
            self.bucket.store.delete_all(sorted(gone - {MARKER}))
            if MARKER in gone:
                self.bucket.store.delete(MARKER)

    def _is_still_ours(self) -> bool:
        marker = self.bucket.store.try_read(MARKER)
        return marker is not None and json.loads(marker).get("run") == self.run
