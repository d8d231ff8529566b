"""The registry's answers, good and bad: which are final, which are tried again, and what is never said."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from efd_pipelines.errors import RegistryUnavailable, SchemaError, SettingsError
from efd_pipelines.kafka import registry as registry_module
from efd_pipelines.kafka.registry import Registries, UnknownSchema
from efd_pipelines.settings import load_settings

SCHEMA = json.dumps({"type": "record", "name": "a", "fields": [{"name": "x", "type": "int"}]})
Answer = tuple[int, Any]


@dataclass(slots=True)
class Asked:
    """A registry of scripted answers, and what it was asked."""

    url: str = ""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)

    def next(self, path: str) -> Answer:
        self.paths.append(path)
        answers = self.answers.get(path, [(404, {"error_code": 40403, "message": "not found"})])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def asked() -> Iterator[Asked]:
    state = Asked()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.logins.append(self.headers.get("Authorization"))
            status, body = state.next(self.path)
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts."""
    monkeypatch.setattr(registry_module, "wait_exponential_jitter", lambda **_: lambda _: 0.0)


def registries(url: str, **environ: str) -> Registries:
    return Registries(load_settings({"EFD_REGISTRY_URL": url, **environ}, None))


def test_a_schema_is_asked_for_once(asked: Asked) -> None:
    asked.answers["/schemas/ids/3"] = [(200, {"schema": SCHEMA})]
    with registries(asked.url) as known:
        assert known.schema("", 3).name == "a"
        assert known.schema("", 3) is known.schema("", 3)
    assert asked.paths == ["/schemas/ids/3"]


def test_the_same_id_in_two_registries_is_two_schemas(asked: Asked) -> None:
    other = SCHEMA.replace('"a"', '"b"')
    asked.answers = {
        "/one/schemas/ids/3": [(200, {"schema": SCHEMA})],
        "/two/schemas/ids/3": [(200, {"schema": other})],
    }
    known = registries(f"{asked.url}/one", EFD_REGISTRY_URL_TTS=f"{asked.url}/two")
    assert (known.schema("", 3).name, known.schema("tts", 3).name) == ("a", "b")
    assert known.url("tts") == f"{asked.url}/two"


def test_an_unknown_id_is_asked_for_again_after_a_while(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    known = registries(asked.url)
    for _ in range(3):
        with pytest.raises(UnknownSchema, match="3"):
            known.schema("", 3)
    assert len(asked.paths) == 1
    monkeypatch.setattr(registry_module, "UNKNOWN_FOR_S", 0.0)
    asked.answers["/schemas/ids/3"] = [(200, {"schema": SCHEMA})]
    assert known.schema("", 3).name == "a"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(asked: Asked, status: int) -> None:
    asked.answers["/schemas/ids/3"] = [(status, ""), (status, {"error_code": 50001}), (200, {"schema": SCHEMA})]
    assert registries(asked.url).schema("", 3).name == "a"
    assert len(asked.paths) == 3


def test_what_does_not_pass_is_said_with_where_and_what_to_do(asked: Asked) -> None:
    asked.answers["/subjects"] = [(503, "")]
    with pytest.raises(RegistryUnavailable, match="HTTP 503") as failure:
        registries(asked.url).subjects()
    assert asked.url in str(failure.value)
    assert "EFD_REGISTRY_URL" in failure.value.remedy
    assert len(asked.paths) == 3


@pytest.mark.parametrize(
    "answer",
    [(404, "<html>no such page</html>"), (404, {"detail": "no such resource"}), (200, "<html>"), (301, "")],
    ids=["page", "other service", "not JSON", "elsewhere"],
)
def test_a_wrong_path_is_no_unknown_schema(asked: Asked, answer: Answer) -> None:
    """Else every good frame would become a dead letter."""
    asked.answers["/schemas/ids/3"] = [answer]
    with pytest.raises(RegistryUnavailable, match="does not answer like one") as failure:
        registries(asked.url).schema("", 3)
    assert "path" in failure.value.remedy


def test_an_unreachable_registry_is_named() -> None:
    with pytest.raises(RegistryUnavailable, match=r"http://127\.0\.0\.1:9 did not answer"):
        registries("http://127.0.0.1:9").subjects()


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="EFD_REGISTRY_URL"):
        Registries(load_settings({}, None)).subjects()


@pytest.mark.parametrize(
    "answer",
    [{"schema": '"int"'}, {"schema": "{"}, {"schema": "syntax proto3", "schemaType": "PROTOBUF"}],
    ids=["no record", "no JSON", "protobuf"],
)
def test_a_schema_that_is_no_record_is_no_dead_registry(asked: Asked, answer: Any) -> None:
    asked.answers["/schemas/ids/3"] = [(200, answer)]
    with pytest.raises(SchemaError):
        registries(asked.url).schema("", 3)


def test_the_newest_version_of_a_subject_is_known_by_id_too(asked: Asked) -> None:
    asked.answers["/subjects/lsst.sal.A.a-value/versions/latest"] = [(200, {"id": 7, "version": 2, "schema": SCHEMA})]
    known = registries(asked.url)
    latest = known.latest("", "lsst.sal.A.a-value")
    assert (latest.id, latest.version, latest.schema.name) == (7, 2, "a")
    assert known.schema("", 7) == latest.schema
    assert len(asked.paths) == 1


def test_odd_names_are_quoted(asked: Asked) -> None:
    with pytest.raises(UnknownSchema):
        registries(asked.url).latest("", "a/b?c")
    assert asked.paths == ["/subjects/a%2Fb%3Fc/versions/latest"]


def test_only_the_home_registry_gets_its_login(asked: Asked) -> None:
    asked.answers = {"/subjects": [(200, [])], "/x/subjects": [(200, [])]}
    elsewhere = asked.url.replace("127.0.0.1", "localhost")
    known = registries(
        asked.url,
        EFD_REGISTRY_AUTH="me:secret",
        EFD_REGISTRY_URL_NEAR=f"{asked.url}/x",
        EFD_REGISTRY_URL_FAR=elsewhere,
    )
    for cluster in ("", "near", "far"):
        assert known.subjects(cluster) == []
    login = "Basic " + base64.b64encode(b"me:secret").decode()
    assert asked.logins == [login, login, None]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_is_said_without_it(asked: Asked, status: int) -> None:
    asked.answers["/subjects"] = [(status, "")]
    with pytest.raises(RegistryUnavailable, match="does not let us in") as failure:
        registries(asked.url, EFD_REGISTRY_AUTH="me:hunter2").subjects()
    assert "EFD_REGISTRY_AUTH" in failure.value.remedy
    assert "hunter2" not in str(failure.value)


def test_a_login_in_a_url_is_used_and_not_said(asked: Asked) -> None:
    asked.answers["/subjects"] = [(401, "")]
    known = registries("http://127.0.0.1:9", EFD_REGISTRY_URL_TTS=asked.url.replace("://", "://me:hunter2@"))
    with pytest.raises(RegistryUnavailable) as failure:
        known.subjects("tts")
    assert "hunter2" not in f"{failure.value}{known.url('tts')}"
    assert asked.logins == ["Basic " + base64.b64encode(b"me:hunter2").decode()]


def test_threads_share_what_is_known(asked: Asked) -> None:
    asked.answers["/schemas/ids/3"] = [(200, {"schema": SCHEMA})]
    known = registries(asked.url)
    names: list[str] = []
    ask: Callable[[], None] = lambda: names.append(known.schema("", 3).name)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["a"] * 8
