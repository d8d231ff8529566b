"""Sections: the storage report as sections of a page: charts, what one sees in them, and the figures behind them.

What belongs here: one function per section, and their order. The charts: `charts.py`; the page: `page.py`; Markdown:
`render.py`. A section of one's own is a function from the report to a `Section`, in `SECTIONS_OF_PAGE` or passed to
`storage_report(…, more=…)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.findings import counted
from efd_pipelines.storage import charts
from efd_pipelines.storage.changes import Change, changes
from efd_pipelines.storage.page import Section
from efd_pipelines.storage.sizes import MB, Measure
from efd_pipelines.storage.stores import INFLUXDB_TOPICS
from efd_pipelines.storage.svg import bytes_text
from efd_pipelines.storage.throughput import SECTIONS, StorageReport
from efd_pipelines.storage.tidy import ARCHIVE, INFLUXDB, KAFKA, POSTGRESQL, RECEIVED, TIER
from efd_pipelines.times import this_week

if TYPE_CHECKING:
    from efd_pipelines.storage.annotations import Annotation

_BARS = 15
_MOVERS = 15
_FLOW_COMPONENTS = 12
_FLOW_TOPICS = 24
_TOPICS = 50
KINDS = tuple(kind.value for kind in SECTIONS.values())


def weekly(report: StorageReport) -> Section | None:
    """Figure 1: what came each week since the beginning, by kind, and what the archive keeps of it."""
    import polars as pl

    totals = report.gathered.totals
    received = totals.filter((pl.col("store") == RECEIVED) & (pl.col("week") != ""))
    if not received.height:
        return None
    weeks = _all_weeks(received["week"].unique().to_list())
    place = {week: n for n, week in enumerate(weeks)}
    parts = {kind: [0.0] * len(weeks) for kind in KINDS}
    for week, kind, size in received.group_by("week", "kind").agg(pl.col("bytes").sum()).iter_rows():
        parts[kind][place[week]] += size
    lines = {}
    for label, store in (("archive", ARCHIVE), ("InfluxDB", INFLUXDB)):
        of = totals.filter(pl.col("store") == store).group_by("week").agg(pl.col("bytes").sum()).iter_rows()
        values = [float("nan")] * len(weeks)
        for week, size in of:
            if week in place:
                values[place[week]] = size
        if any(value == value for value in values):
            lines[label] = values
    sums = [sum(values) for values in zip(*parts.values(), strict=True)]
    largest = max(range(len(weeks)), key=sums.__getitem__)
    mean = bytes_text(sum(sums) / len(sums))
    title = f"{mean} came in the week of {weeks[0]}, the only one"
    if len(weeks) > 1:
        most = f"most in the week of {weeks[largest]}: {bytes_text(sums[largest])}"
        title = f"{mean} a week on average since {weeks[0]}; {most}"
    shown = _among(report.annotations, weeks)
    svg = charts.weekly_series("weekly", title, weeks, parts, lines, shown)
    words = [
        "Columns: Avro bytes that Kafka delivered, by event time. Lines: bytes of the archive's Parquet"
        + (", and of InfluxDB's shards" if "InfluxDB" in lines else "")
        + ", each in its own encoding."
    ]
    if weeks[-1] == this_week().key:
        words.append(f"The week of {weeks[-1]} is running: its column and its lines are not whole.")
    words += [f"{n}: {_when(one)} {one.text}" for n, (_, one) in enumerate(shown, start=1)]
    rows = [[week, bytes_text(total), *(bytes_text(parts[kind][n]) for kind in KINDS)] for week, n, total in zip(
        weeks, range(len(weeks)), sums, strict=True)]  # fmt: skip
    return Section("weekly", title, svg, words, ["week", "received", *KINDS], rows[::-1])


def by_component(report: StorageReport, name: str) -> Section | None:
    """Tables 1, 2 and their like: a kind's bytes by component."""
    rows = report.section(name)
    if not len(rows) or not rows["size_mb"].sum() > 0:
        return None
    total = rows["size_mb"].sum() * MB
    first = rows.iloc[0]
    title = (
        f"{first['csc']} sends {first['percent']:.0f} % of the {name}: {_mb(first['size_mb'])} of {bytes_text(total)}"
        if len(rows) > 1
        else f"{first['csc']} alone sends {name}: {bytes_text(total)}"
    )
    drawn = [
        charts.Bar(row["csc"], [row["size_mb"] * MB], f"{_mb(row['size_mb'])} ({row['percent']:.2f} %)")
        for row in rows.head(_BARS).to_dict("records")
    ]
    rest = rows.iloc[_BARS:]
    if len(rest):
        size, percent = rest["size_mb"].sum(), rest["percent"].sum()
        drawn.append(charts.Bar(f"{len(rest)} others", [size * MB], f"{_mb(size)} ({percent:.2f} %)"))
    svg = charts.bars(f"by-{name}", title, drawn, [name], report.measure.value, list(SECTIONS).index(name))
    cells = [[row["csc"], *_figures(report, row)] for row in rows.to_dict("records")]
    return Section(f"by-{name}", title, svg, (), ["component", *_head(report)], cells)


