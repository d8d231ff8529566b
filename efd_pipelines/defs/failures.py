"""Failures: errors that are meant for people, as Dagster shows them.

A domain error becomes a failed run that says what happened and what to do about it; only a bug of ours shows where
in the code it happened. Nothing is retried because of it: what failed would fail again, and the next tick of a sensor
does the work that is still to be done.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from efd_pipelines.errors import EfdError


@contextmanager
def explained() -> Iterator[None]:
    """Turns domain errors into failures of the step."""
    try:
        yield
    except EfdError as error:
        raise failure_of(error) from None


def failure_of(error: EfdError, **metadata: dg.MetadataValue) -> dg.Failure:
    """The failure of a domain error: its message and remedy, and nothing of Python."""
    return dg.Failure(
        description=f"{error.message.rstrip('.')}.\nWhat to do: {error.remedy}",
        metadata={"what_to_do": dg.MetadataValue.text(error.remedy), "error": type(error).__name__, **metadata},
        allow_retries=False,
    )
