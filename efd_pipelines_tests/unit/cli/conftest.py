"""What tests of the command line ask for: `efd`, called in this process with nothing but the settings it is given."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.cli import main


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call of `efd` said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Efd = Callable[..., Answer]


@pytest.fixture
def settings_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An empty directory as the current one, and no setting of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("EFD_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def efd(settings_only: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Efd:
    """Calls `efd` with arguments, and settings by name."""

    def call(*arguments: str, **settings: str) -> Answer:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in settings.items():
                environment.setenv(name, value)
            capsys.readouterr()
            code = main(arguments)
            out, err = capsys.readouterr()
            return Answer(code, out, err)

    return call
