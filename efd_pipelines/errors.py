"""Errors: the one tree of everything that this project raises on purpose.

Each error says what happened and to which thing (`message`) and what to do about it (`remedy`); its class
decides the exit code of the command line (interfaces.md). Errors of librdkafka, delta-rs, botocore and
psycopg are mapped onto these where they are called, with `raise … from`. A package's own errors subclass
one of these in that package.
"""

from __future__ import annotations

from typing import ClassVar


class EfdError(Exception):
    """Something that the user or the operator can act upon."""

    remedy: str = "Read the message; if it does not help, report it with the command that caused it."
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if remedy is not None:
            self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.message}{'' if self.message.endswith(('.', '?', '!')) else '.'} {self.remedy}"


def _rebuild(kind: type[EfdError], message: str, remedy: str) -> EfdError:
    """An error as it was, for process pools: subclasses may have other constructors."""
    error = kind.__new__(kind)
    EfdError.__init__(error, message, remedy=remedy)
    return error


class SettingsError(EfdError):
    """A setting is missing or wrong."""

    remedy = "Set it in the environment or in .env; `efd config show` prints what is in force."
    exit_code = 2


class UsageError(EfdError):
    """A command or a call that cannot be meant."""

    remedy = "See --help."
    exit_code = 2


class NameRejected(UsageError):
    """A name that is no topic's, dataset's or field's."""

    remedy = "Write a dataset as [cluster@]namespace.name, e.g. lsst.sal.MTM1M3.forceActuatorData."


class UnknownDataset(UsageError):
    """A dataset that the archive does not have."""

    remedy = "`efd topics` lists what there is."


class DataError(EfdError):
    """Data that is not as it should be."""

    remedy = "`efd archive verify` says what else is affected."


class SchemaError(DataError):
    """A schema that cannot be read."""

    remedy = "Look at the subject in the schema registry; the frames written with it are kept among the dead."


class ArchiveError(DataError):
    """The archive refuses, or is not as it should be."""


class StaleWriter(ArchiveError):
    """Another writer was faster; its commit stands."""

    remedy = "Nothing to do: nothing of this attempt became visible. Read the table again and go on from there."


class ServiceUnavailable(EfdError):
    """A service that did not answer. Nothing is lost: the work is done again at the next run."""

    remedy = "Check that it runs and that its address is right, then run again: nothing was lost."
    exit_code = 3


class KafkaUnavailable(ServiceUnavailable):
    """The brokers did not answer."""

    remedy = "Check EFD_KAFKA_BOOTSTRAP and that the brokers run, then run again: nothing was lost."


class RegistryUnavailable(ServiceUnavailable):
    """The schema registry did not answer."""

    remedy = "Check EFD_REGISTRY_URL and that the registry runs, then run again: nothing was lost."


class StoreUnavailable(ServiceUnavailable):
    """The directory or object store did not answer."""

    remedy = "Check EFD_ARCHIVE, EFD_S3_ENDPOINT and the keys, then run again: nothing became visible."


class StoreFull(StoreUnavailable):
    """No room is left where the archive lies."""

    remedy = "Make room there, then run again: nothing became visible, nothing was lost."


class DatabaseUnavailable(ServiceUnavailable):
    """The Consolidated Database did not answer."""

    remedy = "Check EFD_CONSDB_URL and that the database runs, then run again: nothing was written."


class InfluxUnavailable(ServiceUnavailable):
    """InfluxDB did not answer."""

    remedy = "Check EFD_INFLUX_URL and that InfluxDB runs, then run again."
