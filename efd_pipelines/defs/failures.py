"""Failures: errors that are meant for people, as Dagster shows them.

A domain error becomes a failed run, or tick, that says what happened and what to do about it, and nothing of Python:
only a bug of ours shows where in the code it happened. Nothing is retried because of it: what failed would fail again,
and the next tick of a sensor does the work that is still to be done.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from efd_pipelines.errors import EfdError


class Explained(dg.Failure, DagsterUserCodeProcessError):
    """A failure without a stack trace.

    Dagster serialises an error with the trace of where it was raised, save one that comes from another process: of that
    it shows what the process told. There is no public way to say it; a test holds this one to Dagster's pinned version.
    """

    def __init__(self, error: EfdError, **metadata: dg.MetadataValue) -> None:
        text = f"{_sentence(error.message)}\nWhat to do: {error.remedy}"
        told = SerializableErrorInfo(f"{text}\n", [], type(error).__name__)
        DagsterUserCodeProcessError.__init__(self, text, user_code_process_error_infos=[told])  # type: ignore[no-untyped-call]
        plain = dg.Failure(description=text, metadata=metadata, allow_retries=False)
        self.description, self.metadata, self.allow_retries = plain.description, plain.metadata, False


def _sentence(message: str) -> str:
    return message if message.endswith((".", "?", "!")) else f"{message}."


@contextmanager
def explained() -> Iterator[None]:
    """Turns domain errors into failures of the step or tick."""
    try:
        yield
    except EfdError as error:
        raise Explained(error) from None
