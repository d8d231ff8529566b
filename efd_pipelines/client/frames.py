"""Frames: answers as pandas frames, and lsst-efd-client's functions on frames.

Nothing here knows an archive.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A table with `time` as a frame that is indexed by it, in UTC and nanoseconds as lsst-efd-client's.

    `attrs` has the columns' `units` and the table's `efd`. A null is NaN in numbers, None in texts.
    """
    units = {one.name: (one.metadata or {}).get(b"units", b"").decode() for one in table.schema}
    frame: pd.DataFrame = table.to_pandas(split_blocks=True).set_index("time")
    index: Any = frame.index
    frame.index = index.as_unit("ns")
    frame.attrs["units"] = {name: text for name, text in units.items() if text}
    about = (table.schema.metadata or {}).get(b"efd")
    if about:
        frame.attrs["efd"] = json.loads(about)
    return frame


def resample(df1: pd.DataFrame, df2: pd.DataFrame, interp_type: str = "time") -> pd.DataFrame:
    """Both frames' columns at the times of both, with what lies between interpolated by `interp_type`.

    As lsst-efd-client's, which passes over `interp_type` and takes all steps to be equally long. Texts and booleans
    cannot be interpolated and stay as they are.
    """
    import pandas as pd

    frame = pd.concat([df1, df2], axis=1, sort=False).sort_index()
    numbers = frame.select_dtypes("number").columns
    method: Any = interp_type
    frame[numbers] = frame[numbers].interpolate(method=method)
    return frame


def rendezvous_dataframes(
    left: pd.DataFrame,
    right: pd.DataFrame,
    direction: Literal["backward", "forward", "nearest"] = "backward",
    tolerance: pd.Timedelta | None = None,
    **kwargs: Any,
) -> pd.DataFrame:
    """Each row of `left` with the row of `right` that is nearest in time in a direction, within 20 days by default.

    As lsst-efd-client's; `kwargs` go to `pandas.merge_asof`.
    """
    import pandas as pd

    return pd.merge_asof(
        left,
        right,
        left_index=True,
        right_index=True,
        tolerance=pd.Timedelta(days=20) if tolerance is None else tolerance,
        direction=direction,
        **kwargs,
    )
