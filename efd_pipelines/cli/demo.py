"""`efd demo` and `efd dev`: the whole path on embedded defaults, and its UI."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    pass
