"""An authorization file that is none, or cannot be read: what was loaded stays, and the server obeys."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.authorization.policies import ALL, principal, put
from tests.authorization.rows import DENIED, invoke, method_of
from tests.authorization.served import served
from tests.support.client import any_of
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import WindshiftProcess
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

PUBLISH = method_of("EventsService/Publish")
POLICY = ALL + principal("all")
DENYING = POLICY.replace("[role.all]", '[role.all]\ndeny.publish = ["odd.>"]')
EVENT = pb.PublishEventRequest(subject="odd.x", data=any_of("text"))


def make_pipe(file: Path) -> None:
    """Put a pipe in the place of a file; nobody ever writes to it."""
    file.unlink()
    os.mkfifo(file)


def make_link(file: Path) -> None:
    """Put a link to a device in its place, which never ends."""
    file.unlink()
    file.symlink_to("/dev/zero")


def let_a_group_write(file: Path) -> None:
    """Let others in its group write to it, with rules in it that would be taken else."""
    put(file, DENYING).chmod(0o660)


@pytest.mark.parametrize("make_odd", [make_pipe, make_link, let_a_group_write])
def test_while_it_runs(nats_server: NatsServer, tmp_path: Path, make_odd: Callable[[Path], None]) -> None:
    """It is refused; the next file is taken, and the server ends when it is told to."""
    with served(tmp_path, POLICY, NATS_URL=nats_server.url) as server:
        caller = server.caller("all")
        caller.ensure_stream("ODD", "odd.>")
        make_odd(server.file)
        server.hang_up("failed")
        assert invoke(caller, PUBLISH, EVENT).refusal is None
        server.put(DENYING)
        assert invoke(caller, PUBLISH, EVENT).answer == DENIED
        assert server.process.stop() == 0


def test_at_the_start(tmp_path: Path) -> None:
    """A server does not wait for somebody to write to it."""
    file = put(tmp_path / "auth.toml", POLICY)
    make_pipe(file)
    process = WindshiftProcess(tmp_path, WINDSHIFT_AUTH_FILE=str(file))
    try:
        process.launch()
        assert process.wait() == 2
        assert f"WINDSHIFT_AUTH_FILE: cannot read the file '{file}'" in process.err
    finally:
        process.kill()


def test_at_the_start_a_group_that_writes(tmp_path: Path) -> None:
    """A server does not start by rules that a group can change, and says what to do."""
    file = put(tmp_path / "auth.toml", POLICY)
    file.chmod(0o664)
    process = WindshiftProcess(tmp_path, WINDSHIFT_AUTH_FILE=str(file))
    try:
        process.launch()
        assert process.wait() == 1
        assert f"line 1: a group may write to the file; chmod go-w {file}" in process.err
    finally:
        process.kill()


def test_hangups_until_the_end(nats_server: NatsServer, tmp_path: Path) -> None:
    """Whoever asks for a reload while the server stops does not break that off, up to its very end."""
    with served(tmp_path, POLICY, NATS_URL=nats_server.url) as server:
        process = server.process
        process.signal(signal.SIGTERM)
        while process.process.poll() is None:
            process.signal(signal.SIGHUP)
            time.sleep(0.0005)
        assert process.wait() == 0
