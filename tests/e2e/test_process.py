"""The life of a server process, seen from outside: start, probes, signals, restarts, what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.nats_server import NatsServer
from tests.support.unfinished_call import unfinished_call
from tests.support.windshift_process import EXECUTED, LIMIT, WindshiftProcess, lives, windshift
from windshift.rpc._gen.grpc.health.v1 import health_pb2
from windshift.rpc._gen.grpc.reflection.v1 import reflection_pb2
from windshift.server.process.embedded.program import find_program


def health(address: str, service: str = "", credentials: grpc.ChannelCredentials | None = None) -> str:
    """Ask over gRPC how a service is."""
    if credentials is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, credentials)
    with channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        answer = check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT, wait_for_ready=False)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WindshiftProcess]:
    """Run a server with an embedded broker."""
    with windshift(tmp_path) as process:
        yield process


def refused(directory: Path, **environment: str) -> tuple[int, str]:
    """Run a server that must not start; return its exit status and what it wrote to stderr."""
    process = WindshiftProcess(directory, **environment)
    try:
        process.launch()
        status = process.wait()
    finally:
        process.kill()
    assert process.out == ""
    return status, process.err


def test_ready(tmp_path: Path) -> None:
    """One line on stdout says where it listens and where data lies; probes of both kinds agree."""
    with windshift(tmp_path, under=EXECUTED) as server:
        assert server.out == (
            f"windshift is ready: API on 127.0.0.1:{server.api_port}, "
            f"health on http://127.0.0.1:{server.health_port}, data in {server.data}\n"
        )
        assert server.probe("/healthz").status == 200
        assert server.probe("/readyz").status == 200
        assert health(server.address) == "SERVING"
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_orderly_stop(server: WindshiftProcess, number: signal.Signals) -> None:
    """On these signals it stops with status 0 and leaves neither a process nor a secret behind."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("it is ignored here, as by nohup, and so by what is started from here")
    nats_pid = server.nats_pid
    assert nats_pid is not None
    server.signal(number)
    assert server.wait() == 0
    assert not lives(nats_pid)
    assert list((server.data / "run").iterdir()) == []
    assert "Traceback" not in server.err


def test_ctrl_c_in_a_terminal(server: WindshiftProcess) -> None:
    """Ctrl-C goes to the whole process group; nats-server is not in it and is stopped last, in good order."""
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.wait() == 0
    assert "nats-server ended" not in server.err
    assert 'Trapped "terminated" signal' in (server.data / "nats-server.log").read_text()


def test_data_directory_is_free_after_a_stop(tmp_path: Path) -> None:
    """The next server on the same directory starts."""
    for _ in range(2):
        with windshift(tmp_path) as server:
            assert server.stop() == 0


def test_nobody_reads_what_it_prints(tmp_path: Path, nats_server: NatsServer) -> None:
    """A server whose standard output was closed serves all the same, and says so on the other one."""
    process = WindshiftProcess(tmp_path, NATS_URL=nats_server.url)
    reader, writer = os.pipe()
    os.close(reader)
    process.launch(stdout=writer)
    os.close(writer)
    try:
        process.wait_for(lambda: process.probe("/readyz").status == 200)
        process.wait_for(lambda: "cannot write to stdout (Broken pipe): windshift is ready" in process.err)
        assert process.stop() == 0
    finally:
        process.kill()


def test_outlives_its_terminal_if_told_so(tmp_path: Path, nats_server: NatsServer) -> None:
    """A server that was started with SIGHUP ignored, as nohup does, ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = WindshiftProcess(tmp_path, under=EXECUTED, NATS_URL=nats_server.url)
        process.start()
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        process.signal(signal.SIGHUP)
        assert process.probe("/readyz").status == 200
        assert process.stop() == 0
        assert "SIGHUP" not in process.err
    finally:
        process.kill()


@pytest.mark.parametrize("message", ["windshift.payload.v1.Json", "windshift.test.v1.StringValue"])
def test_reflection_tells_of_payloads(tmp_path: Path, nats_server: NatsServer, message: str) -> None:
    """Tools can read and write our own messages in events; nobody has used them in that process before."""
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=message)
    with (
        windshift(tmp_path, under=EXECUTED, NATS_URL=nats_server.url) as process,
        grpc.insecure_channel(process.address) as channel,
    ):
        ask = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = ask(iter([request]), timeout=LIMIT)
    assert answer.WhichOneof("message_response") == "file_descriptor_response"


def test_drain(tmp_path: Path) -> None:
    """During a drain it is alive but not ready, and a call that never ends is cut off at the limit."""
    with windshift(tmp_path, WINDSHIFT_DRAIN_TIMEOUT="3") as server, unfinished_call(server.api_port):
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: server.probe("/readyz").status != 200)
        assert server.probe("/readyz").body["reason"] == "draining"
        assert server.probe("/healthz").status == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.api_port)).close()
        assert server.nats_pid is not None
        assert server.wait() == 0
        assert "not all calls ended within WINDSHIFT_DRAIN_TIMEOUT (3 s)" in server.err


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal(tmp_path: Path, second: signal.Signals) -> None:
    """A second signal ends it at once, with a status that says so, and nats-server with it."""
    with windshift(tmp_path, WINDSHIFT_DRAIN_TIMEOUT="600") as server, unfinished_call(server.api_port):
        nats_pid = server.nats_pid
        assert nats_pid is not None
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: server.probe("/readyz").status == 503)
        server.signal(second)
        assert server.wait() == 128 + second
        server.wait_for(lambda: not lives(nats_pid))
        assert server.err.endswith(f"windshift: a second signal ({second.name}): not waiting any longer\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_crash_leaves_no_orphan(tmp_path: Path) -> None:
    """After SIGKILL nats-server ends by itself, and a new server takes the directory over at once."""
    with windshift(tmp_path) as server:
        nats_pid = server.nats_pid
        assert nats_pid is not None
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        with windshift(tmp_path) as next_one:
            assert not lives(nats_pid)
            assert next_one.stop() == 0


def test_dead_nats_server_is_restarted(server: WindshiftProcess) -> None:
    """When nats-server dies the server says so, and is ready again with another one."""
    first = server.nats_pid
    assert first is not None
    for path in (server.data / "run").glob("*.ports"):
        path.unlink()  # a crash leaves it; the new one's is then the only one
    os.kill(first, signal.SIGKILL)
    server.wait_for(lambda: server.nats_pid not in {None, first})
    server.wait_for(lambda: server.probe("/readyz").status == 200)
    assert health(server.address) == "SERVING"
    assert "nats-server ended (signal 9)" in server.err
    assert server.stop() == 0


def test_not_ready_without_nats(tmp_path: Path) -> None:
    """While nats-server is away the server is alive but not ready, and says why."""
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\n[ -e {tmp_path}/broken ] && exit 3\nexec {find_program()} "$@"\n')
    program.chmod(0o755)
    with windshift(tmp_path, WINDSHIFT_NATS_SERVER=str(program)) as server:
        (tmp_path / "broken").touch()
        pid = server.nats_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        server.wait_for(lambda: server.probe("/readyz").status == 503)
        assert server.probe("/readyz").body["reason"] == "no connection to NATS"
        assert server.probe("/healthz").status == 200
        assert health(server.address) == "NOT_SERVING"
        (tmp_path / "broken").unlink()
        server.wait_for(lambda: server.probe("/readyz").status == 200)
        assert server.stop() == 0


def test_signal_while_starting(tmp_path: Path) -> None:
    """A stop is obeyed before the server is ready; until then it is alive but not ready."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    program.chmod(0o755)
    process = WindshiftProcess(tmp_path, WINDSHIFT_NATS_SERVER=str(program))
    process.launch()
    try:
        process.wait_for((tmp_path / "pid").exists)
        process.wait_for(lambda: process.probe("/readyz").status == 503)
        assert process.probe("/readyz").body["reason"] == "starting"
        assert process.probe("/healthz").status == 200
        assert process.stop() == 0
        assert not lives(int((tmp_path / "pid").read_text()))
        assert process.out == ""
    finally:
        process.kill()