def of_topics(report: StorageReport, name: str) -> Section | None:
    """Tables 4, 5 and their like: a kind's topics, largest first."""
    rows = report.topics[report.topics["kind"] == SECTIONS[name].value]
    if not len(rows):
        return None
    shown = rows.head(_TOPICS)
    title = f"The largest {len(shown)} of {len(rows):,} {name} topics" if len(rows) > _TOPICS else f"All {name} topics"
    cells = [[row["csc"], row["topic"], *_figures(report, row)] for row in shown.to_dict("records")]
    columns = ["component", "topic", *_head(report)]
    return Section(f"topics-{name}", title, "", (), columns, cells, texts=("topic",))


def flows(report: StorageReport) -> Section | None:
    """The Sankey diagram: from components to their topics, by kind."""
    topics = report.topics[report.topics["size_mb"] > 0]
    if not len(topics):
        return None
    largest = topics.groupby("csc")["size_mb"].sum().sort_values(ascending=False, kind="stable")
    named = list(largest.index[:_FLOW_COMPONENTS])
    shown = set(topics.head(_FLOW_TOPICS)["topic"])
    sums: dict[tuple[str, str, int], float] = {}
    for row in topics.to_dict("records"):
        component = row["csc"] if row["csc"] in named else f"{len(largest) - len(named)} other components"
        topic = _bare(row["topic"]) if row["topic"] in shown else f"other topics of {component}"
        if component not in named:
            topic = "their topics"
        key = component, topic, KINDS.index(row["kind"])
        sums[key] = sums.get(key, 0.0) + row["size_mb"] * MB
    order = {name: n for n, name in enumerate(named)}
    ordered = sorted(sums.items(), key=lambda one: (order.get(one[0][0], len(order)), -one[1]))
    found = [(*key, size) for key, size in ordered]
    top, share = largest.index[0], 100 * largest.iloc[0] / largest.sum()
    title = f"Where the bytes come from: {share:.0f} % from {top}, {counted(len(topics), 'topic')} in all"
    return Section("flows", title, charts.sankey("flows", title, found, list(SECTIONS)), ("From component to topic.",))


def movers(report: StorageReport) -> Section | None:
    """What changed against the period before."""
    if not report.weeks:
        return None
    of = changes(report.gathered)
    moved = sorted([*of.movers, *of.new, *of.back, *of.vanished], key=lambda one: -abs(one.change_bytes))[:_MOVERS]
    moved = [one for one in moved if one.change_bytes]
    if not moved:
        return Section("movers", "Nothing changed against the period before") if len(report.topics) else None
    first = moved[0]
    title = f"{_bare(first.topic)} changed most against the period before: {_change_text(first)}"
    svg = charts.movers("movers", title, [(_bare(one.topic), one.change_bytes, _change_text(one)) for one in moved])
    cells = [
        [one.topic, bytes_text(one.before_bytes), bytes_text(one.after_bytes), _signed(one.change_bytes), _factor(one),
         f"{one.after_records - one.before_records:+,}"]
        for one in moved
    ]  # fmt: skip
    columns = ["topic", "before", "now", "change", "factor", "records"]
    return Section("movers", title, svg, (), columns, cells)


def came_and_went(report: StorageReport) -> Section | None:
    """New and vanished topics."""
    if not report.weeks:
        return None
    of = changes(report.gathered)
    groups = (("new", of.new), ("came back", of.back), ("vanished", of.vanished))
    if not len(report.topics) and not of.vanished:
        return None
    cells = [
        [
            what,
            one.topic,
            bytes_text(one.after_bytes or one.before_bytes),
            f"{one.after_records or one.before_records:,}",
        ]
        for what, found in groups
        for one in found
    ]
    counts = ", ".join(f"{len(found)} {what}" for what, found in groups)
    title = f"Topics against the period before: {counts}"
    columns = ["what", "topic", "bytes", "records"] if cells else []
    return Section("new", title, "", (), columns, cells, texts=("topic",))


