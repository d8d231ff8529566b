"""Compiled code: where it is kept between runs.

numba would keep it beside the module, which an installed package often cannot write; here it goes to the user's
cache directory. Where that cannot be written either, nothing is kept and each process compiles for itself.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
