"""The catalogue as discovery last kept it, beside the archive.

A reading that knows the previous one asks the registry only for what may have changed: seconds for all topics of
the observatory where the first takes half a minute. Only discovery keeps one, since it reports what is new against
it; others read. The catalogue itself: `kafka/catalogue.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efd_pipelines.errors import DataError
from efd_pipelines.kafka.catalogue import Catalogue

if TYPE_CHECKING:
    from efd_pipelines.archive.store import Store

KEPT_IN = "catalogue/topics.json"


def kept(store: Store) -> Catalogue | None:
    """The catalogue that was kept last; None where there is none that can be read: all is then read anew.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    data = store.try_read(KEPT_IN)
    if data is None:
        return None
    try:
        return Catalogue.from_json(data.decode())
    except (DataError, UnicodeDecodeError):
        return None


def keep(store: Store, catalogue: Catalogue) -> None:
    """Keeps it for the next reading.

    Raises:
        StoreUnavailable: it was not kept; the one before stands.
    """
    store.write_bytes(KEPT_IN, catalogue.to_json().encode())
