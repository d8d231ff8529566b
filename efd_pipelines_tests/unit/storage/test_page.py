"""The report as a page: every section, well-formed, without network, with words where there are colours."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from efd_pipelines.storage import storage_report
from efd_pipelines.storage.annotations import Annotation, add
from efd_pipelines.storage.page import Section
from efd_pipelines.storage.render import DRAWN, drawings, html, markdown
from efd_pipelines.storage.sections import sections
from efd_pipelines.storage.svg import bytes_text, spread, ticks
from efd_pipelines.storage.text import plain
from efd_pipelines.storage.throughput import detailed, measure
from efd_pipelines.times import Week, this_week, weeks_between
from efd_pipelines_tests.unit.storage.conftest import entry, objects

Archives = Callable[..., Any]
TOPICS = ["lsst.sal.MTM1M3.forceActuatorData", "lsst.sal.MTMount.azimuth", "lsst.sal.GIS.logevent_systemStatus"]
WEEKS = weeks_between(Week.parse("2026-10-05"), Week.parse("2026-11-09"))
CHARTS = ["weekly", "stores", "by-telemetry", "by-events", "subsystems", "flows", "movers", "rates", "tiers"]


@pytest.fixture
def archive(archive_of: Archives) -> Any:
    """Six weeks that grow, with a tier and a mark."""
    archive = archive_of(
        *(
            entry(topic, week.key, 10 * n, avro=10**6 * n * k, parquet=10**5 * n * k)
            for n, topic in enumerate(TOPICS, start=1)
            for k, week in enumerate(WEEKS, start=1)
        ),
        *(entry(TOPICS[0], week.key, 2, parquet=5000, table="1s", commit_kind="tier") for week in WEEKS),
    )
    add(archive, [Annotation(datetime(2026, 10, 20, tzinfo=UTC), datetime(2026, 10, 21, tzinfo=UTC), "<Mirror> & co")])
    return archive


def page_of(archive: Any) -> str:
    return html(detailed(archive, measure(archive, WEEKS[-1])))


def test_every_chart_is_there_well_formed_and_described(archive: Any) -> None:
    found = re.findall(r"<svg [^>]*class=\"chart\".*?</svg>", page_of(archive), flags=re.DOTALL)
    names = []
    for text in found:
        svg = ElementTree.fromstring(text)
        space = "{http://www.w3.org/2000/svg}"
        names.append(svg.attrib["id"].removeprefix("chart-"))
        title, words = svg.find(f"{space}title"), svg.find(f"{space}desc")
        assert title is not None
        assert words is not None
        assert title.text
        assert words.text
    assert names == CHARTS


def test_main_charts_stand_alone_for_markdown(archive: Any) -> None:
    report = detailed(archive, measure(archive, WEEKS[-1]))
    found = drawings(report)
    assert set(found) == set(DRAWN)
    text = markdown(report, charts=dict.fromkeys(found, "data:drawn"))
    for title in (one.title for one in sections(report) if one.key in DRAWN):
        assert f"## {plain(title)}\n\n![{title}](data:drawn)" in text
    assert "&lt;Mirror&gt; &amp; co" in text
    for svg in found.values():
        root = ElementTree.fromstring(svg)
        used = set(re.findall(r"var\((--\w+)\)", svg))
        assert used <= set(re.findall(r"(--\w+):", svg))
        assert {f"fill-{n}" for n in re.findall(r'fill="url\(#fill-(\d)\)"', svg)} <= {
            one.attrib["id"] for one in root.iter("{http://www.w3.org/2000/svg}pattern")
        }


def test_it_asks_nothing_of_any_network(archive: Any) -> None:
    page = page_of(archive)
    addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')>\s]+)", page)
    assert {address.partition(":")[0] for address in addresses if not address.startswith("#")} == {"data"}
    assert "<script" not in page


def test_what_people_wrote_stays_text(archive: Any) -> None:
    page = page_of(archive)
    assert "&lt;Mirror&gt; &amp; co" in page
    assert "<Mirror>" not in page


def test_tags_are_closed(archive: Any) -> None:
    class Open(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.stack: list[str] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in {"meta", "link"}:
                self.stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.stack.pop() == tag

    parser = Open()
    parser.feed(page_of(archive))
    assert parser.stack == []


def test_marks_are_told_apart_without_colour(archive: Any) -> None:
    page = page_of(archive)
    patterns = re.findall(r'<pattern id="fill-(\d)".*?</pattern>', page, flags=re.DOTALL)
    assert len(patterns) == 8
    drawings = {re.sub(r"ground-\d|fill-\d", "", text) for text in re.findall(r"<pattern.*?</pattern>", page)}
    assert len(drawings) == 8
    assert not re.findall(r'<rect [^>]*fill="#', page)


def test_sections_of_others_come_after_its_own(archive: Any) -> None:
    own = Section("forecast", "It grows", "<svg id='chart-forecast' class='chart'></svg>", ["Words"], ["year"], [["1"]])
    storage_report(archive, week=WEEKS[-1], more=lambda report: [own] if report.weeks else [])
    page = objects(archive)[f"reports/storage/{WEEKS[-1]}/throughput.html"].decode()
    assert page.index('id="forecast"') > page.index('id="topics-events"')


def test_what_is_missing_stands_at_the_top(archive: Any) -> None:
    brokers = archive.settings.configuration.kafka.model_copy(update={"timeout_s": 0.5})
    configuration = archive.settings.configuration.model_copy(update={"kafka": brokers})
    unreachable = {"kafka_bootstrap": "127.0.0.1:1", "configuration": configuration}
    archive.settings = archive.settings.model_copy(update=unreachable)
    report = measure(archive, this_week())
    text = html(report)
    assert any("Kafka could not be asked" in line for line in report.missing)
    assert "Kafka could not be asked" in text.partition("<section")[0]


def test_published_sizes_make_a_page_too(shared: Path) -> None:
    report = storage_report(None, sizes=shared / "seed_tables")
    assert "MTM1M3 sends 84 % of the telemetry: 354 GB of 420 GB" in html(report)


@pytest.mark.parametrize(("size", "text"), [(0, "0"), (999, "999 B"), (1234567, "1.23 MB"), (9.996e11, "1,000 GB")])
def test_sizes_have_three_digits_and_a_unit(size: float, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize("high", [0.0, 0.3, 7.0, 99.0, 1234.5])
def test_ticks_begin_at_nothing_and_reach_the_highest(high: float) -> None:
    found = ticks(high)
    assert found[0] == 0
    assert found[-1] >= high
    assert 2 <= len(found) <= 8


def test_names_are_spread_apart_and_stay_inside() -> None:
    found = spread([10, 11, 12, 95], 13, 0, 100)
    assert all(b - a >= 13 for a, b in itertools.pairwise(found))
    assert found[-1] <= 100
