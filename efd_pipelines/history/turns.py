"""Turns: of all processes of a deployment, one at a time asks the history's server.

The limits on questions at once and values a second are the deployment's, not a process's: two backfills, or Dagster's
runs on several machines, must not double them. Whoever asks holds `history/turn.json` in the archive's store, made
where there was none, and renews it while it works; what a killed process left is over after `LEASE_S`. It is a courtesy
to the server, and nothing's correctness rests on it: that, `filling.py`'s guard sees to.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

from efd_pipelines.archive.store import Store
from efd_pipelines.errors import StoreUnavailable

_log = logging.getLogger(__name__)
NAME = "history/turn.json"
LEASE_S = 90.0
_RENEW_S = 20.0
_LOOK_S = 2.0


class Turn:
    """The right to ask, for the time of a `with`; entering waits for it.

    Args:
        who: the run, for whoever waits and wonders.
        waiting: called with the holder's name while another has the turn; returning False gives up.
        name: of the object that says who has it; other work takes turns of its own.
        lease_s: after how long the turn of a killed process is over.
    """

    def __init__(
        self,
        store: Store,
        who: str,
        *,
        waiting: Callable[[str], bool] | None = None,
        name: str = NAME,
        lease_s: float = LEASE_S,
    ) -> None:
        self._store = store
        self._who = who
        self._waiting = waiting
        self._name = name
        self._lease_s = lease_s
        self._scale = lease_s / LEASE_S
        self._key = uuid.uuid4().hex
        self._over = threading.Event()
        self._renewal: threading.Thread | None = None
        self.is_held = False

    def __enter__(self) -> Self:
        while not self._take():
            holder = self._holder()
            if holder is None:
                continue
            if self._waiting is not None and not self._waiting(holder):
                return self
            self._over.wait(_LOOK_S * self._scale)
        self.is_held = True
        self._renewal = threading.Thread(target=self._renew, name="history turn", daemon=True)
        self._renewal.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._renewal is not None:
            self._renewal.join()
            if self._is_mine():
                self._store.delete(self._name)

    def _take(self) -> bool:
        return self._store.create(self._name, self._lease()) and self._is_mine()

    def _lease(self) -> bytes:
        return json.dumps({"key": self._key, "who": self._who, "until": time.time() + self._lease_s}).encode()

    def _holder(self) -> str | None:
        """Who has the turn; None where nobody has (any more)."""
        data = self._store.try_read(self._name)
        if data is None:
            return None
        try:
            lease = json.loads(data)
            until, who = float(lease["until"]), str(lease["who"])
        except (ValueError, KeyError, TypeError):
            until, who = 0.0, ""
        if until < time.time():
            _log.info("the turn of %s is over", who)
            self._store.delete(self._name)
            return None
        return who

    def _is_mine(self) -> bool:
        data = self._store.try_read(self._name)
        return data is not None and self._key.encode() in data

    def _renew(self) -> None:
        while not self._over.wait(_RENEW_S * self._scale):
            try:
                if self._is_mine():
                    self._store.write_bytes(self._name, self._lease())
            except StoreUnavailable as error:
                _log.warning("the turn could not be renewed: %s", error.message)
