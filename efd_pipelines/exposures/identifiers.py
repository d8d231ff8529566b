"""Identifiers: names of schemas, tables and columns in ConsDB, checked before they reach SQL.

Apart from `consdb.py` because configurations are checked without a database.
"""

from __future__ import annotations

import re

from efd_pipelines.errors import NameRejected

MAX_IDENTIFIER_BYTES = 63
"""PostgreSQL cuts longer names without saying so."""

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]*")


def check_identifier(name: str) -> str:
    """The name, if PostgreSQL keeps it as it is without quoting: lower case, at most 63 bytes.

    Raises:
        NameRejected: it would not.
    """
    rule = f"a-z, 0-9 and _, not beginning with a digit, at most {MAX_IDENTIFIER_BYTES} bytes"
    if not _IDENTIFIER.fullmatch(name) or len(name.encode()) > MAX_IDENTIFIER_BYTES:
        raise NameRejected(f"{name!r} is no name for a table or column in ConsDB ({rule})", remedy="Rename it.")
    return name
