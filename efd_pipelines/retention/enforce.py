"""Enforcing a policy: letting go of what is due, one week of one dataset at a time.

Each is judged again from scratch, every value read, and then goes in one commit (`archive/expiry.py`), for which it
must still be what was judged, and so must what covers it, and it must not be pinned: whoever lets go has the turn that
whoever pins waits for. Killed anywhere and repeated, the outcome is the same; of two that do it at once, one does. What
is refused stays, and is told.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from efd_pipelines.archive.expiry import expire
from efd_pipelines.errors import ArchiveError, StaleWriter
from efd_pipelines.retention.due import Due, due
from efd_pipelines.retention.pins import pins, turns
from efd_pipelines.retention.plan import Progress, Refusal, check_pins, judged
from efd_pipelines.retention.policy import Policy, policy_of
from efd_pipelines.retention.refusal import Refused
from efd_pipelines.retention.verification import Evidence, Tables, still_covered

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.ledger import LedgerRow
    from efd_pipelines.times import Week
    from efd_pipelines.topics.names import Dataset

_ANNOUNCED = 64
"""Weeks of datasets whose commits are entered into the ledger together."""


@dataclass(slots=True)
class Enforced:
    """What was let go, and what was due and refused; `elsewhere` went by another hand meanwhile."""

    policy: str
    gone: list[Due] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    elsewhere: int = 0
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.gone)

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.gone)


def enforce(
    archive: Archive,
    *,
    policy: Policy | None = None,
    now: datetime | None = None,
    datasets: Collection[Dataset] | None = None,
    weeks: Collection[Week] | None = None,
    run: str = "",
    progress: Progress | None = None,
) -> Enforced:
    """Lets go of what is due and may go; the files leave the store when cleaning finds them, a week later.

    Args:
        policy: the deployment's by default.
        now: from when ages are counted back; the present by default, and never later than that.
        datasets, weeks: only these.
        run: which run this is, for the ledger and the certificates.

    Raises:
        PolicyError: the policy is wrong; nothing was let go.
        DamagedPins: it is not known what is pinned; what had gone before has gone.
        StoreUnavailable: the store did not answer; likewise.
    """
    started = time.monotonic()
    policy = policy_of(archive.settings) if policy is None else policy
    archive.prepare()
    wanted = due(archive, policy, datetime.now(UTC) if now is None else now, datasets=datasets, weeks=weeks)
    work = _Enforcing(archive, policy, run, Enforced(policy.name))
    for start in range(0, len(wanted), _ANNOUNCED):
        part = wanted[start : start + _ANNOUNCED]
        with archive.ledger.announced(run, {(one.level, one.dataset) for one in part}) as rows:
            for n, one in enumerate(part):
                if progress:
                    progress(str(one), start + n, len(wanted))
                work.judge_and_let_go(one, rows)
    work.result.seconds = time.monotonic() - started
    return work.result


class _Enforcing:
    """One call of `enforce`."""

    def __init__(self, archive: Archive, policy: Policy, run: str, result: Enforced) -> None:
        self._archive = archive
        self._policy = policy
        self._run = run
        self._tables = Tables(archive)
        self.result = result

    def judge_and_let_go(self, one: Due, rows: list[LedgerRow]) -> None:
        """One week of one dataset; adds the commit's ledger rows."""
        try:
            evidence = judged(self._tables, one, pins(self._archive.store), "values")
            self._let_go(one, evidence, rows)
        except Refused as error:
            self.result.refused.append(Refusal(one, error.kind, error.message, error.remedy))
        except StaleWriter:
            self.result.elsewhere += 1
        else:
            self.result.gone.append(one)
        self._tables.forget(one.dataset, one.level)

    def _let_go(self, one: Due, evidence: Evidence, rows: list[LedgerRow]) -> None:
        def last_look() -> None:
            check_pins(one, pins(self._archive.store))
            still_covered(Tables(self._archive), one, evidence)

        with turns(self._archive.store, self._run or "retention"):
            try:
                expire(
                    self._archive,
                    one.level,
                    one.dataset,
                    evidence.certificate,
                    policy=self._policy.name,
                    reason=one.reason,
                    covered_by=evidence.covered_by,
                    rows=rows,
                    run=self._run,
                    last_look=last_look,
                )
            except (Refused, StaleWriter):
                raise
            except ArchiveError as error:
                raise Refused("unsealed", error.message, remedy=error.remedy) from error
