"""A server process with a NATS of somebody else: several URLs, credentials, TLS, and failures."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.client import Client, refused
from tests.support.nats_server import running_nats
from tests.support.operator import user_key, write_operator
from tests.support.windshift_process import WindshiftProcess, windshift
from tests.wire.consuming import ensure_consumer, subscribed
from tests.wire.management import ensure_stream


@pytest.fixture
def nobody() -> Iterator[str]:
    """Give an address at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def refuses(directory: Path, **environment: str) -> str:
    """Run a server that must exit with status 1, and return the one line that it says beside its log."""
    process = WindshiftProcess(directory, **environment, LOG_LEVEL="error")
    process.launch()
    try:
        assert process.wait() == 1
    finally:
        process.kill()
    assert process.out == ""
    assert not process.data.exists()
    (line,) = process.err.splitlines()
    return line


def test_several_servers_with_credentials(tmp_path: Path, nobody: str) -> None:
    """With several servers one that answers is enough; credentials in the URL are decoded."""
    with running_nats(tmp_path / "nats", "--user", "me", "--pass", "p@ss word") as broker:
        urls = f"nats://me:p%40ss%20word@{nobody}, nats://me:p%40ss%20word@127.0.0.1:{broker.port}"
        with windshift(tmp_path, NATS_URL=urls) as server:
            assert server.out.endswith(f"data in nats://{nobody}, nats://127.0.0.1:{broker.port}\n")
            assert server.probe("/readyz").status == 200
            assert not server.data.exists()
            assert server.stop() == 0
            assert "p@ss" not in server.out + server.err
            assert "p%40ss" not in server.out + server.err


def test_broker_goes_and_comes(tmp_path: Path) -> None:
    """Without its NATS the server is not ready, and is again when it is back."""
    with running_nats(tmp_path / "nats") as broker, windshift(tmp_path, NATS_URL=broker.url) as server:
        broker.kill()
        server.wait_for(lambda: server.probe("/readyz").status == 503)
        assert server.probe("/healthz").status == 200
        broker.start()
        server.wait_for(lambda: server.probe("/readyz").status == 200)
        assert server.stop() == 0


def test_credentials_file(tmp_path: Path) -> None:
    """NATS_CREDS holds a user's JWT and seed."""
    config, credentials = write_operator(tmp_path)
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        with windshift(tmp_path, NATS_URL=broker.url, NATS_CREDS=str(credentials)) as server:
            assert server.probe("/readyz").status == 200
            assert server.stop() == 0
        told = refuses(tmp_path, NATS_URL=broker.url)
        assert told.startswith("windshift: NATS_URL: ")
        assert "refused the credentials" in told


def test_nkey_file(tmp_path: Path) -> None:
    """NATS_NKEY holds the seed of a user's key; the wrong one is told by the names of the settings."""
    key, other, file = user_key(), user_key(), tmp_path / "nkey"
    config = tmp_path / "nats.conf"
    config.write_text(f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}")
    file.write_text(f"{key.seed}\n")
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        given = {"NATS_URL": broker.url, "NATS_NKEY": str(file)}
        with windshift(tmp_path, **given) as server:
            assert server.probe("/readyz").status == 200
            assert server.stop() == 0
        for wrong, why in ((other.seed, "refused the credentials"), ("no seed", "does not hold")):
            file.write_text(wrong)
            told = refuses(tmp_path, **given)
            assert told.startswith("windshift: NATS_URL, NATS_NKEY: ")
            assert why in told


@pytest.mark.parametrize("user", ["windshift", ""])
def test_password_file(tmp_path: Path, user: str) -> None:
    """NATS_PASSWORD_FILE holds the password of the URL's user, or a token; it is read at each connect."""
    config, file = tmp_path / "nats.conf", tmp_path / "password"
    who = f"user: {user}, password" if user else "token"
    config.write_text(f'authorization {{ {who}: "p@ss/word" }}')
    file.write_text("p@ss/word\n")
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        url = broker.url.replace("//", f"//{user}@") if user else broker.url
        given = {"NATS_URL": url, "NATS_PASSWORD_FILE": str(file)}
        with windshift(tmp_path, **given) as server:
            assert server.probe("/readyz").status == 200
            broker.kill()
            config.write_text(f'authorization {{ {who}: "another" }}')
            file.write_text("another")
            broker.start()
            server.wait_for(lambda: server.probe("/readyz").status == 200)
            assert server.stop() == 0
        for wrong, why in (("p@ss/word", "refused the credentials"), ("\n", "does not hold a password")):
            file.write_text(wrong)
            told = refuses(tmp_path, **given)
            assert told.startswith("windshift: NATS_URL, NATS_PASSWORD_FILE: ")
            assert why in told


