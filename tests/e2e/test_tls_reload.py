"""Certificates that change while the server runs, and who gets in with which, with grpcio as the client."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.e2e.test_process import health
from tests.e2e.test_tls import credentials
from tests.support.certificates import Authority, Pair
from tests.support.exposition import scrape
from tests.support.nats_server import NatsServer
from tests.support.unfinished_call import unfinished_call
from tests.support.windshift_process import LIMIT, WindshiftProcess, windshift
from windshift.rpc import client_tls
from windshift.rpc._gen.grpc.health.v1 import health_pb2


class Files:
    """The files that a server is told of, and what they hold."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "served"
        self.directory.mkdir()
        self.certificate, self.key, self.ca = (self.directory / name for name in ("cert", "key", "ca"))

    def hold(self, pair: Pair) -> None:
        """Put a pair in place, one file after the other, each at once."""
        put(self.certificate, pair.certificate)
        put(self.key, pair.key)

    @property
    def settings(self) -> dict[str, str]:
        return {"GRPC_TLS_CERT": str(self.certificate), "GRPC_TLS_KEY": str(self.key)}

    @property
    def with_clients(self) -> dict[str, str]:
        return {**self.settings, "GRPC_TLS_CLIENT_CA": str(self.ca)}


def put(place: Path, source: Path) -> None:
    """Replace a file by a copy of another one, so that nobody ever reads half of it."""
    new = place.with_suffix(".new")
    shutil.copy(source, new)
    new.replace(place)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make the authority that clients trust."""
    return Authority(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Make the place for what is served."""
    return Files(tmp_path)


def shown(server: WindshiftProcess, authority: Authority) -> object:
    """Return the common name in the certificate that a new connection gets to see."""
    with (
        socket.create_connection(("127.0.0.1", server.api_port), LIMIT) as plain,
        client_tls(authority.certificate).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        certificate = secure.getpeercert()
        assert certificate
        return dict(field for (field,) in certificate["subject"])["commonName"]  # type: ignore[misc,str-unpack]


def is_let_in(server: WindshiftProcess, authority: Authority, own: Pair | None) -> bool:
    """Tell whether a client that shows this certificate can call."""
    try:
        return health(server.address, credentials=credentials(authority, own)) == "SERVING"
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


def reloads(server: WindshiftProcess, result: str = "ok") -> float:
    """Return how often certificates were loaded, or refused, after the start."""
    return scrape(server.health_port).value("windshift_reloads_total", what="tls", result=result)


def is_failing(server: WindshiftProcess) -> bool:
    """Tell whether what lies on the disk is refused."""
    return scrape(server.health_port).value("windshift_reload_failing", what="tls") == 1


def records(server: WindshiftProcess, level: str) -> list[str]:
    """Return what was logged at this level."""
    found = (json.loads(line) for line in server.err.splitlines())
    return [record["message"] for record in found if record["level"].lower() == level]


@contextmanager
def open_stream(server: WindshiftProcess, authority: Authority) -> Iterator[grpc.Channel]:
    """Keep a call open on one connection, give its channel, and verify in the end that it never broke."""
    with grpc.secure_channel(server.address, credentials(authority)) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest(), timeout=LIMIT * 2)
        next(watch)
        yield channel
        assert watch.is_active()
        watch.cancel()


@pytest.mark.parametrize("kinds", [(True, False), (False, True), (False, False)])
def test_a_new_pair(
    tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files, kinds: tuple[bool, bool]
) -> None:
    """New connections get the new certificate, of whatever kind, and a call that is open goes on."""
    old, new = (authority.issue(name, rsa=rsa) for name, rsa in zip(("old", "new"), kinds, strict=True))
    files.hold(old)
    with windshift(tmp_path, NATS_URL=nats_server.url, **files.settings) as server:
        assert shown(server, authority) == "old"
        with open_stream(server, authority):
            files.hold(new)
            server.wait_for(lambda: shown(server, authority) == "new")
            assert is_let_in(server, authority, None)
            assert reloads(server) >= 1
            assert not is_failing(server)
        assert f"reloaded tls: {files.certificate}, {files.key}" in records(server, "info")
        assert server.stop() == 0


def test_the_expiry_is_shown(
    tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files
) -> None:
    """A metric says when the certificate expires, the new one's after a reload."""
    files.hold(authority.issue("short", lifetime=dt.timedelta(days=2)))
    with windshift(tmp_path, NATS_URL=nats_server.url, **files.settings) as server:

        def left() -> float:
            expiry = scrape(server.health_port).value("windshift_tls_certificate_expiry_seconds")
            return expiry - dt.datetime.now(dt.UTC).timestamp()

        assert 1.9 < left() / 86400 < 2.1
        files.hold(authority.issue("long", lifetime=dt.timedelta(days=30)))
        server.wait_for(lambda: 29.9 < left() / 86400 < 30.1)


