"""``windshift serve`` on a port that it shares with others, so that a successor can start before it stops.

    python -m benchmarks.sharing_server

It takes the same environment. Outside of benchmarks a load balancer does what the shared port does here.
"""

from __future__ import annotations

import functools
import os

from windshift.rpc import Server
from windshift.server.config import config_from_environment
from windshift.server.serve import run


def announce(line: str) -> None:
    """Print the line that says where the server listens."""
    print(line, flush=True)


if __name__ == "__main__":
    Server.listen = functools.partialmethod(Server.listen, reuse_port=True)  # type: ignore[method-assign, assignment]
    run(config_from_environment(os.environ), announce)
