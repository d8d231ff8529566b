"""Settings with other sections of their configuration: what a test changes of what is shipped."""

from __future__ import annotations

from typing import Any

from efd_pipelines.settings import Settings


def configured(settings: Settings, **sections: Any) -> Settings:
    """The same settings with these sections instead of their own."""
    return settings.model_copy(update={"configuration": settings.configuration.model_copy(update=sections)})


def with_kafka(settings: Settings, **fields: Any) -> Settings:
    """The same settings with these fields of the section `kafka`."""
    return configured(settings, kafka=settings.configuration.kafka.model_copy(update=fields))
