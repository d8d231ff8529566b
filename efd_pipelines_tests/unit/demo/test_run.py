"""What a job's output says, read line by line."""

from __future__ import annotations

from efd_pipelines.demo.run import _Steps

RUN = "main - e747305b-9061-47c1-9a7d-cfc2f7de62d1"
BEGINS = f"2026-11-22 01:41:25 +0000 - dagster - DEBUG - {RUN} - 13014 - drain_whole_backlog - STEP_START - Started."
COUNTS = f"2026-11-22 01:41:45 +0000 - dagster - INFO - {RUN} - drain_whole_backlog - 16,800 of 173,365 records"
FAILS = f"2026-11-22 01:42:23 +0000 - dagster - ERROR - {RUN} - 13014 - drain_whole_backlog - STEP_FAILURE - Failed."


def heard(*lines: str) -> tuple[list[str], str]:
    told: list[str] = []
    steps = _Steps(told.append)
    for line in lines:
        steps.hear(line)
    return told, steps.reason


def test_beginnings_and_counts_are_told() -> None:
    told, _ = heard(BEGINS, "something else", COUNTS)

    assert told == ["  Archiving the backlog, exactly once", "    16,800 of 173,365 records"]


def test_a_failure_for_people_is_told_as_it_is() -> None:
    _, reason = heard(
        BEGINS,
        FAILS,
        "",
        "The brokers at 127.0.0.1:1 did not answer.",
        "What to do: Check EFD_KAFKA_BOOTSTRAP.",
        "",
        COUNTS.replace("16,800 of 173,365 records", "Dependencies for step b failed. Not executing."),
        FAILS.replace("STEP_FAILURE", "RUN_FAILURE"),
        "",
        "The brokers at 127.0.0.1:1 did not answer.",
        "Error: Run 6f7074bd resulted in failure.",
    )

    assert reason == "The brokers at 127.0.0.1:1 did not answer. What to do: Check EFD_KAFKA_BOOTSTRAP."


def test_the_reason_is_that_of_the_first_failure_without_the_stack() -> None:
    _, reason = heard(
        BEGINS,
        FAILS,
        "",
        'dagster._core.errors.DagsterExecutionStepExecutionError: Error occurred while executing op "drain":',
        "",
        "KafkaUnavailable: The brokers at 127.0.0.1:1 did not answer.",
        "",
        "Stack Trace:",
        "  File ...",
        FAILS.replace("drain_whole_backlog", "summarise_tier"),
        "Another error",
    )

    assert reason == "KafkaUnavailable: The brokers at 127.0.0.1:1 did not answer."


def test_without_a_failed_step_the_last_line_is_the_reason() -> None:
    assert heard("No module named efd_pipelines.definitions", "")[1] == "No module named efd_pipelines.definitions"
    assert heard()[1] == "it said nothing"
