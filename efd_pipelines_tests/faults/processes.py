"""Processes: how a test gives its settings to a process of its own."""

from __future__ import annotations

import os

from efd_pipelines.settings import Settings


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` as its `EFD_*` variables."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EFD_")}
    environ |= {
        "EFD_KAFKA_BOOTSTRAP": settings.require_kafka(),
        "EFD_REGISTRY_URL": settings.require_registry(),
        "EFD_ARCHIVE": settings.archive,
    }
    if settings.s3_endpoint:
        environ |= {"EFD_S3_ENDPOINT": settings.s3_endpoint, "EFD_S3_REGION": settings.s3_region}
    return environ