def compression(report: StorageReport) -> Section | None:
    """What the archive's encoding achieves."""
    if report.measure is Measure.PUBLISHED or not report.total("parquet_mb") > 0:
        return None
    rows = report.components.groupby("csc")[["avro_mb", "parquet_mb", "tier_mb"]].sum().reset_index()
    rows = rows[(rows["parquet_mb"] > 0) & (rows["avro_mb"] > 0)].sort_values("avro_mb", ascending=False)
    if not len(rows):
        return None
    ratio = rows["avro_mb"].sum() / rows["parquet_mb"].sum()
    title = f"The archive keeps the records in {100 / ratio:.0f} % of their Avro bytes ({ratio:.2f} : 1)"
    cells = [
        [row["csc"], _mb(row["avro_mb"]), _mb(row["parquet_mb"]), f"{row['avro_mb'] / row['parquet_mb']:.2f} : 1"]
        for row in rows.to_dict("records")
    ]
    return Section("compression", title, "", (), ["component", "Avro", "Parquet", "Avro : Parquet"], cells)


def tier_costs(report: StorageReport) -> Section | None:
    """What the archive and each tier take, by component."""
    import polars as pl

    of = report.gathered.topics.filter((pl.col("store") == ARCHIVE) | pl.col("store").str.starts_with(TIER))
    stores = [store for store in (ARCHIVE, "tier_1s", "tier_1m", "tier_1h") if store in of["store"].to_list()]
    if len(stores) < 2:
        return None
    sums: dict[str, dict[str, int]] = {}
    for component, store, size in (
        of.group_by("component", "store").agg(pl.col("bytes").sum()).sort("store").iter_rows()
    ):
        sums.setdefault(component, {})[store] = size
    ordered = sorted(sums.items(), key=lambda one: (-sum(one[1].values()), one[0]))
    tiers = sum(size for of in sums.values() for store, size in of.items() if store != ARCHIVE)
    raw = sum(of.get(ARCHIVE, 0) for of in sums.values())
    title = f"Tiers take {bytes_text(tiers)} beside the archive's {bytes_text(raw)}"
    drawn = [
        charts.Bar(name, [of.get(store, 0) for store in stores], _tier_words(of, stores))
        for name, of in ordered[:_BARS]
    ]
    svg = charts.bars(
        "tiers", title, drawn, [store.replace("_", " ") for store in stores], "Parquet bytes of the period"
    )
    cells = [[name, *(bytes_text(of.get(store, 0)) for store in stores)] for name, of in ordered]
    return Section("tiers", title, svg, (), ["component", *stores], cells)


def _tier_words(of: Mapping[str, int], stores: Sequence[str]) -> str:
    raw, all_of = of.get(ARCHIVE, 0), sum(of.get(store, 0) for store in stores)
    more = f", tiers + {100 * (all_of - raw) / raw:.0f} %" if raw and all_of > raw else ""
    return f"{bytes_text(all_of)}{more}"


def stores(report: StorageReport) -> Section | None:
    """What each store holds, each in its own encoding: never to be added up."""
    import polars as pl

    if not report.weeks:
        return None
    of = report.gathered.totals.filter(pl.col("week").is_in([week.key for week in report.weeks]))
    figures = [pl.col("bytes", "records", "files").sum(), pl.col("how").unique().sort().str.join("; ")]
    rows = of.group_by("store").agg(figures).sort("bytes", descending=True).to_dicts()
    if not rows:
        return None
    drawn = [
        charts.Bar(_STORES.get(row["store"], row["store"]), [row["bytes"]], bytes_text(row["bytes"])) for row in rows
    ]
    tell = "store tells what it has" if len(rows) == 1 else "stores tell what they have"
    title = f"{len(rows)} {tell} of the period, each in its own encoding"
    svg = charts.bars("stores", title, drawn, ["bytes"], "bytes as the store has them")
    words = ["Sizes of different stores are not to be added up: they are copies, of other encodings."]
    cells = [
        [_STORES.get(row["store"], row["store"]), bytes_text(row["bytes"]), f"{row['records']:,}", row["how"]]
        for row in rows
    ]
    return Section(
        "stores", title, svg, words, ["store", "bytes", "records", "measured by"], cells, texts=("measured by",)
    )


_STORES = {
    RECEIVED: "received: Avro from Kafka",
    ARCHIVE: "archive: Parquet",
    "tier_1s": "tier of 1 s: Parquet",
    "tier_1m": "tier of 1 min: Parquet",
    "tier_1h": "tier of 1 h: Parquet",
    KAFKA: "Kafka, held when reported",
    INFLUXDB: "InfluxDB: shards of the period",
    INFLUXDB_TOPICS: "InfluxDB: measurements, of all time",
    POSTGRESQL: "PostgreSQL, held when reported",
}