def test_tls(tmp_path: Path) -> None:
    """NATS_TLS_* check the server, and show it a certificate of ours."""
    authority = Authority(tmp_path)
    theirs, ours = authority.issue("nats"), authority.issue("windshift")
    tls = (
        *("--tlscert", str(theirs.certificate), "--tlskey", str(theirs.key)),
        *("--tlsverify", "--tlscacert", str(authority.certificate)),
    )
    with running_nats(tmp_path / "nats", *tls) as broker:
        files = {
            "NATS_TLS_CA": str(authority.certificate),
            "NATS_TLS_CERT": str(ours.certificate),
            "NATS_TLS_KEY": str(ours.key),
        }
        with windshift(tmp_path, NATS_URL=f"tls://127.0.0.1:{broker.port}", **files) as server:
            assert server.probe("/readyz").status == 200
            assert server.stop() == 0
        stranger = Authority(tmp_path, "stranger")
        told = refuses(tmp_path, NATS_URL=broker.url, **{**files, "NATS_TLS_CA": str(stranger.certificate)})
        assert told.startswith("windshift: NATS_URL, NATS_TLS_CA, NATS_TLS_CERT, NATS_TLS_KEY: ")
        assert "its certificate was refused" in told


def test_tls_first(tmp_path: Path) -> None:
    """NATS_TLS_FIRST is for a nats-server that says nothing before TLS; without it, that one is silent."""
    authority = Authority(tmp_path)
    theirs = authority.issue("nats")
    config = tmp_path / "nats.conf"
    config.write_text(
        f"tls {{ cert_file: '{theirs.certificate}', key_file: '{theirs.key}', handshake_first: true }}"
    )
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        given = {"NATS_URL": broker.url, "NATS_TLS_CA": str(authority.certificate)}
        with windshift(tmp_path, **given, NATS_TLS_FIRST="true") as server:
            assert server.probe("/readyz").status == 200
            assert server.stop() == 0
        told = refuses(tmp_path, **given)
        assert told.startswith("windshift: NATS_URL, NATS_TLS_CA: ")
        assert "did not answer in time" in told


def test_unreachable(tmp_path: Path, nobody: str) -> None:
    """A NATS that is not there: status 1 and one line that names it and hides the password."""
    told = refuses(tmp_path, NATS_URL=f"nats://me:s3cret@{nobody}")
    assert told.startswith("windshift: NATS_URL: ")
    assert nobody in told
    assert "s3cret" not in told


def test_refused_credentials(tmp_path: Path) -> None:
    """A wrong password: status 1 and one line."""
    with running_nats(tmp_path / "nats", "--user", "me", "--pass", "right") as broker:
        told = refuses(tmp_path, NATS_URL=f"nats://me:wr0ng@127.0.0.1:{broker.port}")
    assert "refused the credentials" in told
    assert "wr0ng" not in told


def test_plain_text_when_tls_was_asked_for(tmp_path: Path) -> None:
    """A server without TLS is not talked to when TLS was asked for."""
    with running_nats(tmp_path / "nats", "--user", "me", "--pass", "right") as broker:
        told = refuses(tmp_path, NATS_URL=f"tls://me:right@127.0.0.1:{broker.port}")
    assert "does not offer TLS" in told


@pytest.mark.parametrize("fate", ["killed", "frozen"])
def test_an_outage_as_clients_see_it(tmp_path: Path, fate: str) -> None:
    """While NATS is away calls fail in time and consume calls stay open; then all go on by themselves."""
    with running_nats(tmp_path / "nats") as broker, windshift(tmp_path, NATS_URL=broker.url) as server:
        client = Client(server.address)
        ensure_stream(client, "S")
        ensure_consumer(client, "S")
        with subscribed(client, "S", 10) as call:
            client.publish("S.a")
            call.ack(call.events(1)[0].id)
            call.told()
            if fate == "killed":
                broker.kill()
            else:
                broker.freeze()
            server.wait_for(lambda: server.probe("/readyz").status == 503)
            with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
                client.publish("S.a", timeout=4)
            with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
                client.get("s", "a", timeout=4)
            if fate == "killed":
                broker.start()
            else:
                broker.thaw()
            server.wait_for(lambda: server.probe("/readyz").status == 200)
            published = client.publish("S.b", idempotency_key="k")
            assert client.publish("S.b", idempotency_key="k") == published
            (event,) = call.events(1)
            assert event.id == published == 2
            call.ack(event.id)
            assert call.told()[1] == [published]
        client.channel.close()
