"""Refusal: why something that is due may not go, and how much is read to find out."""

from __future__ import annotations

from typing import Literal

from efd_pipelines.errors import ArchiveError

Depth = Literal["metadata", "counts", "values"]
"""How much is read: tables and certificates; also the times of all rows; also every value."""


class Refused(ArchiveError):
    """Something that is due and may not go; `kind` is a word for why."""

    remedy = "Nothing was deleted; it is looked at again the next time."

    def __init__(self, kind: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind
