"""Builders for the exposure joins: an archive with samples, exposures in ConsDB, configurations as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from pydantic import SecretStr

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import RAW, relative_of, rows_of
from efd_pipelines.archive.slices import Slice, SliceUnit
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.configuration import Configuration, ExposureJoin
from efd_pipelines.exposures.consdb import naive_tai, write_exposures
from efd_pipelines.exposures.joins import JoinResult, join_exposures
from efd_pipelines.settings import Settings
from efd_pipelines.times import microseconds
from efd_pipelines.topics.layout import Column, arrow_field
from efd_pipelines.topics.names import Dataset

AZIMUTH = "lsst.sal.MTMount.azimuth"
TEMPERATURE = "lsst.sal.ESS.temperature"
LATER = datetime(2030, 1, 1, tzinfo=UTC)
"""A "now" at which every exposure of the tests is long over."""

NIGHT = datetime(2026, 11, 17, 2, tzinfo=UTC)
"""When most of the tests' exposures begin."""

_TYPES: Mapping[str, Any] = {"f": pa.float32(), "d": pa.float64(), "i": pa.int32(), "U": pa.string(), "b": pa.bool_()}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(start: datetime, count: int, step_s: float) -> np.ndarray[Any, Any]:
    """UTC microseconds of samples at a steady rate."""
    return microseconds(start) + np.round(np.arange(count) * step_s * 1e6).astype(np.int64)


def azimuth(count: int, start: datetime = NIGHT) -> pa.Table:
    """A row a second, in which the azimuth is 0, 1, 2, …."""
    return table_of(times(start, count, 1.0), {"actualPosition": np.arange(count, dtype=np.float64)})


def array_column(name: str, element: int | None, type_: pa.DataType) -> pa.Field[Any]:
    column = name if element is None else f"{name}{element}"
    units = "second" if "timestamp" in name or name == "interval" else "deg"
    return arrow_field(Column(column, name, element, type_, units, f"{name} of the test"))


def table_of(time_us: np.ndarray[Any, Any], fields: Mapping[str, Any]) -> pa.Table:
    """Rows as the archive has them. Fields: arrays of (rows,) or (rows, elements), or pyarrow arrays."""
    count = len(time_us)
    columns: list[tuple[pa.Field[Any], Any]] = [
        (pa.field("time", pa.timestamp("us", tz="UTC")), pa.array(time_us, pa.timestamp("us", tz="UTC")))
    ]
    private = {
        "private_sndStamp": time_us / 1e6 + 37.0,
        "private_seqNum": np.arange(count, dtype=np.int32),
        "private_origin": np.full(count, 7, dtype=np.int32),
    }
    for name, values in {**private, **fields}.items():
        columns += _columns_of(name, values)
    return pa.Table.from_arrays([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))


def _columns_of(name: str, values: Any) -> list[tuple[pa.Field[Any], Any]]:
    if isinstance(values, pa.Array):
        return [(array_column(name, None, values.type), values)]
    kind = _TYPES["d" if values.dtype == np.float64 else values.dtype.kind]
    if values.ndim == 1:
        return [(array_column(name, None, kind), pa.array(values.tolist(), kind))]
    return [(array_column(name, n, kind), pa.array(values[:, n], kind)) for n in range(values.shape[1])]


