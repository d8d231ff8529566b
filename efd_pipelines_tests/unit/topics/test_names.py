"""Names: topics, datasets, kinds and safe paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.errors import NameRejected
from efd_pipelines.topics.names import Dataset, Kind, dataset_of, nearest

KAFKA_NAME = st.text("abzAZ09._-", min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("topic", "text", "component", "name", "kind"),
    [
        ("lsst.sal.MTM1M3.forceActuatorData", None, "MTM1M3", "forceActuatorData", Kind.TELEMETRY),
        ("lsst.sal.ESS.logevent_heartbeat", None, "ESS", "logevent_heartbeat", Kind.EVENT),
        ("lsst.sal.ScriptQueue.command_add", None, "ScriptQueue", "command_add", Kind.COMMAND),
        ("lsst.sal.ScriptQueue.ackcmd", None, "ScriptQueue", "ackcmd", Kind.ACK),
        ("lsst.obsenv.summary", None, "lsst.obsenv", "summary", Kind.METRIC),
        (
            "summit.lsst.sal.MTM1M3.forceActuatorData",
            "lsst.sal.MTM1M3.forceActuatorData",
            "MTM1M3",
            "forceActuatorData",
            Kind.TELEMETRY,
        ),
        (
            "tts.lsst.sal.MTM1M3.forceActuatorData",
            "tts@lsst.sal.MTM1M3.forceActuatorData",
            "tts@MTM1M3",
            "forceActuatorData",
            Kind.TELEMETRY,
        ),
    ],
)
def test_a_topic_has_its_dataset_component_and_kind(
    topic: str, text: str | None, component: str, name: str, kind: Kind
) -> None:
    dataset = dataset_of(topic, ("summit.",))
    assert dataset is not None
    assert (dataset.text, dataset.component, dataset.name, dataset.kind) == (text or topic, component, name, kind)
    assert Dataset.parse(dataset.text) == dataset


@pytest.mark.parametrize("topic", ["__consumer_offsets", "registry-schemas", "mm2-offset-syncs.usdf.internal", "lsst."])
def test_topics_that_are_not_the_efds_have_no_dataset(topic: str) -> None:
    assert dataset_of(topic) is None


@pytest.mark.parametrize(
    "text", ["", "x", "a/b.c", "@lsst.sal.A.b", "tts@", "lsst.sal.A.b;DROP", "é.x", "../a.b", "a@b@c.d"]
)
def test_names_from_outside_are_checked(text: str) -> None:
    with pytest.raises(NameRejected):
        Dataset.parse(text)


@given(KAFKA_NAME, KAFKA_NAME)
def test_paths_are_relative_visible_and_distinct(one: str, other: str) -> None:
    first, second = dataset_of(f"lsst.{one}"), dataset_of(f"lsst.{other}")
    assert first is not None
    assert second is not None
    parts = first.path.split("/")
    assert len(parts) == 2
    assert all(part and part[0] not in "._" for part in parts)
    assert (first.path == second.path) == (first == second)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    assert "forceActuatorData" in nearest("forceActuatorDta", ["forceActuatorData", "pidData"])
    assert nearest("zzz", ["forceActuatorData"]) == ""
