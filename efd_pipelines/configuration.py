"""Configuration: everything with structure, from one YAML file (`EFD_CONFIG`), validated, errors naming the line.

Freshness classes, drain groups, slices, rates, subsystems, time fields, value formats, retention, tiers, publishing
and exposure configurations.
Scalar settings and secrets are environment variables: `settings.py`. The shipped default is `default.yaml` beside
this module; a file of one's own replaces the top-level sections that it has and inherits the others.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from efd_pipelines.errors import SettingsError
from efd_pipelines.topics.names import Dataset, Kind, match

DEFAULT_FILE = Path(__file__).with_name("default.yaml")
# The same in C, ten times as fast: every process begins with reading the configuration.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OTHER_SUBSYSTEM = "other"

INSTRUMENT = r"^[a-z][a-z0-9]{0,30}$"
CAMERAS = {"lsstcam": "MTCamera", "lsstcomcam": "CCCamera", "latiss": "ATCamera"}
"""The camera component of each of the observatory's instruments."""

SliceUnitName = Literal["hour", "day", "week"]


class ConfigurationError(SettingsError):
    """The configuration file is wrong."""

    remedy = "Mend the file that EFD_CONFIG names; `efd config check` validates it."


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TopicSelection(_Section):
    """Which datasets are archived: globs over their names."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def covers(self, dataset: Dataset) -> bool:
        return match(self.include, dataset.text) and not match(self.exclude, dataset.text)


class FieldSelection(_Section):
    """Which columns are published: globs over their names."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def covers(self, name: str) -> bool:
        return match(self.include, name) and not match(self.exclude, name)


class Freshness(_Section):
    """How soon a record is archived: the `fast` class is for what exposure joins and alerts read."""

    fast: tuple[str, ...] = ()
    fast_interval_s: PositiveFloat = 120.0
    normal_interval_s: PositiveFloat = 3600.0
    backlog_bytes: PositiveInt = 32 * 1024 * 1024

    def class_of(self, dataset: Dataset) -> Literal["fast", "normal"]:
        return "fast" if match(self.fast, dataset.text) else "normal"

    def interval_s(self, dataset: Dataset) -> float:
        return self.fast_interval_s if self.class_of(dataset) == "fast" else self.normal_interval_s


