"""Settings: scalars and secrets from `EFD_*` environment variables (interfaces.md), all validated together.

What has structure is in the YAML file that `EFD_CONFIG` names: `configuration.py`. Nothing is read at import and
nothing connects here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)

from efd_pipelines.configuration import Configuration, load_configuration
from efd_pipelines.errors import SettingsError, UsageError
from efd_pipelines.times import Week

ProfileName = Literal["demo", "summit", "usdf", "usdfdev", "idfdev", "tts", "bts", "base"]

HOME_PREFIXES: Mapping[str, tuple[str, ...]] = {"usdf": ("summit.",), "usdfdev": ("summit.",)}
"""Prefixes of the home clusters' topics, by profile: the Summit's mirror at USDF is the Summit's dataset."""

EFD_NAMES: Mapping[str, str] = {
    "summit_efd": "summit",
    "usdf_efd": "usdf",
    "usdfdev_efd": "usdfdev",
    "idfdev_efd": "idfdev",
    "tucson_teststand_efd": "tts",
    "base_efd": "base",
}
RETIRED_EFD_NAMES: Mapping[str, str] = {
    "ldf_stable_efd": "usdf_efd",
    "ldf_int_efd": "usdfdev_efd",
    "ldf_nts_efd": "usdfdev_efd",
}

_KNOWN_TO_OTHERS = ("EFD_SERVICES_", "EFD_SERVERS_", "EFD_LEAP_SECONDS", "EFD_BENCH_", "EFD_TEST_")
_SECRET_KAFKA = re.compile(r"password|secret|oauthbearer|jaas|key\.pem|\.pem$")
_REGISTRY_OF = "EFD_REGISTRY_URL_"
_KAFKA = "EFD_KAFKA_"