def by_subsystem(report: StorageReport) -> Section | None:
    """Roll-up by subsystem and kind."""
    import polars as pl

    of = report.gathered.topics.filter((pl.col("store") == RECEIVED) & (pl.col("subsystem") != ""))
    if not of.height:
        return None
    wide: dict[str, dict[str, int]] = {}
    for subsystem, kind, size in of.group_by("subsystem", "kind").agg(pl.col("bytes").sum()).iter_rows():
        wide.setdefault(subsystem, {})[kind] = size
    ordered = sorted(wide.items(), key=lambda one: (-sum(one[1].values()), one[0]))
    total = sum(sum(of.values()) for of in wide.values())
    first, sizes = ordered[0]
    share = 100 * sum(sizes.values()) / total if total else 0.0
    title = f"The subsystem {first} takes {share:.0f} % of all that came"
    drawn = [
        charts.Bar(name, [of.get(kind, 0) for kind in KINDS], bytes_text(sum(of.values()))) for name, of in ordered
    ]
    svg = charts.bars("subsystems", title, drawn, list(SECTIONS), report.measure.value)
    cells = [[name, *(bytes_text(of.get(kind, 0)) for kind in KINDS)] for name, of in ordered]
    return Section("subsystems", title, svg, (), ["subsystem", *KINDS], cells)


def sections(report: StorageReport) -> list[Section]:
    """All sections that there is something to show in, in their order."""
    found = [
        weekly(report),
        stores(report),
        *(by_component(report, name) for name in SECTIONS),
        by_subsystem(report),
        flows(report),
        movers(report),
        came_and_went(report),
        *(report.details.sections() if report.details is not None else ()),
        tier_costs(report),
        compression(report),
        *(of_topics(report, name) for name in SECTIONS),
    ]
    return [section for section in found if section is not None]


def _all_weeks(keys: Sequence[str]) -> list[str]:
    """All weeks from the first to the last, those without data too: an axis of time has no holes."""
    from efd_pipelines.times import Week, weeks_between

    return [week.key for week in weeks_between(Week.parse(min(keys)), Week.parse(max(keys)))]


def _among(found: Sequence[Annotation], weeks: Sequence[str]) -> list[tuple[float, Annotation]]:
    """Annotations and their places on an axis of weeks."""
    from efd_pipelines.times import Week

    first, last = Week.parse(weeks[0]), Week.parse(weeks[-1])
    inside = [one for one in found if first.start <= one.at < last.end]
    return [((one.at - first.start).total_seconds() / (7 * 86400), one) for one in inside]


def _when(one: Annotation) -> str:
    from efd_pipelines.storage.render import LOCAL

    until = f" to {one.until:%Y-%m-%d %H:%M}" if one.until != one.at else ""
    return f"{one.at:%Y-%m-%d %H:%M}{until} UTC ({one.at.astimezone(LOCAL):%Y-%m-%d %H:%M} in Chile):"


def _head(report: StorageReport) -> list[str]:
    if report.measure is Measure.PUBLISHED:
        return ["size (MB)", "%"]
    return ["records", "Avro", "Parquet", "tiers", "%"]


def _figures(report: StorageReport, row: Mapping[Any, Any]) -> list[str]:
    if report.measure is Measure.PUBLISHED:
        return [f"{row['size_mb']:,.0f}", f"{row['percent']:.2f}"]
    sizes = [_mb(row[name]) for name in ("avro_mb", "parquet_mb", "tier_mb")]
    return [f"{row['messages']:,.0f}", *sizes, f"{row['percent']:.2f}" if row["percent"] == row["percent"] else "–"]


def _mb(size_mb: float) -> str:
    return bytes_text(size_mb * MB) if size_mb == size_mb else "–"


def _bare(topic: str) -> str:
    return topic.removeprefix("lsst.sal.")


def _signed(count: int) -> str:
    return f"{'+' if count >= 0 else '−'}{bytes_text(abs(count))}"


def _factor(one: Change) -> str:
    if not one.before_bytes:
        return "new"
    if not one.after_bytes:
        return "gone"
    return f"{100 * (one.factor - 1):+.3g} %" if 0.5 < one.factor < 2 else f"× {one.factor:.3g}"


def _change_text(one: Change) -> str:
    return f"{_signed(one.change_bytes)} ({_factor(one)})"
