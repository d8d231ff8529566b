"""The library that confluent-kafka brings along, called by its C interface."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from efd_pipelines.kafka.compiled_consumer import CompiledConsumer
from efd_pipelines.kafka.connection import reason_of
from efd_pipelines.kafka.consumers import PlainConsumer, make_consumer
from efd_pipelines.kafka.librdkafka import library, raise_code, raise_error

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the library is found in Linux's list of what is mapped"
)
NOWHERE = {"bootstrap.servers": "127.0.0.1:9", "group.id": "g", "log_level": 0}


def test_the_library_is_the_one_that_confluent_kafka_uses() -> None:
    assert library().rd_kafka_version() == confluent_kafka.libversion()[1]


def test_much_is_read_with_compiled_code_and_little_without() -> None:
    for records, kind in ((10, PlainConsumer), (10**6, CompiledConsumer)):
        consumer = make_consumer(NOWHERE, records)
        assert type(consumer) is kind
        consumer.close()


def test_a_property_that_is_none_is_named() -> None:
    with pytest.raises(KafkaException, match=r"bootstrap\.service"):
        CompiledConsumer({**NOWHERE, "bootstrap.service": "x"})
    with pytest.raises(KafkaException, match=r"fetch\.min\.bytes"):
        CompiledConsumer({**NOWHERE, "fetch.min.bytes": "many"})


def test_errors_are_confluent_kafkas() -> None:
    raise_code(0)
    raise_error(None)
    with pytest.raises(KafkaException) as caught:
        raise_code(KafkaError._BAD_MSG)
    assert reason_of(caught.value).code() == KafkaError._BAD_MSG


def test_complaints_are_heard_while_nothing_comes() -> None:
    heard: list[KafkaError] = []
    consumer = CompiledConsumer({**NOWHERE, "error_cb": heard.append})
    consumer.incremental_assign([TopicPartition("t", 0, 0)])
    assert all(consumer.consume(10, 0.5) is None for _ in range(3))
    consumer.close()
    consumer.close()
    assert KafkaError._TRANSPORT in [error.code() for error in heard]


def test_an_interrupt_while_it_waits_is_raised_and_it_can_be_closed() -> None:
    """In a process of its own: one that cannot be closed hangs in librdkafka."""
    program = """
        import signal, time
        from confluent_kafka import TopicPartition
        from efd_pipelines.kafka.compiled_consumer import CompiledConsumer
        heard = []
        consumer = CompiledConsumer(
            {"bootstrap.servers": "127.0.0.1:9", "group.id": "g", "log_level": 0, "error_cb": heard.append}
        )
        consumer.incremental_assign([TopicPartition("t", 0, 0)])
        def interrupt(*_): raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        interrupted = 0
        for attempt in range(20):
            signal.setitimer(signal.ITIMER_REAL, 0.01 + 0.007 * attempt)
            try:
                consumer.consume(10, 0.3)
            except KeyboardInterrupt:
                interrupted += 1
        consumer.consume(10, 0.01)
        consumer.close()
        print(interrupted, bool(heard))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=120
    )
    assert (done.stdout.split(), done.stderr) == (["20", "True"], "")


def test_the_decoder_can_be_made_ready_beside_it() -> None:
    """In a process of its own: numba makes what both compile for once, and the two hung when that fell together."""
    program = """
        import threading, time
        from numba.core.cpu import CPUContext
        from efd_pipelines.avro.decoder import make_ready
        from efd_pipelines.kafka.compiled_consumer import CompiledConsumer
        began, really = threading.Event(), CPUContext.__init__
        def slowly(*arguments):
            began.set()
            time.sleep(1)
            really(*arguments)
        CPUContext.__init__ = slowly
        other = threading.Thread(target=make_ready)
        other.start()
        began.wait()
        CompiledConsumer({"bootstrap.servers": "127.0.0.1:9", "group.id": "g", "log_level": 0}).close()
        other.join()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