# What it refuses


@pytest.mark.parametrize("name", ["GRPC_PORT", "HEALTH_PORT"])
def test_port_in_use(tmp_path: Path, name: str) -> None:
    """A port that somebody has: status 1 and one line that names the variable."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, told = refused(tmp_path, **{name: str(port)}, LOG_LEVEL="error")
    assert status == 1
    assert told == (
        f"windshift: cannot listen on 127.0.0.1:{port}: the port is in use; stop what uses it, or set "
        f"another {name}\n"
    )


@pytest.mark.parametrize("name", ["GRPC_HOST", "HEALTH_HOST"])
@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "no..name"])
def test_address_of_somebody_else(tmp_path: Path, name: str, host: str) -> None:
    """An address that this machine does not have: status 1 and one line."""
    settings = {"HEALTH_HOST": "127.0.0.1", "WINDSHIFT_INSECURE": "true", name: host}
    settings |= {"GRPC_PORT": "0", "HEALTH_PORT": "0"}
    status, told = refused(tmp_path, **settings, LOG_LEVEL="error")
    assert status == 1
    assert told == (
        f"windshift: cannot listen on {host}:0: this machine has no such address; set another {name}\n"
    )


def test_data_directory_in_use(server: WindshiftProcess, tmp_path: Path) -> None:
    """A second server on one data directory: status 1 and one line; the first goes on."""
    status, told = refused(_below(tmp_path), WINDSHIFT_DATA_DIR=str(server.data))
    assert status == 1
    assert told == (
        f"windshift: the data directory {server.data} is in use by another server; stop that one, or set "
        "another WINDSHIFT_DATA_DIR\n"
    )
    assert server.probe("/readyz").status == 200


def test_data_directory_not_writable(tmp_path: Path) -> None:
    """A data directory that cannot be made: status 1 and one line."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "data"
    status, told = refused(_below(tmp_path), WINDSHIFT_DATA_DIR=str(path))
    assert status == 1
    assert told == (
        f"windshift: cannot write to the data directory {path}: Not a directory; make it writable, or set "
        "another WINDSHIFT_DATA_DIR\n"
    )


def test_wrong_environment(tmp_path: Path) -> None:
    """Wrong values: status 2, and a line for each."""
    status, told = refused(tmp_path, GRPC_PORT="x", NATS_URL="ftp://me:s3cret@host", WINDSHIFT_AUTH_FILE="f")
    assert status == 2
    assert sorted(line.split(":")[1] for line in told.splitlines()) == [
        " GRPC_PORT",
        " NATS_URL",
        " WINDSHIFT_AUTH_FILE",
    ]
    assert "s3cret" not in told


# Logs


def test_logs_are_json(server: WindshiftProcess) -> None:
    """Away from a terminal every record is a JSON object."""
    assert server.stop() == 0
    records = [json.loads(line) for line in server.err.splitlines()]
    assert {"SIGTERM: stopping; a second one ends the process at once", "drained: all calls ended"} <= {
        record["message"] for record in records
    }


def test_development_logs_are_readable(tmp_path: Path) -> None:
    """Development mode writes plain lines."""
    with windshift(tmp_path, DEVELOPMENT="true") as server:
        assert server.stop() == 0
        assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} INFO +windshift\.", server.err, re.MULTILINE)


def _below(directory: Path) -> Path:
    """Return a directory of its own for a second server."""
    below = directory / "second"
    below.mkdir()
    return below