@dataclass
class Observatory:
    """An archive on a local directory, a ConsDB, and the joins of one instrument."""

    settings: Settings
    archive: Archive
    join: ExposureJoin
    _dead: list[object] = field(default_factory=list)

    @classmethod
    def at(cls, directory: Path, consdb_url: str | None = None, **join: Any) -> Observatory:
        settings = Settings(
            archive=str(directory / "archive"),
            consdb_url=SecretStr(consdb_url or f"sqlite:///{directory / 'consdb.sqlite'}"),
            configuration=Configuration(),
        )
        return cls(settings, Archive(settings), ExposureJoin(instrument="lsstcam", **join))

    @property
    def consdb_url(self) -> str:
        return self.settings.require_consdb()

    def archives(self, topic: str, table: pa.Table, *, kind: str = "drain", ledger: bool = True) -> int:
        """Commits rows to a dataset's archive in slices of an hour, as a drain does; the version."""
        dataset = Dataset.parse(topic)
        relative = relative_of(RAW, dataset)
        time_us = table["time"].cast(pa.int64()).to_numpy()
        slices = sorted({Slice.containing(int(one), SliceUnit.HOUR) for one in time_us})
        files = [
            write_data_file(
                self.archive.store,
                relative,
                one.week.key,
                one.key,
                table.filter(pa.array((time_us >= one.start_us) & (time_us < one.end_us))),
            )
            for one in slices
        ]
        made = commit(
            self.archive.store,
            relative,
            open_table(self.archive.store, relative),
            add=files,
            transactions={},
            schema=table.schema,
            note={"kind": kind},
        )
        if ledger:
            self.archive.ledger.append(rows_of(RAW, dataset, made))
        return made.version

    def archives_and_dies(self, topic: str, table: pa.Table) -> None:
        """Commits rows and is killed before the ledger knows, as an announced run may be."""
        dataset = Dataset.parse(topic)
        announced = self.archive.ledger.announced("killed", [(RAW, dataset)])
        announced.__enter__()
        self.archives(topic, table, ledger=False)
        self._dead.append(announced)

    def configures(self, *columns: str, version: str = "1.0.0") -> None:
        """Replaces the configuration of the join."""
        a_configuration(Path(self.join.config).parent, columns, version)

    def exposes(self, *exposures: Mapping[str, Any]) -> None:
        write_exposures(self.consdb_url, "cdb_lsstcam", exposures)

    def joins(self, **options: Any) -> JoinResult:
        return join_exposures(self.archive, self.settings, self.join, **{"now": LATER, **options})

    def rows(self, table: str = "exposure_efd", schema: str = "efd_lsstcam") -> list[dict[str, Any]]:
        """All rows of a table, by a connection of the test's own."""
        engine = sa.create_engine(self.consdb_url)
        name = f"{schema}_{table}" if engine.dialect.name == "sqlite" else f"{schema}.{table}"
        try:
            with engine.connect() as connection:
                found = connection.execute(sa.text(f"SELECT * FROM {name} ORDER BY 1, 2, 3, 4, 5"))
                return [dict(row) for row in found.mappings()]
        finally:
            engine.dispose()

    def value(self, column: str = "value") -> Any:
        """The value of a column of the only exposure."""
        (row,) = self.rows()
        return row[column]


Build = Callable[..., Observatory]
"""Makes an observatory whose join has these columns (YAML texts)."""


def an_exposure(
    start: datetime, seconds: float | None = 30.0, *, day_obs: int = 20261115, seq_num: int = 1, **more: Any
) -> dict[str, Any]:
    """A row of the exposure table whose window begins at `start` UTC; None: it has not ended."""
    end = None if seconds is None else naive_tai(start + timedelta(seconds=seconds))
    exposure_id = day_obs * 100_000 + seq_num
    return {
        "day_obs": day_obs,
        "seq_num": seq_num,
        "exposure_id": exposure_id,
        "exposure_name": f"MC_O_{day_obs}_{seq_num:06d}",
        "obs_start": naive_tai(start),
        "obs_end": end,
        **more,
    }


def a_column(name: str = "value", function: str = "mean", **more: Any) -> str:
    """A column of a configuration as YAML text; topic, fields and any key may be given."""
    topic, fields = more.pop("topic", AZIMUTH), more.pop("fields", ["actualPosition"])
    extra = "".join(f"  {key}: {value}\n" for key, value in more.items())
    return (
        f"- name: {name}\n  tables: [exposure_efd]\n  function: {function}\n  datatype: float\n"
        f'  ivoa: {{"unit": "deg", "ucd": "meta"}}\n  description: A column of a test.\n  packed_series: False\n{extra}'
        f"  topics:\n  - name: {topic}\n    fields:\n" + "".join(f"    - name: {field}\n" for field in fields)
    )


def a_configuration(directory: Path, columns: Sequence[str] | str, version: str = "1.0.0") -> str:
    """A configuration file with these columns; its path."""
    parts = [columns] if isinstance(columns, str) else columns
    path = directory / "config_lsstcam.yaml"
    path.write_text(f"version: {version}\ncolumns:\n" + "".join(parts))
    return str(path)
