"""What browser tests share: a Chromium, and Dagster's UI over an archive that has something to show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import dagster as dg
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from efd_pipelines.archive.archive import Archive
from efd_pipelines.definitions import build_defs
from efd_pipelines.defs.sources import discovered
from efd_pipelines.partitions import add_components
from efd_pipelines.servers.cache import NotInstalled
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week, this_week
from efd_pipelines_tests.browser.chromium import executable
from efd_pipelines_tests.dagster_site import DagsterSite
from efd_pipelines_tests.defs.builders import FAST, SLOW, a_catalogue, archived, on_brokers

# A browser of a test talks to the page that it is shown, and to nobody else.
OPTIONS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Where Chromium is. Where there is none its tests are skipped; in CI it is installed, or they fail."""
    in_ci = bool(os.environ.get("CI"))
    try:
        return executable(may_install=in_ci)
    except NotInstalled as error:
        if in_ci:
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(chromium: Path, ui: DagsterSite) -> Iterator[Browser]:
    """Chromium without a window.

    Playwright's event loop runs in this thread until the window is closed: the window opens after what it looks at,
    whose runs need a loop of their own, and does not outlive its module, since others' tests need one, too.
    """
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield window
        window.close()


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterSite]:
    """Dagster's UI over an archive of two components in two weeks, with topics, a tier, reports and a failed export."""
    home = tmp_path_factory.mktemp("ui")
    environment = {"EFD_ARCHIVE": str(home / "archive")}
    with mock.patch.dict(os.environ, environment), DagsterSite(home / "dagster", environment) as site:
        with site.instance() as instance:
            furnish(instance)
        yield site


def furnish(instance: dg.DagsterInstance) -> None:
    """Fills the archive and does what the live jobs do with it, without a broker."""
    archive = Archive(load_settings(env_file=None))
    last, running = this_week().previous(), this_week()
    for week, first in ((last, 0), (running, 200)):
        archived(archive, FAST, week, 200, first_offset=first)
        archived(archive, SLOW, week, 20, first_offset=first)
    topics = a_catalogue(on_brokers("MTM1M3.hardpointActuatorData"), on_brokers("ESS.temperature"))
    with mock.patch("efd_pipelines.kafka.catalogue.read_catalogue", return_value=topics):
        found = discovered(instance, archive)
    add_components(instance, topics.components())
    for event in found.events():
        instance.report_runless_asset_event(event)
    definitions = build_defs(archive.settings.configuration)
    for job in ("daily_round", "summarise"):
        assert definitions.resolve_job_def(job).execute_in_process(instance=instance).success
    report = definitions.resolve_job_def("weekly_report")
    assert report.execute_in_process(instance=instance, partition_key=last.key).success
    fail_an_export(definitions, instance, last)


def fail_an_export(definitions: dg.Definitions, instance: dg.DagsterInstance, week: Week) -> None:
    asked = {"topics": [FAST.text + "s"], "from": week.key, "to": f"{datetime.now(UTC):%Y-%m-%d}", "out": "/nowhere"}
    result = definitions.resolve_job_def("export").execute_in_process(
        instance=instance, run_config={"ops": {"export_dataset": {"config": asked}}}, raise_on_error=False
    )
    assert not result.success


@pytest.fixture
def page(browser: Browser, ui: DagsterSite, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of the UI's address; its picture is left in the test's directory."""
    with browser.new_context(base_url=ui.url, viewport={"width": 1500, "height": 1000}) as context:
        shown = context.new_page()
        shown.set_default_timeout(60_000)
        yield shown
        shown.screenshot(path=tmp_path / f"{request.node.name}.png")
