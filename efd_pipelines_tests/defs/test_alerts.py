"""Alerts: people hear of what fails once, daily while it stays so, and when it is over; never the webhook's address."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import dagster as dg
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.defs import alerts
from efd_pipelines.defs.alerts import State, alert, news
from efd_pipelines.resources import Deployment

DAY_S = 86_400.0
NOW = 1_800_000_000.0


@dataclass
class Channel:
    """What a channel of Slack was sent; it refuses while `status` says so."""

    status: int = 200
    heard: list[str] = field(default_factory=list)


@pytest.fixture
def channel(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    said = Channel()

    class Slack(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if said.status == 200:
                said.heard.append(body["text"])
            self.send_response(said.status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Slack) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("EFD_SLACK_WEBHOOK", f"http://127.0.0.1:{server.server_address[1]}/hush")
        yield said
        server.shutdown()


@pytest.fixture
def tick(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Callable[[float], None]:
    """Ticks of the sensor at given times, each with the cursor that the one before left."""
    cursor: list[str | None] = [None]

    def at(now: float) -> None:
        with (
            mock.patch("efd_pipelines.defs.alerts.time.time", return_value=now),
            dg.build_sensor_context(
                instance,
                cursor=cursor[0],
                repository_def=definitions.get_repository_def(),
                resources={"deployment": Deployment()},
            ) as context,
        ):
            cursor[0] = alert(context).cursor  # type: ignore[union-attr]

    return at


def evaluated(instance: dg.DagsterInstance, name: str, passed: bool, description: str) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("raw_archive"), check_name=name, passed=passed, metadata={}, description=description
        )
    )


def test_a_check_that_fails_is_told_once_each_day_and_when_it_passes_again(
    channel: Channel, instance: dg.DagsterInstance, tick: Callable[[float], None]
) -> None:
    evaluated(instance, "no_gaps", True, "0 gaps.")
    tick(NOW)
    assert channel.heard == []
    evaluated(instance, "no_gaps", False, "2 gaps.")
    for later_s in (60, 120, DAY_S):
        tick(NOW + later_s)
    assert channel.heard == ["efd_pipelines, demo\nraw_archive, no_gaps (ERROR) fails. 2 gaps."]
    tick(NOW + DAY_S + 60)
    assert channel.heard[1:] == ["efd_pipelines, demo\nraw_archive, no_gaps (ERROR) still fails. 2 gaps."]
    evaluated(instance, "no_gaps", True, "0 gaps.")
    tick(NOW + DAY_S + 120)
    tick(NOW + DAY_S + 180)
    assert channel.heard[2:] == ["efd_pipelines, demo\nraw_archive, no_gaps (ERROR) is well again. 0 gaps."]


def test_a_message_that_was_not_taken_is_told_again_and_the_webhook_is_not_shown(
    channel: Channel, instance: dg.DagsterInstance, tick: Callable[[float], None]
) -> None:
    evaluated(instance, "every_record_once", False, "lost: 3 rows.")
    channel.status = 500
    with pytest.raises(dg.Failure, match="EFD_SLACK_WEBHOOK answered 500") as refused:
        tick(NOW)
    assert "hush" not in str(refused.value)
    channel.status = 200
    tick(NOW + 60)
    assert len(channel.heard) == 1
    assert "lost: 3 rows." in channel.heard[0]


def test_a_job_whose_last_two_runs_failed_is_told(
    channel: Channel, definitions: dg.Definitions, instance: dg.DagsterInstance, tick: Callable[[float], None]
) -> None:
    drain = definitions.resolve_job_def("drain")

    def ran(status: dg.DagsterRunStatus) -> str:
        return instance.create_run_for_job(drain, status=status).run_id

    ran(dg.DagsterRunStatus.SUCCESS)
    ran(dg.DagsterRunStatus.FAILURE)
    tick(NOW)
    assert channel.heard == []
    newest = ran(dg.DagsterRunStatus.FAILURE)
    tick(NOW + 60)
    assert channel.heard == [f"efd_pipelines, demo\nJob drain fails. Run {newest} says why."]
    ran(dg.DagsterRunStatus.SUCCESS)
    tick(NOW + 120)
    assert channel.heard[1].startswith("efd_pipelines, demo\nJob drain is well again.")


def test_without_a_webhook_nothing_is_asked(
    archive: Archive, instance: dg.DagsterInstance, tick: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unasked(*given: object) -> None:
        raise AssertionError

    monkeypatch.setattr(alerts, "_states", unasked)
    tick(NOW)


def test_many_at_once_are_one_short_message() -> None:
    lines, told = news([State(f"check {n}", False, "") for n in range(50)], {}, NOW)
    assert (len(lines), lines[-1], len(told)) == (21, "and 30 more: see the UI.", 50)
