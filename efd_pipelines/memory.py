"""Memory: using large pieces again, and giving back to the system what has been freed.

A drain decodes chunk after chunk into as much memory, and makes as large a file of each: where that comes fresh from
the system, its pages are cleared first, which took a tenth of the processor time. So such pieces are kept until the
drain ends.
It also makes and frees tens of thousands of small objects per chunk, in several threads; glibc keeps them in
its arenas, and after 1 GB of backlog a process that never holds more than 250 MB at once stood at 1.4 GB.
"""

from __future__ import annotations

import ctypes
import functools
import resource
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# What is smaller comes from Arrow's pool, which uses it again by itself.
_LARGE_BYTES = 1 << 24
_STEP_BYTES = 1 << 20
_KEPT_BYTES = 96 * 1024 * 1024
_GROWN_BYTES = 80 * 1024 * 1024
_LINE_BYTES = 64
_PAGES = Path("/proc/self/statm")
_kept: list[NDArray[np.uint8]] = []
# Pieces come back whenever the last who refers to them lets go, even while one is looked for.
_lock = threading.RLock()


def large_buffer(size_bytes: int) -> pa.Buffer:
    """Memory to write to, at the beginning of a cache line; what is in it may be anything.

    A large piece comes back when nothing refers to the buffer any more, and is then lent again.
    """
    if size_bytes < _LARGE_BYTES:
        return pa.allocate_buffer(size_bytes)
    whole_bytes = -(-size_bytes // _STEP_BYTES) * _STEP_BYTES + _LINE_BYTES
    with _lock:
        # By what they are and not by their places, which change when a piece comes back meanwhile.
        fitting = [piece for piece in _kept if whole_bytes <= piece.size <= 2 * whole_bytes]
        piece = min(fitting, key=len) if fitting else np.empty(whole_bytes, np.uint8)
        _kept[:] = [kept for kept in _kept if kept is not piece]
    begin = -piece.ctypes.data % _LINE_BYTES
    lent = piece[begin : begin + size_bytes]
    weakref.finalize(lent, _take_back, piece).atexit = False
    return pa.py_buffer(lent)


def _take_back(piece: NDArray[np.uint8]) -> None:
    with _lock:
        _kept.append(piece)
        while sum(kept.size for kept in _kept) > _KEPT_BYTES:
            del _kept[0]


def let_go() -> None:
    """Keeps no pieces any longer."""
    with _lock:
        _kept.clear()


class Growth:
    """Gives memory back whenever the process has grown by 80 MiB since.

    What is freed in between is not all used again: a drain that never had more than 800 MiB at once stood at 1,100.
    """

    def __init__(self) -> None:
        self._least = resident_bytes()

    def look(self) -> None:
        """Takes some microseconds, and some hundredths of a second where memory is given back."""
        now = resident_bytes()
        self._least = min(self._least, now)
        if now - self._least >= _GROWN_BYTES:
            give_back()
            self._least = resident_bytes()


def resident_bytes() -> int:
    """Memory that the process has now; where there is no /proc, the most that it has had."""
    try:
        return int(_PAGES.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def give_back() -> None:
    """Returns freed memory of Arrow's pool and, with glibc, of the C heap to the system."""
    pa.default_memory_pool().release_unused()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None  # another C library: its allocator is not known to hoard
    return trim
