"""`python -m windshift`, which is the command `windshift`."""

from __future__ import annotations

from windshift.cli import main

main(prog_name="windshift")
