"""The UI as somebody sees it who knows the observatory and not Dagster."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from efd_pipelines.times import this_week
from efd_pipelines_tests.dagster_site import DagsterSite

pytestmark = pytest.mark.timeout(600)


def test_the_lineage_leads_from_the_sources_to_the_reports(page: Page) -> None:
    page.goto("/asset-groups")
    for group in ("sources", "archive", "tiers", "exposures", "reports"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible(timeout=60_000)
    assert not page.get_by_text("Join the Dagster community").count()


def test_an_asset_says_what_it_is_where_its_files_are_and_what_to_do(page: Page) -> None:
    page.goto("/assets/raw_archive")
    for text in ("Is last night archived?", "Where are the files?", "When a run fails", "kafka_offset"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=60_000)


def test_a_partition_shows_its_figures_and_its_place(page: Page) -> None:
    page.goto(f"/assets/raw_archive?view=partitions&partition=MTM1M3%7C{this_week()}")
    expect(page.get_by_role("cell", name="200", exact=True).first).to_be_visible(timeout=60_000)
    for name in ("rows", "bytes", "lag_s", "gaps", "dead_letters", "last_record"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    expect(page.get_by_text("/archive/raw/MTM1M3").first).to_be_visible()


def test_a_component_shows_its_topics_with_units(page: Page) -> None:
    page.goto("/assets/kafka_topics?view=partitions&partition=ESS")
    expect(page.get_by_text("temperatureItem").first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("deg_C").first).to_be_visible()


def test_checks_say_what_they_ask(page: Page) -> None:
    page.goto("/assets/raw_archive?view=checks")
    expect(page.get_by_text("last_night").first).to_be_visible(timeout=60_000)


def test_a_failed_run_says_what_it_wants_and_shows_no_python(page: Page, ui: DagsterSite) -> None:
    with ui.instance() as instance:
        (run,) = instance.get_runs(limit=1)
    page.goto(f"/runs/{run.run_id}")
    expect(page.get_by_text("What to do:").first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("did you mean lsst.sal.MTM1M3.hardpointActuatorData?").first).to_be_visible()
    assert not page.get_by_text("Stack Trace").count()


def test_the_export_is_a_form(page: Page) -> None:
    page.goto("/locations/efd_pipelines/jobs/export/playground")
    for name in ("topics", "from", "to", "out", "tier"):
        expect(page.locator(".CodeMirror").get_by_text(name, exact=True).first).to_be_visible(timeout=60_000)


def test_the_report_opens_with_its_picture(page: Page) -> None:
    page.goto(f"/assets/storage_throughput?view=partitions&partition={this_week().previous()}")
    page.get_by_text("[Show Markdown]").first.click()
    expect(page.get_by_text("What the EFD's data takes").first).to_be_visible(timeout=60_000)
    picture = page.locator("img[src^='data:image/png']").first
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 400
