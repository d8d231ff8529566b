"""Defects: what can be wrong with an archive, each put into a healthy one at a place drawn at random.

A defect is a function that takes a `Scene` and breaks something. `PLAIN` are those that metadata show, `DEEP` those
that only reading shows, each with the kind of problem that it must be told as; `CERTIFIED_PLAIN` and `CERTIFIED_DEEP`
the same of sealed weeks. What is done to an archive: `scene.py`. A new one is a function in one of the modules beside
it, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from efd_pipelines_tests.unit.archive.defects import certificates, content, metadata
from efd_pipelines_tests.unit.archive.defects.scene import Scene

Defect = Callable[[Scene], None]

PLAIN: Mapping[Defect, str] = {
    metadata.a_file_is_gone: "unreadable",
    metadata.a_file_of_the_dead_is_gone: "unreadable",
    metadata.a_file_is_cut: "size",
    metadata.a_file_has_grown: "size",
    metadata.a_week_is_gone: "unreadable",
    metadata.the_ledger_has_more_rows: "doubled",
    metadata.the_ledger_has_fewer_rows: "lost",
    metadata.the_ledger_has_other_bytes: "size",
    metadata.the_ledger_lacks_a_commit: "ledger",
    metadata.the_ledger_leads: "ledger",
    metadata.the_ledger_sets_a_position_back: "position",
    metadata.the_ledger_has_too_low_a_position: "doubled",
    metadata.the_log_is_gone: "log",
    metadata.the_ledger_is_gone: "ledger",
    metadata.a_foreign_file_lies_in_a_week: "foreign",
    metadata.another_program_adds_a_copy: "foreign",
    metadata.another_program_removes_a_file: "foreign",
    metadata.another_program_moves_a_position: "foreign",
    metadata.another_program_deletes_rows: "foreign",
    metadata.another_program_writes_rows: "foreign",
    metadata.a_merge_keeps_what_it_replaced: "doubled",
    metadata.a_move_loses_a_file: "lost",
    metadata.a_gap_was_noted: "gap",
    metadata.the_newest_version_is_gone: "ledger",
    metadata.a_slice_stands_in_another_week: "foreign",
    metadata.rows_stand_in_another_slice: "foreign",
}
DEEP: Mapping[Defect, str] = {
    content.a_bit_has_flipped: "content",
    content.a_page_is_overwritten: "content",
    content.a_value_changed_under_the_same_name: "content",
    content.rows_stand_twice: "doubled",
    content.rows_are_beyond_the_position: "position",
    content.rows_are_of_a_foreign_source: "foreign",
    content.rows_have_no_coordinates: "foreign",
    content.rows_are_not_sorted: "order",
    content.rows_have_an_unknown_schema: "schema",
    content.schemas_are_swapped: "schema",
    content.a_stamp_changed: "value",
    content.a_time_changed: "value",
    content.a_required_value_is_gone: "schema",
    content.a_column_has_another_type: "schema",
    content.a_file_has_a_column_too_many: "schema",
    content.statistics_lie: "statistics",
    content.the_log_has_other_rows: "rows",
    content.the_log_has_another_size: "size",
    content.a_version_of_the_log_is_gone: "log",
    content.a_version_of_the_log_cannot_be_read: "log",
    content.the_ledger_has_other_times: "ledger",
    content.the_ledger_leads_a_position: "position",
    content.the_ledger_names_other_schemas: "ledger",
    content.rows_moved_to_quarantine: "foreign",
    content.rows_moved_to_the_dead: "foreign",
    content.a_schemas_text_is_another: "schema",
    content.a_foreign_directory_lies_in_a_table: "foreign",
    content.a_foreign_file_lies_in_a_week_without_rows: "foreign",
    content.a_schema_is_gone: "schema",
}
CERTIFIED_PLAIN = (
    certificates.a_certificate_is_gone,
    certificates.a_certificate_cannot_be_read,
    certificates.a_certificate_has_other_rows,
)
CERTIFIED_DEEP = (
    certificates.a_certificate_has_another_hash,
    certificates.a_certificate_has_other_rows_of_a_file,
    certificates.a_certificate_is_of_another_topic,
    certificates.a_certificate_is_an_older_one,
    certificates.a_certificate_has_other_positions,
)
