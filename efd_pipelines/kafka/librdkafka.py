"""librdkafka: the C library that confluent-kafka brings along, by its public interface (rdkafka.h).

What belongs here: the library as it was loaded, its functions, and its errors as confluent-kafka's. Who reads with it:
`compiled_consumer.py`.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_char_p, c_int, c_int32, c_int64, c_size_t, c_ssize_t, c_void_p
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

CONSUMER = 1
"""The kind of client."""

_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    # name: (result, arguments …)
    "rd_kafka_version": (c_int,),
    "rd_kafka_conf_new": (c_void_p,),
    "rd_kafka_conf_destroy": (None, c_void_p),
    "rd_kafka_conf_set": (c_int, c_void_p, c_char_p, c_char_p, c_char_p, c_size_t),
    "rd_kafka_conf_set_error_cb": (None, c_void_p, c_void_p),
    "rd_kafka_conf_set_opaque": (None, c_void_p, c_void_p),
    "rd_kafka_new": (c_void_p, c_int, c_void_p, c_char_p, c_size_t),
    "rd_kafka_destroy": (None, c_void_p),
    "rd_kafka_poll_set_consumer": (c_int, c_void_p),
    "rd_kafka_queue_get_consumer": (c_void_p, c_void_p),
    "rd_kafka_queue_destroy": (None, c_void_p),
    "rd_kafka_consumer_close": (c_int, c_void_p),
    "rd_kafka_consume_batch_queue": (c_ssize_t, c_void_p, c_int, c_void_p, c_size_t),
    "rd_kafka_topic_partition_list_new": (c_void_p, c_int),
    "rd_kafka_topic_partition_list_add": (c_void_p, c_void_p, c_char_p, c_int32),
    "rd_kafka_topic_partition_list_set_offset": (c_int, c_void_p, c_char_p, c_int32, c_int64),
    "rd_kafka_topic_partition_list_destroy": (None, c_void_p),
    "rd_kafka_topic_partition_set_leader_epoch": (None, c_void_p, c_int32),
    "rd_kafka_incremental_assign": (c_void_p, c_void_p, c_void_p),
    "rd_kafka_incremental_unassign": (c_void_p, c_void_p, c_void_p),
    "rd_kafka_pause_partitions": (c_int, c_void_p, c_void_p),
    "rd_kafka_error_code": (c_int, c_void_p),
    "rd_kafka_error_string": (c_char_p, c_void_p),
    "rd_kafka_error_destroy": (None, c_void_p),
    "rd_kafka_err2str": (c_char_p, c_int),
    "rd_kafka_topic_name": (c_char_p, c_void_p),
    "rd_kafka_message_errstr": (c_char_p, c_void_p),
    "rd_kafka_message_leader_epoch": (c_int32, c_void_p),
    "rd_kafka_message_timestamp": (c_int64, c_void_p, c_void_p),
    "rd_kafka_message_destroy": (None, c_void_p),
}


@functools.cache
def library() -> Any:
    """The library that confluent-kafka has loaded, its functions declared; None where it cannot be found.

    Wheels bring it along; other builds use the system's, which is then among what the process has mapped.
    """
    path = _path()
    if path is None:
        return None
    try:
        loaded = ctypes.CDLL(path)
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None  # confluent-kafka's own consumer does it
    if loaded.rd_kafka_version() != confluent_kafka.libversion()[1]:
        return None
    return loaded


def _path() -> str | None:
    mapped = Path("/proc/self/maps")
    if not mapped.is_file():
        return None
    paths = {
        line.split(maxsplit=5)[-1] for line in mapped.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    }
    return next((path for path in sorted(paths) if Path(path).name.startswith("librdkafka")), None)


def address_of(name: str) -> int:
    """The address of one of the library's functions, for compiled code."""
    return int(ctypes.cast(getattr(library(), name), c_void_p).value or 0)


def raise_code(code: int) -> None:
    """
    Raises:
        KafkaException: the code is that of an error.
    """
    if code:
        raise KafkaException(KafkaError(code))


def raise_error(error: int | None) -> None:
    """Takes an error object, which is none where all went well.

    Raises:
        KafkaException: it is one.
    """
    if error:
        loaded = library()
        code, text = loaded.rd_kafka_error_code(error), loaded.rd_kafka_error_string(error)
        loaded.rd_kafka_error_destroy(error)
        raise KafkaException(KafkaError(code, text.decode("utf-8", "replace")))