def test_a_pair_that_does_not_fit(
    tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files
) -> None:
    """The old one is served for as long as it takes, with one error in the log and a reading that says so."""
    files.hold(authority.issue("old"))
    new = authority.issue("new")
    with windshift(tmp_path, NATS_URL=nats_server.url, **files.settings) as server:
        put(files.certificate, new.certificate)
        server.wait_for(lambda: is_failing(server))
        assert shown(server, authority) == "old"
        assert is_let_in(server, authority, None)
        (error,) = records(server, "error")
        names = f"{files.certificate}, {files.key}"
        assert error == (
            f"cannot reload tls from {names}; what was loaded before stays: GRPC_TLS_KEY: {files.key} is not "
            f"the key of the first certificate in {files.certificate}"
        )
        assert (reloads(server), reloads(server, "failed")) == (0, 1)
        put(files.key, new.key)
        server.wait_for(lambda: not is_failing(server))
        assert shown(server, authority) == "new"
        assert server.stop() == 0


def test_a_file_that_disappears(
    tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files
) -> None:
    """It is broken like any other; the server goes on with what it has."""
    files.hold(authority.issue("old"))
    with windshift(tmp_path, NATS_URL=nats_server.url, **files.settings) as server:
        files.key.unlink()
        server.wait_for(lambda: is_failing(server))
        assert shown(server, authority) == "old"
        error = records(server, "error")[0]
        assert error.endswith(f"stays: GRPC_TLS_KEY: {files.key}: No such file or directory")
        files.hold(authority.issue("new"))
        server.wait_for(lambda: not is_failing(server))
        assert shown(server, authority) == "new"
        assert server.stop() == 0


def test_a_link_that_is_swapped(tmp_path: Path, nats_server: NatsServer, authority: Authority) -> None:
    """A secret that Kubernetes mounts changes by one symbolic link, whose target's target is another one."""
    mounted = tmp_path / "mounted"
    for name in ("old", "new"):
        pair = authority.issue(name)
        (mounted / f"..{name}").mkdir(parents=True)
        shutil.copyfile(pair.certificate, mounted / f"..{name}" / "tls.crt")
        shutil.copyfile(pair.key, mounted / f"..{name}" / "tls.key")
    (mounted / "..data").symlink_to("..old")
    for file in ("tls.crt", "tls.key"):
        (mounted / file).symlink_to(f"..data/{file}")
    settings = {"GRPC_TLS_CERT": str(mounted / "tls.crt"), "GRPC_TLS_KEY": str(mounted / "tls.key")}
    with windshift(tmp_path, NATS_URL=nats_server.url, **settings) as server:
        assert shown(server, authority) == "old"
        (mounted / "..data_tmp").symlink_to("..new")
        (mounted / "..data_tmp").rename(mounted / "..data")
        shutil.rmtree(mounted / "..old")
        server.wait_for(lambda: shown(server, authority) == "new")
        assert not records(server, "error")
        assert server.stop() == 0


def test_new_authorities(tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files) -> None:
    """Clients of the new authority are let in, and those of the old one no more; open calls go on."""
    other = Authority(tmp_path, "other")
    files.hold(authority.issue("api"))
    put(files.ca, authority.certificate)
    before, after = authority.issue("before"), other.issue("after")
    with windshift(tmp_path, NATS_URL=nats_server.url, **files.with_clients) as server:
        with grpc.secure_channel(server.address, credentials(authority, before)) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                health_pb2.HealthCheckRequest.SerializeToString,
                health_pb2.HealthCheckResponse.FromString,
            )
            check(health_pb2.HealthCheckRequest(), timeout=LIMIT)
            assert not is_let_in(server, authority, after)
            put(files.ca, other.certificate)
            server.wait_for(lambda: is_let_in(server, authority, after))
            assert not is_let_in(server, authority, before)
            check(health_pb2.HealthCheckRequest(), timeout=LIMIT)
        assert server.stop() == 0


def test_sighup(tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files) -> None:
    """It loads the files at once, changed or not, and does not stop the server, however often it comes."""
    files.hold(authority.issue("old"))
    with windshift(tmp_path, NATS_URL=nats_server.url, **files.settings) as server:
        for count in (1, 2):
            server.signal(signal.SIGHUP)
            server.wait_for(lambda: reloads(server) == count)  # noqa: B023 - called in the same round
        put(files.key, authority.issue("new").key)
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: is_failing(server))
        assert shown(server, authority) == "old"
        assert records(server, "info").count("SIGHUP: reloading") == 3
        assert server.stop() == 0


