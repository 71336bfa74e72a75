"""Ports for servers that are started again where they were.

One that the system chose may go to another process while its server is away: to a server, or to any client,
whose end of a connection needs a port, too. Those that are given here lie below what the system chooses from
(from 32,768 on Linux, 49,152 elsewhere), and each worker of the test run has its own.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Final

_FIRST: Final = 10_000
_END: Final = 32_000


def new_port() -> int:
    """Return a port on which nothing listens, and that is given to nobody else for a long time."""
    return next(_FREE)


def _free_ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    each = (_END - _FIRST) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first, place = _FIRST + worker * each, random.randrange(each)  # another run may be under way
    while True:
        place = (place + 1) % each
        if _is_free(first + place):
            yield first + place


def _is_free(port: int) -> bool:
    try:
        with closing(socket.create_server(("127.0.0.1", port))):
            return True
    except OSError:
        return False


_FREE: Final = _free_ports()
