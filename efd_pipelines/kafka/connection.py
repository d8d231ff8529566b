"""Connections: the properties that every Kafka client of this project gets, and librdkafka's errors in our words.

What belongs here: from settings to librdkafka's configuration, and from its errors to the tree of
`efd_pipelines.errors`. Asking the brokers: `brokers.py`. Reading records: `backlog.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from pydantic import SecretStr

from efd_pipelines.errors import KafkaUnavailable, SettingsError
from efd_pipelines.settings import Settings

Client = TypeVar("Client")

_IDENTITY = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
_RIGHTS = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
_VAGUE = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT})
# Names with an underscore cannot be told from dotted ones in an environment variable; there is one for users.
_UNDERSCORED = {"log.level": "log_level"}


class Complaints:
    """The last thing that a client of librdkafka complained about in passing.

    librdkafka reports a refused connection to a callback and goes on trying; the call that waits only says
    "timed out". This keeps the reason for the message that the user gets.
    """

    def __init__(self) -> None:
        self.last: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        # "All brokers are down" follows each refused connection and says less than it.
        if self.last is None or error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.last = error

    @property
    def refuses_us(self) -> bool:
        """Whether trying again cannot help: the brokers do not accept who we are."""
        return self.last is not None and self.last.code() in _IDENTITY


def client_properties(settings: Settings, complaints: Complaints) -> dict[str, Any]:
    """librdkafka properties for any client: where, as whom, and silent.

    Raises:
        SettingsError: EFD_KAFKA_BOOTSTRAP is not set.
    """
    properties: dict[str, Any] = {
        "client.id": "efd_pipelines",
        # librdkafka's own log goes to stderr; what matters comes back as errors.
        "log_level": 0,
        "reconnect.backoff.max.ms": 1000,
        "socket.keepalive.enable": True,
    }
    properties.update({_UNDERSCORED.get(key, key): _plain(value) for key, value in settings.kafka_properties.items()})
    properties["bootstrap.servers"] = settings.require_kafka()
    properties["error_cb"] = complaints
    return properties


def connect(make: Callable[[dict[str, Any]], Client], settings: Settings, properties: dict[str, Any]) -> Client:
    """A client made with `properties`. Connects to nothing yet.

    Raises:
        SettingsError: librdkafka does not accept a property.
    """
    try:
        return make(properties)
    except KafkaException as exception:
        raise SettingsError(
            f"The Kafka client refuses its settings: {_text(settings, reason_of(exception))}",
            remedy="Mend the EFD_KAFKA_* variable that it names (dots are written as underscores).",
        ) from exception


def unavailable(
    settings: Settings, what: str, exception: KafkaException | KafkaError | None, complaints: Complaints
) -> KafkaUnavailable:
    """The error for something that the brokers did not do, with the reason that is nearest to the cause."""
    cause = reason_of(exception) if isinstance(exception, KafkaException) else exception
    if complaints.last is not None and (cause is None or cause.code() in _VAGUE):
        cause = complaints.last  # "timed out" says less than the refused connection behind it
    said = "no answer" if cause is None else _text(settings, cause)
    message = f"Kafka at {settings.kafka_bootstrap} {what} ({said})"
    code = KafkaError._TIMED_OUT if cause is None else cause.code()
    if code in _IDENTITY:
        remedy = "Check EFD_KAFKA_SECURITY_PROTOCOL and EFD_KAFKA_SASL_* (mechanism, user name, password)."
    elif code in _RIGHTS:
        remedy = "Ask for the rights to describe and read the topics (ACLs of this user)."
    elif code == KafkaError._SSL:
        remedy = "Check EFD_KAFKA_SECURITY_PROTOCOL and EFD_KAFKA_SSL_CA_LOCATION."
    else:
        return KafkaUnavailable(message)
    return KafkaUnavailable(message, remedy=remedy)


def reason_of(exception: KafkaException) -> KafkaError:
    """The error inside an exception."""
    first = next(iter(exception.args), None)
    return first if isinstance(first, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


def _text(settings: Settings, error: KafkaError) -> str:
    """What librdkafka says, without any secret of ours that it may quote."""
    text = error.str()
    for value in settings.kafka_properties.values():
        if isinstance(value, SecretStr) and value.get_secret_value():
            text = text.replace(value.get_secret_value(), "***")
    return text


def _plain(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
