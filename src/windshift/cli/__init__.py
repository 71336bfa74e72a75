"""The command line."""

from __future__ import annotations

from windshift.cli.main import main

__all__ = ["main"]
