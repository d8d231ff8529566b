"""Checking a configuration against topics."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from efd_pipelines.exposures.checking import KnownTopics, check_configuration
from efd_pipelines.exposures.configuration import load_transformation
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema, parse_schema
from efd_pipelines_tests.unit.exposures.builders import AZIMUTH, Observatory, a_column, table_of, times, utc

_AVRO = {"boolean": "boolean", "string": "string", "float": "float", "double": "double", "long long": "long"}


def sal_topics(shared: Path) -> list[tuple[Dataset, TopicSchema]]:
    """All topics of today's SAL, with schemas of the shape that the registry has."""
    with gzip.open(shared / "sal" / "topics.json.gz") as file:
        topics = json.load(file)
    return [(Dataset.parse(name), parse_schema(_schema(name, topic))) for name, topic in topics.items()]


def _schema(name: str, topic: dict[str, list[list[object]]]) -> str:
    fields = []
    for field, kind, count, units in topic["fields"]:
        avro = _AVRO.get(str(kind), "int")
        array = {"type": {"type": "array", "items": avro}, "default": [0] * int(str(count))}
        fields.append({"name": field, "units": units, **(array if count != 1 else {"type": avro})})
    namespace, _, bare = name.rpartition(".")
    return json.dumps({"type": "record", "name": bare, "namespace": namespace, "fields": fields})


def test_the_observatorys_files_against_todays_topics(shared: Path) -> None:
    known = KnownTopics.of_schemas(sal_topics(shared))
    lsstcam = check_configuration(load_transformation(str(shared / "consdb" / "config_lsstcam.yaml")), known)
    assert (lsstcam.columns, lsstcam.topics, lsstcam.ok) == (491, 31, False)
    missing = {problem.column: problem for problem in lsstcam.problems}
    assert set(missing) == {"mt_logevent_annular_zernike_coeff", "mt_logevent_visit_dof"}
    assert "did you mean visitDoF0" in missing["mt_logevent_visit_dof"].detail
    assert missing["mt_logevent_visit_dof"].at.startswith(str(shared))
    latiss = check_configuration(load_transformation(str(shared / "consdb" / "config_latiss.yaml")), known)
    assert (latiss.columns, latiss.topics, latiss.ok) == (267, 13, True)


def test_the_demonstration_names_only_what_there_is(shared: Path) -> None:
    check = check_configuration(load_transformation("builtin:demo"), KnownTopics.of_schemas(sal_topics(shared)))
    assert check.problems == ()


def test_what_the_archive_lacks_is_named_with_the_nearest(
    observatory_with: Callable[..., Observatory],
) -> None:
    observatory = observatory_with(
        a_column("good"),
        a_column("field", fields=["actualPositon"]),
        a_column("topic", topic="lsst.sal.MTMount.azimut"),
        a_column("subset", fields=["actualPosition"], subset_field="salIndex", subset_value=1),
    )
    observatory.archives(AZIMUTH, table_of(times(utc("2026-11-17T02:00:00"), 3, 1.0), {"actualPosition": np.ones(3)}))
    transformation = load_transformation(observatory.join.config)
    check = check_configuration(transformation, KnownTopics.of_archive(observatory.archive))
    found = {problem.column: (problem.kind, problem.detail) for problem in check.problems}
    assert found["topic"] == ("topic", f"there is no lsst.sal.MTMount.azimut; did you mean {AZIMUTH}?")
    assert found["field"] == ("field", f"{AZIMUTH} has no field actualPositon; did you mean actualPosition?")
    assert found["subset"][1].startswith(f"{AZIMUTH} has no field salIndex")
    assert "good" not in found
    assert not check.ok
