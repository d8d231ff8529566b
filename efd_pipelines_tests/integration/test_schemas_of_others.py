"""Schemas that are not SAL's, or not this site's: other registries, namespaces and formats. Every record stays whole.

SAL's own as they change over the years: `test_schemas_over_time.py`. What is compared with what: `lossless.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.avro.frames import frame
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.integration.configured import configured
from efd_pipelines_tests.integration.conftest import MakeSettings
from efd_pipelines_tests.integration.lossless import assert_lossless, assert_readers_agree, records_of, sent
from efd_pipelines_tests.integration.plain import assert_reads_plainly_when_sealed
from efd_pipelines_tests.integration.produced import NOW, produce

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def other_registry() -> Iterator[Callable[[dict[int, str]], str]]:
    """Serves schemas under chosen ids, as a registry of another cluster does; gives its URL."""
    servers: list[ThreadingHTTPServer] = []

    def serve(schemas: dict[int, str]) -> str:
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = self.path.rpartition("/")[2]
                known = schemas.get(int(number)) if number.isdigit() else None
                answer = {"schema": known} if known else {"error_code": 40403, "message": "no such schema"}
                body = json.dumps(answer).encode()
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_two_registries_whose_ids_clash(
    site: MakeSettings, other_registry: Callable[[dict[int, str]], str], unique: str
) -> None:
    """The test stand's topic has a prefix, its schema's namespace has none, and its id is another schema's at home."""
    name = f"lsst.sal.Test.{unique}"
    ours, theirs = SalTopic.of(name, [SalField("a", "int")]), SalTopic.of(name, [SalField("z", "string")])
    with SalProducer(site()) as producer:
        producer.prepare([ours])
        head = producer.frames(random_series(ours, 1, microseconds(NOW)))[0][:5]
    url = other_registry({int.from_bytes(head[1:], "big"): theirs.avro_schema()})
    settings = site(registries={"tts": url})
    assert settings.require_registry("tts") == url
    produce(settings, ours, 5)
    with SalProducer(settings) as producer:
        producer.create([(f"tts.{name}", 1, {})])
        for body in random_series(theirs, 6, microseconds(NOW)).bodies():
            producer.put(f"tts.{name}", head + body)
    archive = Archive(settings)
    assert drain(archive, settings).dead_letters == 0
    home = assert_lossless(archive, name, sent(settings, name))
    away = assert_lossless(archive, f"tts@{name}", records_of(settings.require_kafka(), url, f"tts.{name}"))
    assert (home.num_rows, away.num_rows) == (5, 6)
    assert ("z" in home.column_names, "z" in away.column_names) == (False, True)
    assert_reads_plainly_when_sealed(archive, f"tts@{name}", Week.containing(NOW))


def test_json_messages(site: MakeSettings, unique: str) -> None:
    """What a value is, the values of a batch say: they change their minds, and nothing is lost."""
    name = f"lsst.obsenv.{unique}"
    settings = configured(site(), value_formats={name: "json"}, time_fields={"lsst.obsenv": "timestamp"})
    batches: list[list[dict[str, Any]]] = [
        [{"timestamp": NOW.timestamp() + n, "count": n, "ok": True, "list": [1, 2], "who": "ä"} for n in range(3)],
        [
            {
                "timestamp": NOW.timestamp() + 5,
                "count": 1.5,
                "ok": None,
                "list": [0.5],
                "nested": {"a": [1, {"b": None}]},
            }
        ],
        [
            {
                "timestamp": NOW.timestamp() + 6,
                "count": "many",
                "list": ["x", "y", "z"],
                "big": 2**60 + 1,
                "late": [True],
            }
        ],
        [{"timestamp": NOW.timestamp() + 7, "count": 7, "list": [], "nested": "text", "Count": 3}],
    ]
    archive = Archive(settings)
    for batch in batches:
        with SalProducer(settings) as producer:
            producer.create([(name, 1, {})])
            for value in batch:
                producer.put(name, json.dumps(value).encode(), b"")
        assert drain(archive, settings).dead_letters == 0
        assert_lossless(archive, name, sent(settings, name, "json"))
    table = archive.read(archive.datasets()[0])
    assert table["time"].cast(pa.int64()).to_pylist()[0] == microseconds(NOW)
    assert set(table["archive_schema"].to_pylist()) == {0}
    assert_reads_plainly_when_sealed(archive, name, Week.containing(NOW))


METRIC = {
    "type": "record",
    "name": "metric",
    "namespace": "lsst.dm",
    "fields": [
        {"name": "timestamp", "type": "double"},
        {"name": "value", "type": ["null", "double"], "default": None},
        {"name": "count", "type": "long"},
        {"name": "band", "type": {"type": "enum", "name": "Band", "symbols": ["g", "r"]}},
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 4}},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
        {"name": "run", "type": {"type": "record", "name": "Run", "fields": [{"name": "id", "type": "int"}]}},
        {"name": "either", "type": ["null", "string", "int"], "default": None},
        {"name": "maybe", "type": {"type": "array", "items": ["null", "float"]}},
    ],
}


def test_other_namespaces_have_their_own_time_and_any_schema(site: MakeSettings, unique: str) -> None:
    import io

    settings = configured(site(), time_fields={"lsst.dm": "timestamp"})
    timed, untimed = f"lsst.dm.{unique}", f"lsst.other.{unique}"
    from efd_pipelines.kafka.registry import Registries

    with Registries(settings) as registries, SalProducer(settings) as producer:
        number = registries.register("", f"{unique}-value", json.dumps(METRIC))
        producer.create([(timed, 1, {}), (untimed, 1, {})])
        schema = fastavro.parse_schema(METRIC, _write_hint=False)
        for n, either in enumerate((None, "text", 7)):
            out = io.BytesIO()
            at = (NOW - timedelta(days=14)).timestamp() + n
            values: dict[str, Any] = {
                "timestamp": at,
                "value": np.nan if n else None,
                "count": n,
                "band": "r",
                "hash": b"\0\1\2\3",
            }
            values |= {"tags": {"k": "v"}, "run": {"id": n}, "either": either, "maybe": [None, 0.5]}
            fastavro.schemaless_writer(out, schema, values)
            for topic in (timed, untimed):
                producer.put(topic, frame(number, out.getvalue()), b"", timestamp_ms=int(NOW.timestamp() * 1000) + n)
    archive = Archive(settings)
    assert drain(archive, settings).dead_letters == 0
    for topic, when in ((timed, NOW - timedelta(days=14)), (untimed, NOW)):
        found = archive.read(Dataset.parse(topic)).sort_by("kafka_offset")
        step = 1_000_000 if topic == timed else 1000
        assert found["time"].cast(pa.int64()).to_pylist() == [microseconds(when) + n * step for n in range(3)]
        assert found["band"].to_pylist() == ["r"] * 3
        assert found["hash"].to_pylist() == [b"\0\1\2\3"] * 3
        assert [json.loads(text) for text in found["tags"].to_pylist()] == [{"k": "v"}] * 3
        assert [json.loads(text) for text in found["run"].to_pylist()] == [{"id": n} for n in range(3)]
        branches = [text if text is None else json.loads(text) for text in found["either"].to_pylist()]
        assert branches == [None, "text", 7]
        assert found["value"].is_valid().to_pylist() == [False, True, True]
        assert_readers_agree(archive, topic)
        assert_reads_plainly_when_sealed(archive, topic, Week.containing(when))
    assert verify(archive, deep=True).problems == []
