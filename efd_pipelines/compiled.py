"""Compiled code: where it is kept between runs.

numba would keep it beside the module, which an installed package often cannot write; here it goes to the user's
cache directory. Where that cannot be written either, nothing is kept and each process compiles for itself.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


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


def make_ready(entries: Mapping[Any, Any]) -> None:
    """Compiles functions of numba for their signatures, or loads what has been kept of them."""
    for entry, signature in entries.items():
        try:
            entry.compile(signature)
        except OSError as error:  # it is compiled, and could not be kept
            logger.warning("Compiled code cannot be kept (%s): each process compiles for itself", error)
