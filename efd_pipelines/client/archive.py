"""Archive: what a notebook calls, with lsst-efd-client's names and arguments.

Nothing connects, and nothing heavy is imported, before something is asked. How it is answered: `reader.py`; the same
for `await`: `asynchronous.py`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from efd_pipelines.client.frames import rendezvous_dataframes, resample
from efd_pipelines.client.sizes import DEFAULT_LIMIT_BYTES, size_bytes
from efd_pipelines.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from efd_pipelines.client.answers import SqlAnswer
    from efd_pipelines.client.reader import Reader
    from efd_pipelines.client.selection import Selection
    from efd_pipelines.settings import Settings
    from efd_pipelines.sql import SqlSession

_RAW = "raw"


class EfdArchive:
    """The archive of a deployment, to be read.

    Args:
        archive: a directory or `s3://bucket/prefix`; by default what EFD_ARCHIVE says.
        settings: instead of the environment's.
        limit: how much memory an answer may take before it is refused, in bytes or as "4 GiB".

    Raises:
        SettingsError: a setting is missing or wrong.
    """

    def __init__(
        self,
        archive: str | None = None,
        *,
        settings: Settings | None = None,
        limit: int | str = DEFAULT_LIMIT_BYTES,
    ) -> None:
        from efd_pipelines.settings import load_settings

        overrides: dict[str, Any] = {} if archive is None else {"archive": archive}
        if settings is None:
            self.settings = load_settings(**overrides)
        else:
            self.settings = settings.model_copy(update=overrides)
        self._limit_bytes = size_bytes(limit)
        self._sessions = threading.local()

    @classmethod
    def from_name(
        cls, efd_name: str, *, archive: str | None = None, limit: int | str = DEFAULT_LIMIT_BYTES
    ) -> EfdArchive:
        """The archive of an instance by the name that it has in lsst-efd-client: `usdf_efd`, `summit_efd` …

        The rest is as the environment says; where EFD_PROFILE names another instance, `archive` must be given.

        Raises:
            UsageError: there is no such instance; a retired one answers with where to go.
        """
        import os

        from efd_pipelines.settings import load_settings, profile_of

        profile = profile_of(efd_name)
        here = os.environ.get("EFD_PROFILE")
        if archive is None and here and here != profile:
            raise UsageError(
                f"EFD_ARCHIVE is the archive of {here} here, not that of {efd_name}",
                remedy="Give `archive=`, or set EFD_PROFILE and EFD_ARCHIVE.",
            )
        overrides: dict[str, Any] = {"profile": profile} | ({} if archive is None else {"archive": archive})
        return cls(settings=load_settings(**overrides), limit=limit)

    @staticmethod
    def list_efd_names() -> list[str]:
        """The names that `from_name` takes."""
        from efd_pipelines.settings import EFD_NAMES

        return list(EFD_NAMES)

    @cached_property
    def _reader(self) -> Reader:
        from efd_pipelines.archive.archive import Archive
        from efd_pipelines.client.reader import Reader

        return Reader(Archive(self.settings), self._limit_bytes)

    def get_topics(self) -> list[str]:
        """The names of all topics that have been archived, sorted.

        Raises:
            NoArchive: there is no archive.
        """
        return self._reader.topics()

    def get_fields(self, topic_name: str) -> list[str]:
        """The names of a topic's fields, sorted, elements of arrays as `name0`, `name1` …

        Raises:
            UnknownTopic: it is not in the archive; with the nearest names.
        """
        return self._reader.fields(topic_name)

    def get_schema(self, topic: str) -> pd.DataFrame:
        """A row for each field of a topic: name, description, units, aunits (astropy's, where it knows them), is_array.

        Raises:
            UnknownTopic: it is not in the archive; with the nearest names.
        """
        from efd_pipelines.client.schemas import schema_frame

        dataset = self._reader.dataset(topic)
        return schema_frame(self._reader.archive, dataset, self._reader.snapshot(dataset))

    def select(
        self,
        topic_name: str,
        fields: str | bytes | Iterable[str] | None = "*",
        start: Any = None,
        end: Any = None,
        *,
        is_window: bool = False,
        index: int | None = None,
        use_old_csc_indexing: bool = False,
        day_obs: int | None = None,
        exposure: int | None = None,
        visit: int | None = None,
        event: Any = None,
        instrument: str | None = None,
        padding: Any = 0,
        resolution: str = _RAW,
        points: int = 20_000,
        statistics: Sequence[str] = ("min", "max", "mean"),
    ) -> Selection:
        """What a topic has of some fields in a stretch of time; nothing is read yet.

        Args:
            fields: names, globs, or "*".
            start, end: anything that says a time: astropy Time, datetime, numpy.datetime64, text (UTC). Both belong to
                it. `end` may be a duration; with `is_window` half of it lies on each side of `start`.
            index: the salIndex; None or 0 is all.
            day_obs, exposure, visit, event: instead of times: an observing day (20261121), a number in ConsDB of
                `instrument`, or anything with `begin` and `end`.
            padding: seconds or a duration to add on both sides, or two, before and after.
            resolution: "raw", a tier ("1s", "1m", "1h"), or "auto": the finest that has at most `points` rows.
            statistics: what of a tier's fields.

        Raises:
            UnknownTopic, UnknownField: with the nearest names.
            NotATime, EmptyWindow, UsageError: it cannot be meant.
            NoArchive, StoreUnavailable, InfluxUnavailable, DatabaseUnavailable: as named.
        """
        from efd_pipelines.client.fields import asked_fields
        from efd_pipelines.client.reader import Question
        from efd_pipelines.client.windows import Asked

        when = Asked(start, end, is_window, day_obs, exposure, visit, event, instrument, padding)
        question = Question(
            topic_name,
            asked_fields(fields),
            when.window(self.settings),
            _device(topic_name, index, use_old_csc_indexing),
            resolution,
            points,
            tuple(statistics),
        )
        return self._reader.select(question)

    def select_time_series(
        self,
        topic_name: str,
        fields: str | bytes | Iterable[str],
        start: Any = None,
        end: Any = None,
        is_window: bool = False,
        index: int | None = None,
        convert_influx_index: bool = False,
        use_old_csc_indexing: bool = False,
        *,
        limit: int | str | None = None,
        **when: Any,
    ) -> pd.DataFrame:
        """A frame of some fields, indexed by time (UTC). `when`: day_obs, padding, resolution … as `select` has them.

        With `convert_influx_index` the index is taken for TAI, as in instances of before 2021, and turned into UTC.
        `attrs` has the units, where the rows come from and what is missing.

        Raises:
            TooLarge: it takes more memory than the limit.
            As `select`.
        """
        from efd_pipelines.client.legacy import all_sorted, as_if_tai, tai_window

        if convert_influx_index:
            start, end, is_window = (*tai_window(start, end, is_window), False)
        selection = self.select(
            topic_name,
            all_sorted(self._reader, topic_name, fields, str(when.get("resolution", _RAW))),
            start,
            end,
            is_window=is_window,
            index=index,
            use_old_csc_indexing=use_old_csc_indexing,
            **when,
        )
        frame = selection.to_pandas(limit).rename_axis(index=None)
        return as_if_tai(frame) if convert_influx_index else frame

    def select_top_n(
        self,
        topic_name: str,
        fields: str | bytes | Iterable[str],
        num: int,
        time_cut: Any = None,
        index: int | None = None,
        convert_influx_index: bool = False,
        use_old_csc_indexing: bool = False,
    ) -> pd.DataFrame:
        """The most recent `num` rows, the latest first; those before `time_cut`, of the device `index`, where given.

        Raises:
            As `select`.
        """
        from efd_pipelines.client.legacy import as_if_tai, top

        device = _device(topic_name, index, use_old_csc_indexing)
        frame = top(self._reader, topic_name, fields, num, time_cut, device, is_tai=convert_influx_index)
        return as_if_tai(frame) if convert_influx_index else frame

    def most_recent_before(
        self,
        topic_name: str,
        when: Any,
        fields: str | bytes | Iterable[str] = "*",
        index: int | None = None,
        *,
        stale_after: Any = 12 * 3600,
    ) -> pd.DataFrame:
        """The last row before a time, however long ago; no row where there is none.

        Args:
            stale_after: warn where it is older than this (seconds or a duration); None never.

        Raises:
            As `select`.
        """
        from efd_pipelines.client.legacy import top
        from efd_pipelines.client.moments import duration_us, time_us

        frame = top(self._reader, topic_name, fields, 1, when, _device(topic_name, index, False), is_tai=False)
        if len(frame) and stale_after is not None:
            age_us = time_us(when) - time_us(frame.index[0])
            if age_us > duration_us(stale_after):
                text = f"The last row of {topic_name} is {age_us / 3.6e9:.1f} h older than {when}"
                warnings.warn(text, stacklevel=2)
        return frame

    def select_packed_time_series(
        self,
        topic_name: str,
        base_fields: str | bytes | Iterable[str],
        start: Any = None,
        end: Any = None,
        is_window: bool = False,
        index: int | None = None,
        ref_timestamp_col: str = "cRIO_timestamp",
        ref_timestamp_fmt: str = "unix_tai",
        ref_timestamp_scale: str = "tai",
        convert_influx_index: bool = False,
        use_old_csc_indexing: bool = False,
        *,
        limit: int | str | None = None,
        **when: Any,
    ) -> pd.DataFrame:
        """Arrays whose elements were measured one after the other, a row for each element, indexed by when that was.

        Columns are the fields and `times`, in the scale of `ref_timestamp_col`. A single record is spread over the
        time that the topic's declared rate makes it.

        Raises:
            UsageError: a field is no array, or they are not equally long.
            As `select_time_series`.
        """
        from efd_pipelines.client.legacy import declared_interval_s, packed_names, unpacked

        names = packed_names(self._reader, topic_name, base_fields)
        columns = [field for of in names.values() for field in of]
        devices = ["salIndex"] if "salIndex" in self._reader.fields(topic_name) else []
        rows = self.select_time_series(
            topic_name,
            [*columns, ref_timestamp_col, *devices],
            start,
            end,
            is_window,
            index,
            convert_influx_index,
            use_old_csc_indexing,
            limit=limit,
            **when,
        )
        interval_s = declared_interval_s(self._reader, topic_name, len(columns) // len(names))
        return unpacked(rows, list(names), ref_timestamp_col, ref_timestamp_fmt, ref_timestamp_scale, interval_s)

    def sql(self, statement: str, *, limit: int | str | None = None) -> SqlAnswer:
        """The answer of DuckDB to a question over datasets, tiers, the ledger and ConsDB (docs/sql.md).

        Raises:
            UsageError: it is no SQL, no question, or names what there is not.
            DataError, StoreUnavailable, DatabaseUnavailable: as named.
        """
        from efd_pipelines.client.answers import SqlAnswer

        return SqlAnswer(self._session.ask(statement), self._limit_bytes if limit is None else size_bytes(limit))

    @property
    def _session(self) -> SqlSession:
        """DuckDB's session of this thread."""
        from efd_pipelines.sql import SqlSession

        if not hasattr(self._sessions, "one"):
            self._sessions.one = SqlSession(self._reader.archive)
        found: SqlSession = self._sessions.one
        return found

    @staticmethod
    def merge_packed_time_series(packed_dataframe: pd.DataFrame, base_field: str, **options: Any) -> pd.DataFrame:
        """As the function of this name."""
        from efd_pipelines.client.packed import merge_packed_time_series

        return merge_packed_time_series(packed_dataframe, base_field, **options)

    resample = staticmethod(resample)
    rendezvous_dataframes = staticmethod(rendezvous_dataframes)


def _device(topic_name: str, index: int | None, use_old_csc_indexing: bool) -> tuple[str, int] | None:
    """The column that tells devices apart, and the number; before SAL 7 it was called after the component."""
    if not index:
        return None
    name = f"{topic_name.split('.')[-2]}ID" if use_old_csc_indexing else "salIndex"
    return name, int(index)
