"""Sizes: how much may be taken into memory, as people write it."""

from __future__ import annotations

import re

from efd_pipelines.errors import UsageError

DEFAULT_LIMIT_BYTES = 2 << 30
_SIZE = re.compile(r"\s*([0-9.]+)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def size_bytes(size: int | float | str) -> int:
    """Bytes of a number, or of a text as "4 GiB".

    Raises:
        UsageError: it is no size.
    """
    if isinstance(size, int | float) and size > 0:
        return int(size)
    parted = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if parted is None:
        raise UsageError(f"{size!r} is no size", remedy='Write it as "4 GiB", or in bytes.')
    base = 1024 if parted[3] else 1000
    return int(float(parted[1]) * base ** _POWERS[parted[2].upper()])
