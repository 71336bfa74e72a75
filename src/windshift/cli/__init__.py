"""The command line."""

from __future__ import annotations

try:
    from windshift.cli.main import main
except KeyboardInterrupt:  # Ctrl-C while it was still being loaded
    raise SystemExit(130) from None

__all__ = ["main"]
