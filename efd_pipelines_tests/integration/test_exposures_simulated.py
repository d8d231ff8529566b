"""From producers through Kafka and the archive into PostgreSQL: each column of the demonstration, computed once more.

The same of both cameras' own configurations: `test_exposures_night.py`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from pydantic import SecretStr

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.exposures.consdb import naive_tai
from efd_pipelines.exposures.joins import join_exposures
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.observatory import Observatory as Observed
from efd_pipelines.simulator.observatory import run_observatory
from efd_pipelines.times import this_week

DEMO = "configurations/demo_lsstcam.yaml"


@pytest.mark.timeout(600)
def test_a_simulated_night_agrees_with_the_messages_themselves(local_settings: Settings, database_url: str) -> None:
    """From producers through Kafka and the archive into PostgreSQL, across a Monday, each column of the demo."""
    settings = local_settings.model_copy(update={"consdb_url": SecretStr(database_url)})
    columns = yaml.safe_load(resources.files("efd_pipelines.exposures").joinpath(DEMO).read_text())["columns"]
    topics = {column["topics"][0]["name"] for column in columns} | {"lsst.sal.MTCamera.logevent_endReadout"}
    wanted = frozenset(topic.removeprefix("lsst.sal.") for topic in topics)
    start = this_week().start - timedelta(seconds=120)
    produced = run_observatory(settings, 4, 300, start=start, exposures=True, rate=0.1, topics=wanted)
    assert drain(Archive(settings), settings).rows == produced.records
    join = settings.configuration.exposures[0]
    result = join_exposures(Archive(settings), settings, join, now=this_week().start + timedelta(hours=1))
    assert (result.exposures, result.columns, result.skipped) == (produced.exposures, len(columns), {})
    assert result.exposures >= 5
    messages = _messages(Observed(4, 0.1, wanted), start, 300)
    engine = sa.create_engine(database_url)
    frame = pd.read_sql("SELECT * FROM cdb_lsstcam.exposure JOIN efd_lsstcam.exposure_efd USING (exposure_id)", engine)
    engine.dispose()
    assert (frame["obs_start"] < naive_tai(this_week().start)).any()
    assert (frame["obs_end"] > naive_tai(this_week().start)).any()
    for _, row in frame.iterrows():
        for column in columns:
            expected = _by_brute_force(column, messages, row["obs_start"], row["obs_end"])
            assert row[column["name"]] == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), column["name"]
    assert frame[[column["name"] for column in columns]].notna().mean().min() > 0.5


def _messages(observed: Observed, start: datetime, seconds: float) -> dict[str, pd.DataFrame]:
    """Every value that the simulated observatory sent, by topic: one row a record, its event time as index."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for block in observed.blocks(start, seconds):
        for series in block:
            narrow = {field.name for field in series.topic.fields if field.sal_type == "float"}
            flat: dict[str, Any] = {}
            for name, values in series.columns.items():
                sent = np.asarray(values, dtype=np.float32) if name in narrow else values
                many = np.ndim(sent) == 2
                flat |= {f"{name}{n}": part for n, part in enumerate(np.asarray(sent).T)} if many else {name: sent}
            frame = pd.DataFrame(flat, index=pd.to_datetime(series.times_us, unit="us"))
            parts.setdefault(series.topic.name, []).append(frame)
    return {topic: pd.concat(frames).sort_index(kind="stable") for topic, frames in parts.items()}


def _by_brute_force(column: dict[str, Any], messages: dict[str, pd.DataFrame], start: datetime, end: datetime) -> float:
    leap = pd.Timedelta(seconds=37)
    begin = pd.Timestamp(start) - leap + pd.Timedelta(hours=column.get("start_offset", 0))
    (topic,) = column["topics"]
    if topic["name"] not in messages:
        return float("nan")
    inside = messages[topic["name"]].loc[begin : pd.Timestamp(end) - leap]
    if "subset_field" in column:
        wanted = column["subset_value"] if isinstance(column["subset_value"], list) else [column["subset_value"]]
        inside = inside[inside[column["subset_field"]].isin(wanted)]
    names = [field["name"] for field in topic["fields"] if field["name"] != column.get("subset_field")]
    if names[0] not in inside:
        names = [name for name in inside if str(name).rstrip("0123456789") == names[0]]
    chosen = inside[names].astype(np.float64)
    if "pre_aggregate_interval" in column:
        chosen = getattr(chosen.resample(column["pre_aggregate_interval"]), _reduced_by(column["function"]))().dropna()
    return _reduce(column["function"], chosen, column.get("function_args", {}))


def _reduced_by(function: str) -> str:
    return function if function in ("min", "max") else "mean"


def _reduce(function: str, chosen: pd.DataFrame, arguments: dict[str, Any]) -> float:
    values = pd.Series(chosen.to_numpy().ravel()).dropna()
    if values.empty:
        return float("nan")
    if function == "most_recent_value":
        return float(values.to_list()[-1])
    if function == "rms_from_polynomial_fit":
        seconds = (chosen.index - chosen.index[0]).total_seconds().to_numpy()
        fit = np.polynomial.Chebyshev.fit(seconds, chosen.iloc[:, 0].to_numpy(), arguments["degree"])
        return float(np.sqrt(np.mean((chosen.iloc[:, 0].to_numpy() - fit(seconds)) ** 2)))
    return float(values.std(ddof=1) if function == "stddev" else getattr(values, function)())
