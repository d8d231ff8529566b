"""The storage report's page in a real browser: from a disk, in both colour schemes, and on paper."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from efd_pipelines.archive.archive import Archive
from efd_pipelines.settings import load_settings
from efd_pipelines.storage.annotations import Annotation, add
from efd_pipelines.storage.estimates import Estimate, estimates_section
from efd_pipelines.storage.throughput import storage_report
from efd_pipelines.times import Week, weeks_between
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.browser.conftest import OPTIONS
from efd_pipelines_tests.unit.storage.conftest import entry
from efd_pipelines_tests.unit.storage.records import SCHEMA, archived

WEEKS = weeks_between(Week.parse("2026-08-03"), Week.parse("2026-11-09"))
TOPICS = ["lsst.sal.MTMount.azimuth", "lsst.sal.GIS.logevent_systemStatus", "lsst.sal.ESS.temperature"]
CHARTS = {
    "weekly", "stores", "by-telemetry", "by-events", "subsystems", "flows", "movers", "rates", "advice", "tiers",
    "estimates",
}  # fmt: skip
PAPER_PX = 688
"""A4 less its margins."""


@dataclass
class Seen:
    """What a browser showed of the page in one colour scheme."""

    charts: dict[str, float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    ground: str = ""
    bar: str = ""
    overflow: int = 0
    cut: int = 0
    pdf: bytes = b""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an archive with records, history, a tier and a mark."""
    archive = Archive(load_settings({}, None, archive=str(tmp_path_factory.mktemp("page") / "archive")))
    begin, random = WEEKS[-1].start_us / 1e6, np.random.default_rng(1)
    rows = [
        {"private_efdStamp": begin + 60 * n, "drifts": list(random.normal(size=3)), "steady": 1.5, "steps": n // 7,
         "exact": 0.25, "name": "x"}
        for n in range(2000)
    ]  # fmt: skip
    archived(archive, Dataset.parse("lsst.sal.MTM1M3.made"), SCHEMA, rows)
    entries = [
        entry(topic, week.key, 50, avro=10**5 * (k + 1) * (n + 1), parquet=10**4 * (n + 1), run=f"{n}-{k}")
        for n, topic in enumerate(TOPICS)
        for k, week in enumerate(WEEKS)
    ]
    entries.append(entry(TOPICS[0], WEEKS[-1].key, 5, parquet=5000, table="1s", commit_kind="tier"))
    for version, one in enumerate(entries):
        entries[version] = type(one)(**{name: getattr(one, name) for name in one.__slots__} | {"version": version})
    archive.ledger.append(entries)
    add(archive, [Annotation(datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 9, 2, tzinfo=UTC), "Shutdown")])
    silent = estimates_section([Estimate("lsst.sal.MTRotator.rotation", "MTRotator", 180.0, 10.0, 0.057)])
    assert silent is not None
    report = storage_report(archive, week=WEEKS[-1], more=lambda report: [silent])
    return Path(next(name for name in report.files if name.endswith(".html")))


@pytest.fixture(scope="module")
def seen(file: Path, chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What is seen in light and in dark; in a thread, since another test's browser may be open in this one."""
    pictures = tmp_path_factory.mktemp("pictures")
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(look, file, chromium, pictures).result()


def look(file: Path, chromium: Path, pictures: Path) -> dict[str, Seen]:
    found = {}
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        for scheme in ("light", "dark"):
            found[scheme] = seen = Seen()
            page = window.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 900})
            watch(page, seen)
            page.goto(file.as_uri())
            page.screenshot(path=pictures / f"{scheme}.png", full_page=True)
            describe(page, seen)
            seen.pdf = page.pdf(format="A4")
            page.emulate_media(media="print")
            page.set_viewport_size({"width": PAPER_PX, "height": 900})
            seen.cut = page.evaluate(
                "() => Math.max(...[...document.querySelectorAll('.table')].map(of => of.scrollWidth - of.clientWidth))"
            )
        window.close()
    return found


def watch(page: Page, seen: Seen) -> None:
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))


def describe(page: Page, seen: Seen) -> None:
    seen.charts = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('svg.chart')].map("
        "one => [one.id.replace('chart-', ''), one.getBoundingClientRect().height]))"
    )
    seen.ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    seen.bar = page.evaluate("() => getComputedStyle(document.querySelector('.ground-0')).fill")
    seen.overflow = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_every_chart_is_drawn_in_both_schemes(seen: dict[str, Seen]) -> None:
    for of in seen.values():
        assert set(of.charts) == CHARTS
        assert min(of.charts.values()) > 40
        assert of.overflow == 0


def test_nothing_is_complained_of_and_nothing_asked_of_a_network(seen: dict[str, Seen], file: Path) -> None:
    for of in seen.values():
        assert of.complaints == []
        assert {url for url in of.requests if not url.startswith("data:")} == {file.as_uri()}


def test_light_and_dark_differ_as_the_reader_has_it(seen: dict[str, Seen]) -> None:
    assert seen["light"].ground == "rgb(255, 255, 255)"
    assert seen["dark"].ground != seen["light"].ground
    assert seen["dark"].bar != seen["light"].bar


def test_it_can_be_printed(seen: dict[str, Seen]) -> None:
    for of in seen.values():
        assert of.pdf.startswith(b"%PDF")
        assert of.pdf.count(b"/Type /Page") > 2
        assert of.cut <= 0
