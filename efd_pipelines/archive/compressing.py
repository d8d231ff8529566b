"""Compressing: zstd's own functions, for compiled code to call: no call of Python for each of a file's 800 columns.

The package `zstandard` brings the library twice: built into its module, and beside it for cffi, where the functions of
zstd.h can be found by name. Where they cannot, pyarrow writes what `pages.py` would have made. Who calls them:
`page_kernel.py`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Zstd:
    """`compress` is the address of ZSTD_compressCCtx."""

    library: Any
    compress: int

    @contextmanager
    def context(self) -> Iterator[int]:
        """The address of a context, for one thread."""
        context = self.library.ZSTD_createCCtx()
        if not context:
            raise MemoryError("zstd has no memory for a context")
        try:
            yield context
        finally:
            self.library.ZSTD_freeCCtx(context)


def most_bytes(size: int) -> int:
    """More than what a frame of so many bytes takes at most: zstd adds a 256th to what it cannot compress, and more."""
    return size + size // 128 + 1024


@functools.cache
def zstd() -> Zstd | None:
    """None where the library's functions cannot be called."""
    try:
        found = importlib.util.find_spec("zstandard._cffi")
        library = ctypes.CDLL(found.origin if found and found.origin else "")
        library.ZSTD_createCCtx.restype = ctypes.c_void_p
        library.ZSTD_freeCCtx.argtypes = [ctypes.c_void_p]
        compress = ctypes.cast(library.ZSTD_compressCCtx, ctypes.c_void_p).value
    except (ImportError, OSError, AttributeError):
        return None
    return Zstd(library, compress) if compress else None
