"""The embedded NATS server of a real process is closed to everybody else on the machine."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.broker import connect, in_seconds
from tests.support.client import Client
from tests.support.windshift_process import EXECUTED, LIMIT, WindshiftProcess, windshift
from tests.wire.consuming import ensure_consumer, subscribed
from tests.wire.management import ensure_stream

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

LISTENS = "0A"
"""The state of a TCP socket in /proc/net/tcp."""


@contextmanager
def worked(directory: Path, under: Sequence[str] = ()) -> Iterator[WindshiftProcess]:
    """Run a server that makes files which everybody may write to, if it can, and have it make some."""
    before = os.umask(0)
    try:
        with windshift(directory, under=under, LOG_LEVEL="debug") as server:
            work(server)
            yield server
    finally:
        os.umask(before)


def work(server: WindshiftProcess) -> None:
    """Have all kinds of things written to disk."""
    client = Client(server.address)
    ensure_stream(client, "S")
    ensure_consumer(client, "S")
    for _ in range(3):
        client.publish("S.a")
    with subscribed(client, "S") as call:
        for event in call.events(3):
            call.ack(event.id)
            call.told()
    client.ensure_store("s")
    client.set("s", "key")
    client.channel.close()


def password(server: WindshiftProcess) -> str:
    """Read the password where its owner can."""
    found = re.search(r'password: "([^"]{20,})"', (server.data / "run" / "nats.conf").read_text())
    assert found is not None
    return found[1]


def nats_pid(server: WindshiftProcess) -> int:
    """Return the id of the nats-server."""
    pid = server.nats_pid
    assert pid is not None
    return pid


def nats_port(server: WindshiftProcess) -> int:
    """Return the port of the nats-server."""
    (file,) = (server.data / "run").glob("*.ports")
    found = re.search(r"127\.0\.0\.1:(\d+)", file.read_text())
    assert found is not None
    return int(found[1])


def said(port: int, text: str) -> str:
    """Say something to a port, and return all that is answered until the other side hangs up."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), LIMIT) as connection:
        connection.sendall(text.encode())
        try:
            while part := connection.recv(65_536):
                heard += part
        except ConnectionResetError:
            pass
    return heard.decode()


CONNECTS = {
    "nothing": "{}",
    "no password": '{"user":"windshift"}',
    "empty password": '{"user":"windshift","pass":""}',
    "wrong password": '{"user":"windshift","pass":"windshift"}',
    "token": '{"auth_token":"windshift"}',
    "system account": '{"user":"sys","pass":"sys"}',
}


def test_nobody_gets_in(tmp_path: Path) -> None:
    """Whoever connects without the password is sent away, whatever is asked for, and HTTP is not spoken."""
    with worked(tmp_path) as server:
        port = nats_port(server)
        for name, options in CONNECTS.items():
            heard = said(port, f"CONNECT {options}\r\nSUB > 1\r\nPING\r\n")
            assert "-ERR 'Authorization Violation'" in heard, name
            assert "PONG" not in heard, name
            assert "MSG" not in heard, name
        for request in ("GET / HTTP/1.0\r\n\r\n", "GET /varz HTTP/1.1\r\nHost: a\r\n\r\n"):
            assert "HTTP/" not in said(port, request)


async def test_the_password_gives_no_system_account(tmp_path: Path) -> None:
    """Windshift's own user sees nothing of the server's system account, and can ask it for nothing."""
    with worked(tmp_path) as server:
        seen: list[bytes] = []
        url = f"nats://windshift:{password(server)}@127.0.0.1:{nats_port(server)}"
        async with connect(url) as broker:
            broker.connection.subscribe(b"$SYS.>", lambda message: seen.append(message.subject))
            async with connect(url):  # the system account is told of this
                for subject in (b"$SYS.REQ.SERVER.PING", b"$SYS.REQ.SERVER.PING.VARZ"):
                    answer = await broker.requests.request(subject, b"", b"", in_seconds(1))
                    assert not isinstance(answer, bytes), subject
        assert [subject for subject in seen if not subject.startswith(b"$SYS.REQ.")] == []


@needs_proc
def test_one_listener_on_loopback(tmp_path: Path) -> None:
    """The nats-server listens on one address of this machine alone, and on no socket of another kind."""
    with worked(tmp_path) as server:
        listening = list(listeners(nats_pid(server)))
        assert listening == [("tcp", f"0100007F:{nats_port(server):04X}")]


def listeners(pid: int) -> Iterator[tuple[str, str]]:
    """List what a process can be reached by: TCP sockets that listen, all of UDP and of Unix."""
    fds = Path(f"/proc/{pid}/fd")
    links = [str(fd.readlink()) for fd in fds.iterdir() if fd.is_symlink()]
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[9] in inodes and (kind.startswith("udp") or fields[3] == LISTENS):
                yield kind, fields[1]
    for row in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = row.split()
        if fields[6] in inodes and len(fields) > 7:  # it has a name
            yield "unix", fields[7]


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Nobody else may read or write anything below the data directory, whatever the umask."""
    (tmp_path / "data").mkdir(mode=0o755)
    with worked(tmp_path) as server:
        seen = [server.data, *server.data.rglob("*")]
        names = {path.name for path in seen}
        assert {"nats.conf", f"nats-server_{nats_pid(server)}.ports", "1.blk", "meta.inf", "o.dat"} <= names
        open_ones = {str(path): oct(path.stat().st_mode) for path in seen if permissions(path) & 0o077}
        assert open_ones == {}
        assert {permissions(path) for path in seen if path.is_dir()} == {0o700}


def permissions(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@needs_proc
def test_the_password_is_in_no_process_table(tmp_path: Path) -> None:
    """From the start on no process shows it, in its arguments or its environment; nor do logs."""
    shown = Sightings()
    with shown.kept(), worked(tmp_path, EXECUTED) as server:
        secret = password(server)
        ps = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert "nats.conf" in ps
        assert secret not in ps
        for pid in (nats_pid(server), server.process.pid):
            assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        os.kill(nats_pid(server), 9)
        server.wait_for(lambda: "nats-server runs again" in server.err)
        assert password(server) == secret
        assert server.stop() == 0
    assert any(str(tmp_path).encode() in seen for seen in shown.all)
    assert [seen for seen in shown.all if secret.encode() in seen] == []
    assert secret not in server.out + server.err + (server.data / "nats-server.log").read_text()


class Sightings:
    """Arguments and environments of all processes of the machine that could be seen meanwhile."""

    def __init__(self) -> None:
        self.all: set[bytes] = set()
        self._over = threading.Event()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Look all the time for the length of a block."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        self.all.add((process / name).read_bytes())
                    except OSError:
                        pass  # it is gone, or somebody else's


def test_the_password_is_new_each_time(tmp_path: Path) -> None:
    """After a stop nothing below the data directory holds the password, and the next start makes another."""
    secrets = []
    for _ in range(2):
        with worked(tmp_path) as server:
            secrets.append(password(server))
            assert server.stop() == 0
            kept = [path for path in server.data.rglob("*") if path.is_file()]
            assert [path for path in kept if secrets[-1].encode() in path.read_bytes()] == []
            assert list((server.data / "run").iterdir()) == []
    assert secrets[0] != secrets[1]
