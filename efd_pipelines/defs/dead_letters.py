"""Dead letters: their replay, as a form of the launchpad; the check `no_dead_letters` says which there are and why.

The same is `efd archive dead-letters --replay`: `archive/dead_letters.py` does it.
"""

import time
from typing import Any

import dagster as dg
from pydantic import Field

from efd_pipelines.defs.archive import logged, raw_archive
from efd_pipelines.defs.events import DAY_S, RAW, log_untold
from efd_pipelines.defs.failures import explained
from efd_pipelines.resources import Deployment


class ReplayConfig(dg.Config):
    """Which dead letters are decoded again."""

    topics: list[str] = Field(
        default=[], description="Only these datasets, [cluster@]namespace.name. Empty: all that have any."
    )


@dg.op(pool="kafka", out=dg.Out(dg.Nothing))
def replay_dead(context: dg.OpExecutionContext, config: ReplayConfig, deployment: Deployment) -> None:
    """Decodes dead letters again; what has become a row moves to its week, once."""
    from efd_pipelines.archive.dead_letters import replay
    from efd_pipelines.topics.names import Dataset

    with explained():
        archive = deployment.archive()
        done = replay(
            archive,
            archive.settings,
            datasets=[Dataset.parse(text) for text in config.topics] or None,
            run=context.run_id,
            progress=logged(context, "frames"),
        )
        facts: dict[str, Any] = {
            name: getattr(done, name) for name in ("topics", "frames", "replayed", "quarantined", "dead_letters")
        }
        context.add_output_metadata(facts)
        context.log.info(f"Replayed {done.replayed:,} of {done.frames:,} dead letters; {done.dead_letters:,} stay.")
        log_untold(context, archive, raw_archive.key, RAW, since_s=time.time() - DAY_S, at_once=True)


@dg.job
def replay_dead_letters() -> None:
    """Decodes again what could not be decoded, once the cause is mended (a schema is registered, a setting is right).

    Each frame that has become a row moves from the dead to its week, once; the others stay, with their reason of today.
    """
    replay_dead()
