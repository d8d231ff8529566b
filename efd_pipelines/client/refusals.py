"""Refusals: what the client says to a question that cannot be meant.

Each is one of the project's errors and also of the kind that lsst-efd-client raises in its place, so that programs
written for that go on.
"""

from __future__ import annotations

from efd_pipelines.errors import UnknownDataset, UsageError


class UnknownTopic(UnknownDataset, ValueError):
    """A topic that is neither in the archive nor where else it may be asked for."""

    remedy = "`get_topics()` lists what there is."


class NoTier(UsageError):
    """A tier that was not built yet."""

    remedy = '`efd tiers run` computes it; resolution="auto" takes what there is.'


class UnknownField(UsageError, ValueError):
    """A field that a topic does not have."""

    remedy = "`get_fields(topic)` lists what it has."


class NoArchive(UsageError):
    """Nothing is where the archive should be."""

    remedy = "Check EFD_ARCHIVE (a directory or s3://bucket/prefix) or give `archive=`."


class NotATime(UsageError, TypeError):
    """Something that says no time, or does not say in which scale."""

    remedy = (
        "Give an astropy Time, a datetime (UTC where it has no zone), a numpy.datetime64, or text as"
        " 2026-11-21T23:36:14."
    )


class EmptyWindow(UsageError, ValueError):
    """A window that holds no time."""

    remedy = "Give an end that is later than the start."


class TooLarge(UsageError):
    """More than may be taken into memory without saying so."""
