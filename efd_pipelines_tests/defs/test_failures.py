"""Errors as Dagster shows them: what happened and what to do, and Python only where it is our bug."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from efd_pipelines.defs.failures import explained
from efd_pipelines.errors import EfdError, KafkaUnavailable, UsageError


def failure(instance: dg.DagsterInstance, error: Exception) -> tuple[dg.DagsterEvent, dg.DagsterEvent]:
    """The events of the step and of the run that fail with an error."""

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=3))
    def work() -> None:
        with explained():
            raise error

    @dg.job
    def job() -> None:
        work()

    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    events = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    (step,) = (event for event in events if event.event_type is dg.DagsterEventType.STEP_FAILURE)
    (run,) = (event for event in events if event.event_type is dg.DagsterEventType.RUN_FAILURE)
    return step, run


def text_of(event: dg.DagsterEvent) -> str:
    data: Any = event.event_specific_data
    return str(data.error.to_string())


def test_a_domain_error_is_shown_with_its_remedy_and_without_python(instance: dg.DagsterInstance) -> None:
    step, run = failure(instance, UsageError("2026-11-17 is no Monday", remedy="The week is 2026-11-16."))
    for event in (step, run):
        shown = text_of(event)
        assert "2026-11-17 is no Monday.\nWhat to do: The week is 2026-11-16." in shown
        for word in ("Stack Trace", "Traceback", ".py", "dagster.", "Failure", "UsageError"):
            assert word not in shown, shown


def test_a_domain_error_is_not_retried(instance: dg.DagsterInstance) -> None:
    failure(instance, KafkaUnavailable("No broker at 127.0.0.1:1 answers"))
    run = instance.get_runs(limit=1)[0]
    events = instance.all_logs(run.run_id)
    assert not [entry for entry in events if entry.dagster_event and entry.dagster_event.is_step_up_for_retry]


def test_a_question_keeps_its_mark(instance: dg.DagsterInstance) -> None:
    step, _ = failure(instance, EfdError("There is no topic b; did you mean a?", remedy="Ask."))
    assert "did you mean a?\nWhat to do: Ask." in text_of(step)


def test_a_bug_shows_where_it_is(instance: dg.DagsterInstance) -> None:
    @dg.op
    def work() -> None:
        with explained():
            raise ZeroDivisionError("a bug")

    @dg.job
    def job() -> None:
        work()

    result = job.execute_in_process(instance=instance, raise_on_error=False)
    step = next(event for event in result.all_events if event.is_step_failure)
    assert "test_failures.py" in text_of(step)
    assert "a bug" in text_of(step)


def test_a_tick_that_fails_says_only_what_to_do() -> None:
    from dagster._utils.error import serializable_error_info_from_exc_info

    with pytest.raises(dg.Failure) as caught, explained():
        raise KafkaUnavailable("No broker answers", remedy="Start one.")
    told = serializable_error_info_from_exc_info((caught.type, caught.value, caught.tb))
    assert told.message == "No broker answers.\nWhat to do: Start one.\n"
    assert told.stack == []
