"""Checking: whether an export is what its manifest says, wherever it was moved to meanwhile.

Files by their sizes, or, deep, by their SHA-256; and that no file lies there that the manifest does not name: who reads
a directory reads all that is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.store import Store
from efd_pipelines.errors import UsageError
from efd_pipelines.exports.bucket import MARKER, UNFINISHED
from efd_pipelines.exports.destination import MANIFEST, SUFFIX, destination_at, files_of, parsed

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

_BLOCK_BYTES = 16 * 1024 * 1024


class NoExport(UsageError):
    """There is no export there."""

    remedy = "Name the directory, or s3://bucket/prefix, that has its manifest.json."


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of an export."""

    place: str
    ok: bool
    files: int
    bytes: int
    problems: tuple[str, ...]


def check(settings: Settings, place: str, *, deep: bool = False) -> Checked:
    """Compares an export with its manifest; with `deep` every byte of it.

    Raises:
        NoExport: there is none.
        StoreUnavailable: the store did not answer.
    """
    store = Store(place, settings)
    data = store.try_read(MANIFEST)
    if data is None:
        unfinished = store.exists(MARKER)
        raise NoExport(f"{place} is an export that is not finished" if unfinished else f"{place} has no {MANIFEST}")
    manifest = parsed(place, data)
    problems = [f"{MARKER} is there: the export is being renewed"] if store.exists(MARKER) else []
    problems += _problems(store, manifest, deep)
    files = files_of(manifest)
    return Checked(
        destination_at(place, settings).uri(), not problems, len(files), sum(files.values()), tuple(problems)
    )


def _problems(store: Store, manifest: Mapping[str, Any], deep: bool) -> Iterator[str]:
    for topic in manifest["topics"]:
        if topic["directory"] is None:
            continue
        there = store.sizes(topic["directory"])
        for file in topic["files"]:
            size = there.pop(file["path"].rpartition("/")[2], None)
            if size is None:
                yield f"{file['path']} is not there"
            elif size != file["bytes"]:
                yield f"{file['path']} has {size:,} bytes and not {file['bytes']:,}"
            elif deep and _sha256(store, file["path"]) != file["sha256"]:
                yield f"{file['path']} has other bytes than when it was written"
        for name in there:
            if name.endswith(SUFFIX) and name != UNFINISHED:
                yield f"{topic['directory']}/{name} is not of this export, and readers would read it"


def _sha256(store: Store, path: str) -> str:
    digest = hashlib.sha256()
    with store.errors(f"read {path}"), store.fs.open(store.path(path), "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
