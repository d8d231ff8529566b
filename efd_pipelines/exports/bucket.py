"""Buckets: an export under a prefix on S3.

There is no renaming: a mark names the unfinished export, each topic has an object that no reader of Parquet takes
(`UNFINISHED`), so that who reads what is half there is told so; the manifest is written when all is there, and then the
marks go. Two processes at one prefix: the later one takes over, the earlier one is refused at its next file. A killed
one leaves all of that, and perhaps uploads that nobody sees and somebody pays for: `expiry.py` has both removed.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
_PART = re.compile(r"(.*/)?[^/]+/part-[^/]+\.parquet")


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
        return {path: int(info["size"]) for path, info in self._listed().items()}

    def _listed(self) -> dict[str, Any]:
        with self.store.errors("list the destination"):
            try:
                found = self.store.fs.find(self.store.path(""), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self.store.path("")) + 1
        return {path[start:]: info for path, info in found.items() if len(path) > start}

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

    def left_behind(self, before: datetime) -> dict[str, int]:
        """What an export that was not gone on with since a time left here, with sizes, the mark last.

        Of one that was killed when all was there already, only the marks: it is whole.
        """
        if not self.store.exists(MARKER):
            return {}
        found = self._listed()
        marks = {path for path in found if path.startswith(f"{_PROGRESS}/") or path.endswith(f"/{UNFINISHED}")}
        ours = {"README.md", *marks, *(path for path in found if path.count("/") == 1 and _PART.fullmatch(path))}
        if any(found[path]["LastModified"] >= before for path in {MARKER, *ours} & found.keys()):
            return {}
        gone = [*sorted((marks if MANIFEST in found else ours) & found.keys()), MARKER]
        return {path: int(found[path]["size"]) for path in gone}

    def remove_left_behind(self, before: datetime) -> bool:
        """Removes it, unless somebody goes on with it right now; whether it is gone."""
        gone = list(self.left_behind(before))
        # Whoever has it still in hand is refused at its next file; whoever comes back to it writes a mark of its own.
        run = uuid.uuid4().hex
        self.store.write_bytes(MARKER, encoded({**json.loads(self.store.read_bytes(MARKER)), "run": run}))
        stage = BucketStage(self, run)
        for path in gone:
            if not stage.is_still_ours():
                return False
            self.store.delete(path)
        return bool(gone)

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
        if not self.is_still_ours():
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
        if self.is_still_ours():
            gone = {*self.bucket.sizes()} - keep
            self.bucket.store.delete_all(sorted(gone - {MARKER}))
            if MARKER in gone:
                self.bucket.store.delete(MARKER)

    def is_still_ours(self) -> bool:
        """Whether no other process has taken over the prefix."""
        marker = self.bucket.store.try_read(MARKER)
        return marker is not None and json.loads(marker).get("run") == self.run


def forgotten_uploads(store: Store, before: datetime) -> list[tuple[str, str]]:
    """Files under a prefix that a process died over while it sent them, and their uploads' numbers.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    bucket, _, prefix = store.path("").partition("/")
    prefix = f"{prefix.rstrip('/')}/"
    found: list[tuple[str, str]] = []
    more: dict[str, str] = {}
    while True:
        with store.errors("list unfinished uploads"):
            answer = store.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **more)
        for one in answer.get("Uploads", []):
            if one["Initiated"] < before and _PART.fullmatch(one["Key"]):
                found.append((one["Key"].removeprefix(prefix), one["UploadId"]))
        if not answer.get("IsTruncated"):
            return found
        more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def forget_upload(store: Store, relative: str, upload: str) -> None:
    """Drops what was sent of a file that was never finished."""
    bucket, _, key = store.path(relative).partition("/")
    with store.errors(f"drop the upload of {relative}"):
        store.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)
