"""Compressing: pages as zstd frames, with what cannot be compressed stored as it is.

Of a measured float the lower bytes are noise: zstd looks through them for as long as through the others, and counts
them among the letters of one alphabet, which makes the code of the others worse. Here the streams of bytes at a
page's beginning that look like noise become raw blocks, and what zstd makes of the rest follows them in the same
frame (RFC 8878 §3.1.1): a frame as any other to its reader. Where the streams come from: `pages.py`, `splitting.py`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

_MAGIC = b"\x28\xb5\x2f\xfd"
# A frame that is its own window, whose size stands in four bytes; no check sum, no dictionary.
_DESCRIPTOR = 0b10100000
_MAX_BLOCK_BYTES = 128 * 1024


def compressed(pages: NDArray[np.uint8], noise: Sequence[int], level: int) -> Iterator[list[Any]]:
    """Each page as one frame, in parts that belong one after the other.

    Args:
        pages: a page a row.
        noise: how many bytes at the beginning of each page are stored; fewer than the page has.
    """
    count, size = pages.shape
    begin = np.asarray(noise, np.uint64)
    places = np.empty((count, 2), np.uint64)
    places[:, 0] = np.arange(count, dtype=np.uint64) * np.uint64(size) + begin
    places[:, 1] = np.uint64(size) - begin
    segments = zstandard.BufferWithSegments(pages.reshape(-1).data, places.tobytes())
    # All of them in one call, which leaves the interpreter to others.
    frames = zstandard.ZstdCompressor(level=level).multi_compress_to_buffer(segments)
    for n in range(count):
        frame = memoryview(frames[n])  # type: ignore[arg-type]  # it is a buffer, which its stub does not say
        yield _behind(pages[n, : noise[n]], frame, size) if noise[n] else [frame]


def _behind(noise: NDArray[np.uint8], frame: memoryview, size: int) -> list[Any]:
    """A frame of `size` bytes that begins with noise and goes on with the blocks of another.

    Raw blocks leave a decoder's tables and repeated offsets as a frame begins with them, and matches count backwards:
    so another frame's blocks are right behind raw ones, and would be nowhere else.
    """
    head = _MAGIC + struct.pack("<BI", _DESCRIPTOR, size)
    blocks = frame[zstandard.frame_header_size(frame[:18]) :]
    parts: list[Any] = []
    for first in range(0, len(noise), _MAX_BLOCK_BYTES):
        block = noise[first : first + _MAX_BLOCK_BYTES]
        parts += [head + _raw_head(len(block)), block.data]
        head = b""
    return [*parts, blocks]


@functools.cache
def _raw_head(size: int) -> bytes:
    """The head of a raw block that is not the last."""
    return struct.pack("<I", size << 3)[:3]
