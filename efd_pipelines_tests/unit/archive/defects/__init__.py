"""Defects: what can be wrong with an archive, each put into a healthy one at a place drawn at random.

A defect is a function that takes a `Scene` and breaks something. `PLAIN` are those that metadata show, `DEEP` those
that only reading shows; `CERTIFIED_PLAIN` and `CERTIFIED_DEEP` the same of sealed weeks. What is done to an archive:
`scene.py`. A new one is a function in one of the modules beside it, and a line here.
"""

from __future__ import annotations

from efd_pipelines_tests.unit.archive.defects import certificates, content, metadata

PLAIN = (
    metadata.a_file_is_gone,
    metadata.a_file_of_the_dead_is_gone,
    metadata.a_file_is_cut,
    metadata.a_file_has_grown,
    metadata.a_week_is_gone,
    metadata.the_ledger_has_more_rows,
    metadata.the_ledger_has_fewer_rows,
    metadata.the_ledger_has_other_bytes,
    metadata.the_ledger_lacks_a_commit,
    metadata.the_ledger_leads,
    metadata.the_ledger_sets_a_position_back,
    metadata.the_ledger_has_too_low_a_position,
    metadata.another_program_adds_a_copy,
    metadata.another_program_removes_a_file,
    metadata.another_program_moves_a_position,
    metadata.another_program_deletes_rows,
    metadata.another_program_writes_rows,
    metadata.a_merge_keeps_what_it_replaced,
    metadata.a_move_loses_a_file,
    metadata.a_gap_was_noted,
    metadata.the_newest_version_is_gone,
    metadata.a_slice_stands_in_another_week,
    metadata.rows_stand_in_another_slice,
)
DEEP = (
    content.a_bit_has_flipped,
    content.a_page_is_overwritten,
    content.a_value_changed_under_the_same_name,
    content.rows_stand_twice,
    content.rows_are_beyond_the_position,
    content.rows_are_of_a_foreign_source,
    content.rows_have_no_coordinates,
    content.rows_are_not_sorted,
    content.rows_have_an_unknown_schema,
    content.schemas_are_swapped,
    content.a_stamp_changed,
    content.a_time_changed,
    content.a_required_value_is_gone,
    content.a_column_has_another_type,
    content.a_file_has_a_column_too_many,
    content.statistics_lie,
    content.the_log_has_other_rows,
    content.the_log_has_another_size,
    content.a_version_of_the_log_is_gone,
    content.a_version_of_the_log_cannot_be_read,
    content.the_ledger_has_other_times,
    content.the_ledger_leads_a_position,
    content.the_ledger_names_other_schemas,
    content.rows_moved_to_quarantine,
    content.rows_moved_to_the_dead,
    content.a_schemas_text_is_another,
    content.a_schema_is_gone,
)
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
