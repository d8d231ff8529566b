"""`efd config`: what is in force, with secrets masked, and what is wrong with it, by file and line."""

from __future__ import annotations

from pathlib import Path

from efd_pipelines_tests.unit.cli.conftest import Efd


def test_a_wrong_configuration_is_told_by_file_and_line(efd: Efd, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("topics:\n  include: ['*']\nfreshness:\n  fast: []\n  fast_intervall_s: 60\n")

    for answer in (efd("config", "check", EFD_CONFIG=str(file)), efd("config", "check", str(file))):
        assert answer.code == 2
        assert f"{file}, line 5" in answer.err
        assert "fast_intervall_s" in answer.err
        assert "Traceback" not in answer.err


def test_a_wrong_exposure_configuration_is_told_by_file_and_line(efd: Efd, tmp_path: Path) -> None:
    transformation = tmp_path / "config_lsstcam.yaml"
    transformation.write_text("version: 1.0.0\ncolumns:\n- name: x\n  function: guess\n")
    file = tmp_path / "mine.yaml"
    file.write_text(f"exposures:\n- instrument: lsstcam\n  config: {transformation}\n")

    answer = efd("config", "check", EFD_CONFIG=str(file))

    assert answer.code == 2
    assert f"{transformation}, line" in answer.err


def test_a_right_configuration_is_right(efd: Efd, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("topics: {include: ['lsst.sal.*']}\n")

    answer = efd("config", "check", "--json", EFD_CONFIG=str(file))

    assert answer.code == 0
    assert answer.document["ok"] is True
    assert answer.document["file"] == str(file)


def test_what_is_in_force_is_shown_with_its_origin(efd: Efd, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EFD_S3_REGION=chile\nEFD_PROFILE=base\n")
    (tmp_path / "mine.yaml").write_text("topics: {include: ['lsst.sal.*'], exclude: []}\n")

    shown = efd("config", "show", "--json", EFD_PROFILE="usdf", EFD_CONFIG="mine.yaml").document

    assert shown["settings"]["EFD_PROFILE"] == "usdf"
    assert shown["from"]["EFD_PROFILE"] == "environment"
    assert shown["settings"]["EFD_S3_REGION"] == "chile"
    assert shown["from"]["EFD_S3_REGION"] == ".env"
    assert shown["from"]["EFD_ARCHIVE"] == "default"
    assert shown["configuration"]["topics"]["include"] == ["lsst.sal.*"]


def test_secrets_are_masked(efd: Efd) -> None:
    secrets = {
        "EFD_REGISTRY_AUTH": "me:hush",
        "EFD_CONSDB_URL": "postgresql://me:hush@db/consdb",
        "EFD_KAFKA_SASL_PASSWORD": "hush",
        "EFD_SLACK_WEBHOOK": "https://hooks.example.org/hush",
        "EFD_INFLUX_TOKEN": "hush",
    }
    for arguments in (("config", "show"), ("config", "show", "--json")):
        answer = efd(*arguments, EFD_KAFKA_SASL_USERNAME="visible", **secrets)

        assert answer.code == 0
        assert "hush" not in answer.out + answer.err
        assert "visible" in answer.out
        assert all(name in answer.out for name in secrets)
