"""Compiled code: where it is kept between runs.

numba would keep it beside the module, which an installed package often cannot write; here it goes to the user's
cache directory. Where that cannot be written either, nothing is kept and each process compiles for itself.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
# Where numba keeps code is one setting for all threads.
_lock = threading.Lock()


def cache_directory() -> Path | None:
    """The directory for compiled code, made if need be; None where there is no writable one."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    directory = Path(base) / "efd_pipelines" / "numba"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except (OSError, RuntimeError):
        return None


def jit_of(*files: str) -> Callable[[Callable[..., Any]], Any]:
    """What compiles functions that leave the interpreter to others, and divide as numpy does; their text is in `files`.

    numba keeps code until the file of its function changes, whatever other files went into it: so what is kept stands
    under the text of them all.
    """
    import numba

    return _keeping(files, lambda keeps: numba.njit(nogil=True, cache=keeps, error_model="numpy"))


def callback_of(signature: Any, *files: str) -> Callable[[Callable[..., Any]], Any]:
    """What compiles functions that C calls, as `jit_of` does; `address` of what it makes is what C is given."""
    import numba

    # The first function of a process makes numba's target, behind its lock, and takes the compiler's lock for that; a
    # callback takes the compiler's first, then the target's. Beside each other both waited for ever.
    numba.njit(lambda: None)
    return _keeping(files, lambda keeps: numba.cfunc(signature, cache=keeps, error_model="numpy"))


def _keeping(files: Sequence[str], compiler: Callable[[bool], Any]) -> Callable[[Callable[..., Any]], Any]:
    import numba
    import xxhash

    texts = b"".join(Path(file).read_bytes() for file in files)
    name = f"{Path(files[0]).stem}-{xxhash.xxh3_64_hexdigest(texts)}"

    def compiled(function: Callable[..., Any]) -> Any:
        with _lock:
            directory = cache_directory()
            if directory is not None and not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
                numba.config.CACHE_DIR = str(directory)  # type: ignore[attr-defined]
            kept_in = numba.config.CACHE_DIR  # type: ignore[attr-defined]
            numba.config.CACHE_DIR = kept_in and str(Path(kept_in) / name)  # type: ignore[attr-defined]
            try:
                return compiler(bool(kept_in))(function)
            finally:
                numba.config.CACHE_DIR = kept_in  # type: ignore[attr-defined]

    return compiled


def make_ready(entries: Mapping[Any, Any]) -> None:
    """Compiles functions of numba for their signatures, or loads what has been kept of them."""
    for entry, signature in entries.items():
        try:
            entry.compile(signature)
        except OSError as error:  # it is compiled, and could not be kept
            logger.warning("Compiled code cannot be kept (%s): each process compiles for itself", error)