def test_sighup_and_nohup(
    tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files
) -> None:
    """A server that was started with SIGHUP ignored obeys it all the same: it does not end it."""
    files.hold(authority.issue("api"))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = WindshiftProcess(tmp_path, NATS_URL=nats_server.url, **files.settings)
        process.start()
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        process.signal(signal.SIGHUP)
        process.wait_for(lambda: reloads(process) == 1)
        assert process.stop() == 0
    finally:
        process.kill()


def test_sighup_while_it_starts(tmp_path: Path, authority: Authority, files: Files) -> None:
    """There is nothing to load again yet: it is no reason to stop."""
    files.hold(authority.issue("api"))
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 1000\n")
    program.chmod(0o755)
    process = WindshiftProcess(tmp_path, WINDSHIFT_NATS_SERVER=str(program), **files.settings)
    process.launch()
    try:
        process.wait_for((tmp_path / "started").exists)
        process.signal(signal.SIGHUP)
        assert process.stop() == 0
        assert "SIGTERM: stopping" in process.err
        assert "SIGHUP" not in process.err
    finally:
        process.kill()


# Who gets in


@pytest.mark.parametrize("how", ["require", "optional", None])
def test_who_gets_in(
    tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files, how: str | None
) -> None:
    """A good certificate is let in, a bad one never, and none where it may be missing."""
    files.hold(authority.issue("api"))
    put(files.ca, authority.certificate)
    good = authority.issue("good")
    expired = authority.issue("expired", lifetime=dt.timedelta(minutes=-1))
    stranger = Authority(tmp_path, "strangers").issue("stranger")
    settings = files.with_clients | ({} if how is None else {"GRPC_TLS_CLIENT_AUTH": how})
    with windshift(tmp_path, NATS_URL=nats_server.url, **settings) as server:
        assert is_let_in(server, authority, good)
        assert not is_let_in(server, authority, expired)
        assert not is_let_in(server, authority, stranger)
        assert is_let_in(server, authority, None) == (how == "optional")
        assert is_let_in(server, authority, good)
        assert server.stop() == 0


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_what_is_spoken(tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files) -> None:
    """TLS 1.2 and 1.3 and HTTP/2: who offers less is refused, or closed before anything is said."""
    files.hold(authority.issue("api"))

    def spoken(version: ssl.TLSVersion, *protocols: str) -> bytes:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if protocols:
            context.set_alpn_protocols(protocols)
        try:
            with (
                socket.create_connection(("127.0.0.1", server.api_port), LIMIT) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                return secure.recv(9)
        except (ssl.SSLError, ConnectionError):
            return b""

    settings_frame = 4
    with windshift(tmp_path, NATS_URL=nats_server.url, **files.settings) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert spoken(version, "h2")[3] == settings_frame
            assert spoken(version) == b""
            assert spoken(version, "http/1.1") == b""
        assert spoken(ssl.TLSVersion.TLSv1_1, "h2") == b""
        assert server.stop() == 0


def test_sighup_during_a_drain(
    tmp_path: Path, nats_server: NatsServer, authority: Authority, files: Files
) -> None:
    """It is no second signal to stop: calls that are open still have their time."""
    files.hold(authority.issue("api"))
    settings = {**files.settings, "WINDSHIFT_DRAIN_TIMEOUT": "1"}
    with windshift(tmp_path, NATS_URL=nats_server.url, **settings) as server:
        with unfinished_call(server.api_port, client_tls(authority.certificate)):
            server.signal(signal.SIGTERM)
            server.wait_for(lambda: "SIGTERM: stopping" in server.err)
            server.signal(signal.SIGHUP)
            assert server.wait() == 0
        assert "they were cut off" in server.err


def test_sighup_and_the_authorization_file(tmp_path: Path, nats_server: NatsServer) -> None:
    """It is loaded again too, and a broken one keeps the rules that there were."""
    file = tmp_path / "auth.toml"
    file.touch(mode=0o600)
    with windshift(tmp_path, NATS_URL=nats_server.url, WINDSHIFT_AUTH_FILE=str(file)) as server:

        def reading(name: str, **labels: str) -> float:
            return scrape(server.health_port).value(name, what="authorization", **labels)

        server.signal(signal.SIGHUP)
        server.wait_for(lambda: reading("windshift_reloads_total", result="ok") == 1)
        file.write_text("principals = 1\n")
        server.signal(signal.SIGHUP)
        server.wait_for(lambda: reading("windshift_reload_failing") == 1)
        assert any(each.startswith("cannot reload authorization") for each in records(server, "error"))
        file.write_text("")
        server.wait_for(lambda: reading("windshift_reload_failing") == 0)
        assert server.stop() == 0
