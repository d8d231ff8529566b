"""Defects of certificates of sealed weeks."""

from __future__ import annotations

from typing import Any

from efd_pipelines_tests.unit.archive.defects.scene import Scene, set_field


def a_certificate_is_gone(scene: Scene) -> None:
    scene.certificate.unlink()


def a_certificate_cannot_be_read(scene: Scene) -> None:
    scene.certificate.write_bytes(scene.certificate.read_bytes()[: scene.dice.randint(0, 100)])


def a_certificate_has_other_rows(scene: Scene) -> None:
    scene.certificate_changed(lambda document: set_field(document, "rows", lambda rows: rows - 1))


def a_certificate_has_another_hash(scene: Scene) -> None:
    def change(document: dict[str, Any]) -> None:
        scene.dice.choice(document["files"])["sha256"] = f"{scene.dice.getrandbits(256):064x}"

    scene.certificate_changed(change)


def a_certificate_has_other_rows_of_a_file(scene: Scene) -> None:
    scene.certificate_changed(
        lambda document: set_field(scene.dice.choice(document["files"]), "rows", lambda rows: rows + 1)
    )


def a_certificate_is_of_another_topic(scene: Scene) -> None:
    scene.certificate_changed(lambda document: set_field(document, "dataset", lambda _: "lsst.sal.Test.y"))


def a_certificate_is_an_older_one(scene: Scene) -> None:
    scene.certificate_changed(lambda document: set_field(document, "seal", lambda seal: seal - 1))


def a_certificate_has_other_positions(scene: Scene) -> None:
    scene.certificate_changed(
        lambda document: set_field(scene.dice.choice(document["origins"]), "position", lambda reached: reached + 9)
    )
