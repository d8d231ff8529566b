"""Jit: how the functions of the kernel are compiled, and where the outcome is kept (`efd_pipelines.compiled`).

numba keeps code until the file of its function changes, whatever other files went into it, so ours goes to a directory
that is named by the text of them all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import xxhash

from efd_pipelines.compiled import cache_directory

_COMPILED = ("kernel", "keys", "places", "quartiles", "selection", "sorting", "squares", "sweeps", "tiles", "vectors")
_TEXTS = tuple(f"{name}.py" for name in ("jit", "networks", *_COMPILED))


def _directory() -> Path | None:
    base = numba.config.CACHE_DIR or cache_directory()  # type: ignore[attr-defined]
    if not base:
        return None
    texts = b"".join(Path(__file__).with_name(name).read_bytes() for name in _TEXTS)
    directory = Path(base) / f"tiers-{xxhash.xxh3_64_hexdigest(texts)}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return directory


_DIRECTORY = _directory()


def compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled when first called; division by zero gives NaN, as in numpy, and is no error."""
    jit = numba.njit(nogil=True, cache=_DIRECTORY is not None, error_model="numpy")
    before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    try:
        numba.config.CACHE_DIR = str(_DIRECTORY or before)  # type: ignore[attr-defined]
        return jit(function)
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[attr-defined]