class KafkaReading(_Section):
    """Bounds of a drain. `byte_budget` is what its records may take in memory, as they came from Kafka."""

    byte_budget: PositiveInt = 80 * 1024 * 1024
    stall_s: PositiveFloat = 30.0
    timeout_s: PositiveFloat = 20.0

    @property
    def chunk_bytes(self) -> int:
        """What collects before it is archived: a quarter, since two chunks are decoded and encoded at a time by two
        processors, one is written, and one is ready to go on with."""
        return max(1, self.byte_budget // 4)


class Sealing(_Section):
    """When slices and weeks are taken to be over, and how long replaced files stay for those who read them."""

    slice_grace_h: float = Field(default=2.0, ge=0.0)
    after_h: float = Field(default=24.0, ge=0.0)
    replaced_days: float = Field(default=7.0, ge=7.0)


class Retention(_Section):
    """How long what is kept: the name of a shipped policy (usdf, summit, week-month-year), or a file of one's own."""

    policy: str = Field(default="usdf", min_length=1)


class Tiers(_Section):
    """What tiers have. `quartiles` are globs of datasets that get `q1_` and `q3_` too, when a tier is first built."""

    quartiles: tuple[str, ...] = ()

    def has_quartiles(self, dataset: Dataset) -> bool:
        return match(self.quartiles, dataset.text)


class InfluxPolicy(_Section):
    """What is published into which database of InfluxDB, and for how long it stays there.

    `topics` and `fields` are globs over names of datasets and of columns. `database` may have {subsystem}, {component}
    and {year}; with `retention_policy` it is the bucket `<database>/<retention policy>` of a 2.x. `retention_days` null
    keeps for ever. `slow_telemetry` publishes what is too slow for the tier as it was sent.
    """

    topics: TopicSelection = TopicSelection()
    kinds: tuple[Kind, ...] = (Kind.TELEMETRY,)
    fields: FieldSelection = FieldSelection(exclude=("window_size", "first_private_*"))
    database: str = "efd_{subsystem}_{year}"
    retention_policy: str = Field(default="autogen", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    retention_days: float | None = Field(default=90.0, ge=1.0)
    slow_telemetry: bool = True

    @field_validator("database")
    @classmethod
    def _is_a_template(cls, database: str) -> str:
        try:
            name = database.format(subsystem="x", component="x", year=2026)
        except (KeyError, IndexError, ValueError):
            name = ""
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
            raise ValueError("must be a name of letters, digits, `_`, `.`, `-` and {subsystem}, {component}, {year}")
        return database


class ConsdbTable(_Section):
    """Which columns of the 1 s tier of which datasets are in ConsDB: globs over names."""

    topic: str = Field(min_length=1)
    columns: tuple[str, ...] = Field(min_length=1)


class ConsdbPolicy(_Section):
    """What of the 1 s tier is written into ConsDB, in tables of `schema_name`; nothing by default.

    A week goes `retention_days` after its end; null keeps for ever.
    """

    schema_name: str = Field(default="efd_1s", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    retention_days: float | None = Field(default=None, ge=1.0)
    tables: tuple[ConsdbTable, ...] = ()


class AggregatedPolicy(_Section):
    """Which datasets' 1 s tier goes back into Kafka, as `<topic>-aggregated`, of how many days; none by default."""

    topics: tuple[str, ...] = ()
    days: float = Field(default=1.0, gt=0.0, le=7.0)

    def covers(self, dataset: Dataset) -> bool:
        return match(self.topics, dataset.text)


class Publishing(_Section):
    """What is published, where EFD_INFLUX_URL is set; each into databases of its own."""

    compression: Literal["auto", "always", "never"] = "auto"
    influx_1s: InfluxPolicy = InfluxPolicy()
    influx_1m: InfluxPolicy = InfluxPolicy(database="efd_1m_{subsystem}_{year}", retention_days=365.0)
    influx_events: InfluxPolicy = InfluxPolicy(
        kinds=(Kind.EVENT, Kind.COMMAND, Kind.ACK), database="efd_events_{subsystem}_{year}", retention_days=365.0
    )
    consdb_1s: ConsdbPolicy = ConsdbPolicy()
    aggregated: AggregatedPolicy = AggregatedPolicy()

    @model_validator(mode="after")
    def _databases_are_distinct(self) -> Self:
        databases = [self.influx_1s.database, self.influx_1m.database, self.influx_events.database]
        if len(set(databases)) < len(databases):
            # DELETE of 1.x takes points of all retention policies of a database.
            raise ValueError("influx_1s, influx_1m and influx_events must have different databases")
        return self


class GrowthPeriod(_Section):
    """From a year on, how much arrives: a measured week, and by how much more or less than it is expected."""

    from_year: int = Field(ge=2021, le=2200)
    gb_per_week: float = Field(ge=0.0)
    factor: float = Field(default=1.0, ge=0.0)
    why: str = ""


class Capacity(_Section):
    """What a store can hold. `capacity_tb` null: not known. `copies`: how many it keeps of each byte."""

    capacity_tb: PositiveFloat | None = None
    copies: PositiveInt = 1


class Growth(_Section):
    """The assumptions of the table of growth (seed 001's table 3), each by its name; TB are 10¹² bytes."""

    base_year: int = Field(default=2023, ge=2021, le=2200)
    last_year: int = Field(default=2035, ge=2021, le=2200)
    stored_tb: float = Field(default=0.0, ge=0.0)
    margin_tb: float = Field(default=0.0, ge=0.0)
    replication_factor: PositiveInt = 1
    data_nodes: PositiveInt = 1
    disk_tb: PositiveFloat = 30.0
    duty_cycle: float = Field(default=1.0, ge=0.0, le=1.0)
    weeks_per_year: PositiveFloat = 52.0
    round_up_tb: float = Field(default=0.0, ge=0.0)
    periods: tuple[GrowthPeriod, ...] = ()
    published_mb: dict[Literal["telemetry", "event"], dict[str, float]] = {}
    split_below_tb: PositiveFloat = 30.0
    warn_months: PositiveFloat = 6.0
    stores: dict[str, Capacity] = {}

    @model_validator(mode="after")
    def _years_rise(self) -> Self:
        if self.last_year < self.base_year:
            raise ValueError("last_year is before base_year")
        years = [period.from_year for period in self.periods]
        if years != sorted(set(years)):
            raise ValueError("the periods' from_year must rise")
        return self


class ExposureJoin(_Section):
    """One instrument whose exposures telemetry is joined to."""

    instrument: str = Field(pattern=INSTRUMENT)
    config: str = "builtin:demo"
    padding_s: float = Field(default=0.0, ge=0.0)
    camera: str = ""

    @property
    def end_readout(self) -> str | None:
        """The topic whose event says that an exposure has been read out; None where the camera is not known."""
        camera = self.camera or CAMERAS.get(self.instrument)
        return f"lsst.sal.{camera}.logevent_endReadout" if camera else None

    @property
    def exposure_schema(self) -> str:
        return f"cdb_{self.instrument}"

    @property
    def result_schema(self) -> str:
        return f"efd_{self.instrument}"


class ExportRequest(_Section):
    """An export that is made again and again, of the last whole period before its time.

    `out` has {period} and may have {name}; `schedule` is a cron line in UTC, null for none. See docs/exports.md.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    topics: tuple[str, ...] = Field(min_length=1)
    fields: tuple[str, ...] = ()
    tier: Literal["raw", "1s", "1m", "1h"] = "raw"
    resample: str | None = None
    arrays: Literal["archived", "flat", "list"] = "archived"
    time_scale: Literal["utc", "tai", "both"] = "utc"
    exposures: str | None = None
    visits: str | None = None
    padding_s: float = Field(default=0.0, ge=0.0)
    period: Literal["day_obs", "day", "week", "month"] = "day_obs"
    out: str
    schedule: str | None = "0 15 * * *"
    keep_days: PositiveFloat | None = None
    limit_gb: PositiveFloat | None = 100.0

    @field_validator("out")
    @classmethod
    def _is_a_place(cls, out: str) -> str:
        try:
            place = out.format(name="x", period="x")
        except (KeyError, IndexError, ValueError):
            place = ""
        if "{period}" not in out.rpartition("/")[2] or not place.startswith(("/", "s3://", "./")):
            raise ValueError("must be a directory (/… or ./…) or s3://…, with {period} in its last part")
        return out

    @field_validator("schedule")
    @classmethod
    def _is_a_cron_line(cls, schedule: str | None) -> str | None:
        if schedule is not None and not re.fullmatch(r"(\S*[0-9A-Za-z*]\S*)( \S*[0-9A-Za-z*]\S*){4}", schedule):
            raise ValueError("must be a cron line of five fields, as `0 15 * * *`")
        return schedule

    def place(self, period: str) -> str:
        """Where the export of a period goes."""
        return self.out.format(name=self.name, period=period)

    @property
    def parent(self) -> str:
        """The directory or prefix in which all of them lie."""
        return self.place("x").rpartition("/")[0]


class Reports(_Section):
    """What the storage report draws and asks beside the archive.

    `annotations`: a YAML file of what happened, relative to this one; `influx_report`: a file that `influx_inspect
    report-disk -detailed` wrote; `limits_mb_s`: rates, by name, that the hourly rates are shown against.
    """

    annotations: str | None = None
    influx_report: str | None = None
    limits_mb_s: dict[str, PositiveFloat] = {}


class Configuration(_Section):
    """What one deployment does with which topics. Globs are case-sensitive; the first match decides."""

    topics: TopicSelection = TopicSelection()
    subsystems: dict[str, tuple[str, ...]] = {}
    drain_groups: dict[str, tuple[str, ...]] = {"all": ("*",)}
    freshness: Freshness = Freshness()
    rates_hz: dict[str, PositiveFloat] = {}
    slices: dict[str, SliceUnitName] = {}
    time_fields: dict[str, str] = {}
    value_formats: dict[str, Literal["avro", "json"]] = {}
    kafka: KafkaReading = KafkaReading()
    sealing: Sealing = Sealing()
    retention: Retention = Retention()
    tiers: Tiers = Tiers()
    publishing: Publishing = Publishing()
    growth: Growth = Growth()
    reports: Reports = Reports()
    exposures: tuple[ExposureJoin, ...] = ()
    exposures_from: str | None = None
    exports: tuple[ExportRequest, ...] = ()

    @model_validator(mode="after")
    def _exports_are_distinct(self) -> Self:
        names = [export.name for export in self.exports]
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice in `exports`")
        return self

    @model_validator(mode="after")
    def _instruments_are_distinct(self) -> Self:
        names = [join.instrument for join in self.exposures]
        if len(set(names)) < len(names):
            raise ValueError("an instrument stands twice in `exposures`")
        return self

    def subsystem_of(self, component: str) -> str:
        bare = component.rpartition("@")[2]
        return _first(self.subsystems, bare) or OTHER_SUBSYSTEM

    def drain_group_of(self, component: str) -> str:
        return _first(self.drain_groups, self.subsystem_of(component)) or next(reversed(self.drain_groups))

    def rate_hz(self, dataset: Dataset) -> float:
        """The declared rate: a policy, so that a topic's tiers and slices do not flip with its measured one."""
        for glob, rate in self.rates_hz.items():
            if match([glob], dataset.topic):
                return rate
        return 1.0 if dataset.kind is Kind.TELEMETRY else 0.1

    def slice_unit(self, dataset: Dataset) -> SliceUnitName | None:
        for glob, unit in self.slices.items():
            if match([glob], dataset.topic):
                return unit
        return None

    def time_field(self, dataset: Dataset) -> str | None:
        """The field that is the event time, in UTC unix seconds; None: Kafka's time stamp."""
        if dataset.is_sal:
            return "private_efdStamp"
        for glob, field in self.time_fields.items():
            if match([glob], dataset.namespace):
                return None if field == "kafka" else field
        return None

    def value_format(self, dataset: Dataset) -> Literal["avro", "json"]:
        for glob, value_format in self.value_formats.items():
            if match([glob], dataset.topic):
                return value_format
        return "avro"


def _first(groups: Mapping[str, tuple[str, ...]], text: str) -> str | None:
    return next((name for name, globs in groups.items() if match(globs, text)), None)


def load_configuration(path: Path | None = None) -> Configuration:
    """The configuration of a file over the shipped default.

    Raises:
        ConfigurationError: the file is not there, no YAML, or has something that is not allowed; with its line.
    """
    merged = dict(_read(DEFAULT_FILE))
    lines = _lines(DEFAULT_FILE)
    if path is not None:
        own = _read(path)
        merged.update(own)
        if own.get("exposures_from") and "exposures" not in own:
            merged["exposures"] = ()
        lines = lines | _lines(path)
    try:
        configuration = Configuration.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(_explained(error, path or DEFAULT_FILE, lines)) from error
    return _with_found(configuration, (path or DEFAULT_FILE).parent)


def _with_found(configuration: Configuration, beside: Path) -> Configuration:
    """With the instruments whose files are in the directory `exposures_from`; those of `exposures` stay as they are."""
    if configuration.exposures_from is None:
        return configuration
    directory = beside / configuration.exposures_from
    if not directory.is_dir():
        raise ConfigurationError(f"The directory of `exposures_from`, {directory}, is not there")
    named = {join.instrument for join in configuration.exposures}
    files = {file.stem.removeprefix("config_"): file for file in sorted(directory.glob("config_*.yaml"))}
    wrong = [file for name, file in files.items() if re.match(INSTRUMENT, name) is None]
    if wrong:
        raise ConfigurationError(f"{wrong[0]} names no instrument: config_<instrument>.yaml, in small letters")
    found = [ExposureJoin(instrument=name, config=str(file)) for name, file in files.items() if name not in named]
    return configuration.model_copy(update={"exposures": (*configuration.exposures, *found)})


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - it is a safe one
    except OSError as error:
        raise ConfigurationError(f"The configuration {path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The configuration {path} is no YAML ({error})") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigurationError(f"The configuration {path} must be a mapping of sections")
    return document


@functools.lru_cache(maxsize=8)
def _lines(path: Path) -> dict[tuple[str, ...], int]:
    """Line of each key path of a YAML file, 1-based."""
    found: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node, where: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*where, str(key.value))] = key.start_mark.line + 1
                walk(value, (*where, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                found[(*where, str(index))] = value.start_mark.line + 1
                walk(value, (*where, str(index)))

    root = yaml.compose(path.read_text(encoding="utf-8"), _Loader)
    if root is not None:
        walk(root, ())
    return found


def _explained(error: ValidationError, path: Path, lines: Mapping[tuple[str, ...], int]) -> str:
    problems = []
    for problem in error.errors():
        where = tuple(str(part) for part in problem["loc"])
        line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), None)
        reason = "not a key that is known here" if problem["type"] == "extra_forbidden" else problem["msg"]
        at = f"{path}, line {line}" if line else str(path)
        problems.append(f"{at}: {'.'.join(where) or 'file'}: {reason}")
    return "; ".join(problems)
