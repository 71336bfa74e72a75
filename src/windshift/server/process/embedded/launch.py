"""Run a program that ends with its parent: `launch.py PARENT PROGRAM ARGUMENT…`, by an interpreter alone.

Linux sends this process SIGTERM when its parent dies in whatever way, SIGKILL included; the request holds
across `execv`. Elsewhere there is no such thing, and a killed parent leaves the program running.
What the program writes is for its own user alone.
Not done between fork and exec of the parent: code that runs there must not touch locks that other threads
held.
"""

from __future__ import annotations

import os
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)
_SIGTERM = 15


def main(parent: int, program: list[str]) -> None:
    """Become the program, unless the parent is gone already."""
    os.umask(0o077)
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - takes longer than all the rest of this, and only Linux needs it

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGTERM)
    if os.getppid() != parent:  # it died before the request was made
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - no shell is what we want


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