class Settings(BaseModel):
    """What one process runs with. Secrets are `SecretStr`: they do not print."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: ProfileName = "demo"
    config: Path | None = None
    archive: str = "./efd-data/archive"
    kafka_bootstrap: str | None = None
    kafka_properties: dict[str, str | SecretStr] = {}
    registry_url: str | None = None
    registry_auth: SecretStr | None = None
    registries: dict[str, str] = {}
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    consdb_url: SecretStr | None = None
    influx_url: str | None = None
    influx_token: SecretStr | None = None
    influx_user: str | None = None
    influx_password: SecretStr | None = None
    influx_org: str | None = None
    history_influx_url: str | None = None
    history_influx_token: SecretStr | None = None
    history_influx_user: str | None = None
    history_influx_password: SecretStr | None = None
    history_influx_org: str | None = None
    history_database: str = "efd"
    history_lines: Path | None = None
    history_queries: PositiveInt = 2
    history_values_s: PositiveFloat = 200_000.0
    history_timeout_s: PositiveFloat = 180.0
    history_window: str = "13:00-21:00"
    history_budget_h: PositiveFloat = 6.0
    history_first_week: str | None = None
    slack_webhook: SecretStr | None = None
    dask_scheduler: str | None = None
    retention: str | None = None
    configuration: Configuration

    @field_validator("registry_url", "influx_url", "history_influx_url", "s3_endpoint")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        if parts.password:
            raise ValueError("must not carry a password; use the setting for it")
        return url.rstrip("/")

    @field_validator("archive")
    @classmethod
    def _is_a_root(cls, root: str) -> str:
        if "://" in root and not re.fullmatch(r"s3://[^/]{3,}(/.*)?", root):
            raise ValueError("must be a directory or s3://bucket/prefix")
        return root.rstrip("/") or root

    @field_validator("history_window")
    @classmethod
    def _is_a_time_of_day(cls, window: str) -> str:
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", window):
            raise ValueError("must be two times of day in UTC, as 13:00-21:00")
        return window

    @field_validator("history_first_week")
    @classmethod
    def _is_a_week(cls, key: str | None) -> str | None:
        try:
            return None if key is None else Week.parse(key).key
        except UsageError as error:
            raise ValueError(str(error)) from None

    @property
    def home_prefixes(self) -> tuple[str, ...]:
        return HOME_PREFIXES.get(self.profile, ())

    @property
    def is_remote(self) -> bool:
        return self.archive.startswith("s3://")

    def require_kafka(self) -> str:
        """The brokers' addresses.

        Raises:
            SettingsError: EFD_KAFKA_BOOTSTRAP is not set.
        """
        return _required(self.kafka_bootstrap, "EFD_KAFKA_BOOTSTRAP", "the Kafka brokers, as host:port,host:port")

    def require_registry(self, cluster: str = "") -> str:
        """The URL of the schema registry for topics of a cluster ("" = home).

        Raises:
            SettingsError: it is not set.
        """
        if cluster and cluster in self.registries:
            return self.registries[cluster]
        return _required(self.registry_url, "EFD_REGISTRY_URL", "the schema registry, as http://host:port")

    def require_consdb(self) -> str:
        """The SQLAlchemy URL of ConsDB: by default SQLite beside the archive.

        Raises:
            SettingsError: the archive is not a directory and EFD_CONSDB_URL is not set.
        """
        if self.consdb_url is not None:
            return self.consdb_url.get_secret_value()
        if self.is_remote:
            raise SettingsError("EFD_CONSDB_URL is not set", remedy="Set it to ConsDB's SQLAlchemy URL.")
        return f"sqlite:///{Path(self.archive).absolute().parent / 'consdb.sqlite'}"


def _required(value: str | None, name: str, what: str) -> str:
    if not value:
        raise SettingsError(f"{name} is not set", remedy=f"Set it to {what}, in the environment or in .env.")
    return value


def profile_of(efd_name: str) -> str:
    """The profile of an EFD client's instance name.

    Raises:
        UsageError: there is none; a retired one answers with where to go.
    """
    if efd_name in RETIRED_EFD_NAMES:
        raise UsageError(f"{efd_name} is retired", remedy=f"Use {RETIRED_EFD_NAMES[efd_name]}.")
    if efd_name not in EFD_NAMES:
        raise UsageError(f"{efd_name!r} is no EFD instance", remedy=f"There are {', '.join(EFD_NAMES)}.")
    return EFD_NAMES[efd_name]


def load_settings(
    environ: Mapping[str, str] | None = None, env_file: str | Path | None = ".env", **overrides: Any
) -> Settings:
    """Settings from the environment over a `.env` file; `overrides` by field name win.

    Raises:
        SettingsError: naming every variable that is wrong.
    """
    values: dict[str, str] = {}
    if env_file is not None and Path(env_file).is_file():
        values.update({key: value for key, value in dotenv_values(env_file).items() if value is not None})
    values.update(os.environ if environ is None else environ)
    fields = _fields({key: value for key, value in values.items() if key.startswith("EFD_") and value != ""})
    fields.update(overrides)
    if "configuration" not in fields:
        fields["configuration"] = load_configuration(Path(fields["config"]) if fields.get("config") else None)
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        raise SettingsError(_explained(error)) from None


def _fields(values: Mapping[str, str]) -> dict[str, Any]:
    """Field values of the `EFD_*` variables; unknown ones are refused, so that a misspelt one is not ignored."""
    fields: dict[str, Any] = {"kafka_properties": {}, "registries": {}}
    unknown = []
    for name, value in values.items():
        field = name.removeprefix("EFD_").lower()
        if name == "EFD_KAFKA_BOOTSTRAP":
            fields["kafka_bootstrap"] = value
        elif name.startswith(_KAFKA):
            key = name.removeprefix(_KAFKA).lower().replace("_", ".")
            fields["kafka_properties"][key] = SecretStr(value) if _SECRET_KAFKA.search(key) else value
        elif name.startswith(_REGISTRY_OF):
            fields["registries"][name.removeprefix(_REGISTRY_OF).lower()] = value.rstrip("/")
        elif field in Settings.model_fields and field not in {
            "configuration",
            "kafka_properties",
            "registries",
        }:
            fields[field] = value
        elif not name.startswith(_KNOWN_TO_OTHERS):
            unknown.append(name)
    if unknown:
        raise SettingsError(
            f"{', '.join(sorted(unknown))}: no such setting",
            remedy="Unset it, or mend its name; the README lists all.",
        )
    return fields


def _explained(error: ValidationError) -> str:
    """One line for all problems; values are not shown, they may be secrets."""
    problems = []
    for problem in error.errors():
        name = "EFD_" + "_".join(str(part) for part in problem["loc"]).upper()
        problems.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)
