"""The battery: calls of lsst-efd-client, made by that client itself against a real InfluxDB.

Runs in an environment of its own, where lsst-efd-client 0.13.1 is installed, and knows nothing of this project:

    python efd_client_battery.py PORT DATABASE < calls.json > answers.json

A call is {"name": …, "method": …, "args": {…}}; arguments that are {"time": …, "scale": …} or {"seconds": …} become
astropy's, here as for our own client (`test_client_and_influx.py`). A frame is given as columns, index in nanoseconds
(UTC), and values by column.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


def as_argument(value: Any) -> Any:
    from astropy.time import Time, TimeDelta

    if isinstance(value, dict) and "time" in value:
        return Time(value["time"], format="isot", scale=value["scale"])
    if isinstance(value, dict) and "seconds" in value:
        return TimeDelta(value["seconds"], format="sec")
    return value


def as_answer(found: Any) -> Any:
    import pandas as pd

    if not isinstance(found, pd.DataFrame):
        return found
    index: Any = found.index
    if len(found) and index.tz is None:
        index = index.tz_localize("UTC")
    nanoseconds = [int(one.value) for one in index] if len(found) else []
    columns = {
        str(name): [None if value is None or value != value else value for value in found[name].tolist()]
        for name in found
    }
    return {"index": nanoseconds, "columns": columns}


async def main(port: int, database: str, calls: list[dict[str, Any]]) -> list[Any]:
    import aioinflux  # type: ignore[import-not-found]
    from lsst_efd_client import EfdClient  # type: ignore[import-not-found]

    client = object.__new__(EfdClient)  # its constructor asks a web service for passwords
    client.db_name, client.query_history = database, []
    answers = []
    async with aioinflux.InfluxDBClient(
        host="127.0.0.1", port=port, db=database, mode="async", output="dataframe"
    ) as influx:
        client.influx_client = influx
        for call in calls:
            arguments = {name: as_argument(value) for name, value in call["args"].items()}
            answers.append(as_answer(await getattr(client, call["method"])(**arguments)))
    return answers


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1]), sys.argv[2], json.load(sys.stdin)))))
