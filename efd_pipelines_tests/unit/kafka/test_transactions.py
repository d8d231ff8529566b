"""Transactions: brokers that have yet to settle who keeps a group are asked again; others' answers are errors."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from efd_pipelines.errors import KafkaUnavailable
from efd_pipelines.kafka.connection import Complaints
from efd_pipelines.kafka.transactions import committed
from efd_pipelines.settings import load_settings

SETTINGS = load_settings({"EFD_KAFKA_BOOTSTRAP": "127.0.0.1:1"}, None)
PLACE = TopicPartition("topic", 0, 7)


class Answers:
    """A consumer whose brokers answer so, one after the other."""

    def __init__(self, *answers: int | TopicPartition) -> None:
        self._answers = list(answers)

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        answer = self._answers.pop(0)
        if isinstance(answer, int):
            raise KafkaException(KafkaError(answer))
        return [answer]

    @property
    def left(self) -> int:
        return len(self._answers)


def ask(answers: Answers) -> TopicPartition:
    return committed(SETTINGS, Complaints(), cast(Any, answers), "topic")


@pytest.mark.parametrize(
    "code",
    [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS],
)
def test_brokers_that_settle_who_keeps_a_group_are_asked_again(code: int) -> None:
    assert ask(Answers(code, code, PLACE)) is PLACE


def test_what_another_try_does_not_mend_is_an_error_that_names_the_topic() -> None:
    answers = Answers(KafkaError.GROUP_AUTHORIZATION_FAILED, PLACE)
    with pytest.raises(KafkaUnavailable, match="did not tell how far topic is"):
        ask(answers)
    assert answers.left == 1
