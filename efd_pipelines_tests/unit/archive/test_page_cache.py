"""The system's memory: large files of the archive leave it once they are on disk, small ones stay for their readers."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from efd_pipelines.archive.store import Store
from efd_pipelines.settings import load_settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tells what is in memory by Linux's RWF_NOWAIT")


def is_in_memory(path: Path) -> bool:
    """Whether all of a file can be read without asking the disk."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        room = mmap.mmap(-1, size)
        try:
            return os.preadv(file.fileno(), [room], 0, os.RWF_NOWAIT) == size
        except BlockingIOError:
            return False


@pytest.mark.parametrize(("size", "stays"), [(1_000_000, True), (20_000_000, False)])
def test_a_large_file_leaves_memory_and_a_small_one_stays(tmp_path: Path, size: int, stays: bool) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(bytes(1_000_000))
    if not is_in_memory(plain):
        pytest.skip("this file system has nothing in memory that could be let go")
    data = np.random.default_rng(1).bytes(size)
    store = Store(str(tmp_path / "archive"), load_settings({}, None))
    store.write_bytes("raw/file", data)
    path = tmp_path / "archive" / "raw" / "file"
    assert is_in_memory(path) == stays
    assert path.read_bytes() == data
