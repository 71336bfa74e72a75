"""What a server is given to reach NATS stands in nothing that it says, nor in its arguments."""

from __future__ import annotations

import datetime as dt
import json
import math
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.exposition import scrape
from tests.support.nats_server import running_nats
from tests.support.operator import Operator, user_key, write_operator
from tests.support.windshift_process import EXECUTED, WindshiftProcess
from windshift.server.config.read import config_from_environment
from windshift.server.config.telemetry import TlsFiles
from windshift.server.process.tls import broker_credentials_expiry

PASSWORD = "pl4nted%/@:s3cret"
ENCODED = "pl4nted%25%2F%40%3As3cret"
PLANTED = (PASSWORD, ENCODED, "pl4nted", "s3cret")


@contextmanager
def launched(directory: Path, **environment: str) -> Iterator[WindshiftProcess]:
    """Launch a server that tells as much as it can."""
    process = WindshiftProcess(directory, **{"LOG_LEVEL": "debug", "DEVELOPMENT": "true", **environment})
    try:
        process.launch()
        yield process
    finally:
        process.kill()


def assert_silent(process: WindshiftProcess, secrets: tuple[str, ...] = PLANTED, *more: str) -> None:
    """See that a server has said something, and nothing of this."""
    said = "".join((process.out, process.err, *more))
    assert said
    assert [secret for secret in secrets if secret.lower() in said.lower()] == []


def fails(directory: Path, secrets: tuple[str, ...] = PLANTED, **environment: str) -> str:
    """Run a server that cannot start, and return what it says."""
    with launched(directory, **environment) as process:
        assert process.wait() in (1, 2)
        assert_silent(process, secrets)
        return process.err


def test_while_all_goes_well_and_while_it_does_not(tmp_path: Path) -> None:
    """From the start over an outage, refused credentials and failed calls to the end nothing is shown."""
    config = tmp_path / "nats.conf"
    config.write_text(accounts(PASSWORD))
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        url = f"nats://windshift:{ENCODED}@127.0.0.1:{broker.port}"
        process = WindshiftProcess(tmp_path, under=EXECUTED, NATS_URL=url, LOG_LEVEL="debug")
        try:
            process.start()
            arguments = arguments_of(process)
            assert "windshift serve" in arguments
            broker.kill()
            process.wait_for(lambda: process.probe("/readyz").status == 503)
            told = [json.dumps(process.probe("/readyz").body), refusal(process)]
            config.write_text(accounts("another"))
            broker.start()
            process.wait_for(lambda: "refused the credentials" in process.err)
            told += [json.dumps(process.probe("/readyz").body), refusal(process)]
            assert process.stop() == 0
            assert_silent(process, PLANTED, arguments, *told)
        finally:
            process.kill()


def arguments_of(process: WindshiftProcess) -> str:
    """Return the command lines of a server and of what it has started."""
    listed = subprocess.run(
        ["ps", "axww", "-o", "pgid=,args="], capture_output=True, text=True, check=True
    ).stdout
    group = str(process.process.pid)
    return "\n".join(line for line in listed.splitlines() if line.split()[0] == group)


def accounts(password: str) -> str:
    """Write a nats-server's configuration."""
    return f'authorization {{ user: windshift, password: "{password}" }}'


def refusal(process: WindshiftProcess) -> str:
    """Make a call that fails, and return all that the client is told."""
    client = Client(process.address)
    with pytest.raises(grpc.RpcError) as caught:
        client.publish("orders.a", timeout=1)
    client.channel.close()
    return repr(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "nats://windshift:{0}@127.0.0.1:1, nats://{0}@127.0.0.1:1, nats://me:{0}@no-such-host.invalid:4222",
        "tls://windshift:{}@127.0.0.1:1",
        "nats://windshift:{}@127.0.0.1:port",
        "nats://windshift:{}@",
        "http://windshift:{}@127.0.0.1:1",
    ],
)
def test_urls_that_lead_nowhere(tmp_path: Path, url: str) -> None:
    """A server that cannot be reached, or a URL that is none, is told of without what it holds."""
    assert "NATS_URL" in fails(tmp_path, NATS_URL=url.format(ENCODED))


@pytest.mark.parametrize("mark", "/?#,")
@pytest.mark.parametrize(
    "url", ["nats://{}@127.0.0.1:1", "nats://windshift:{}@127.0.0.1:1", "nats://127.0.0.1:1,nats://me:{}@b:1"]
)
def test_passwords_that_are_not_encoded(tmp_path: Path, mark: str, url: str) -> None:
    """A character that ends the host does not make one out of the beginning of a password or a token."""
    assert "NATS_URL" in fails(tmp_path, NATS_URL=url.format(f"4242{mark}s3cret"), secrets=("4242", "s3cret"))


def test_credentials_file(tmp_path: Path) -> None:
    """Neither the JWT nor the seed is shown, whether the broker takes them or not, or the file is broken."""
    config, credentials = write_operator(tmp_path)
    text = credentials.read_text()
    secrets = tuple(line for line in text.splitlines() if line and not line.startswith("-"))
    assert len(secrets) == 2
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        given = {"NATS_URL": broker.url, "NATS_CREDS": str(credentials)}
        with launched(tmp_path, **given) as process:
            process.wait_for(lambda: "windshift is ready" in process.out)
            broker.kill()
            process.wait_for(lambda: "the connection ended" in process.err)
            broker.start()
            process.wait_for(lambda: process.err.count("connected to NATS") == 2)
            assert process.stop() == 0
            assert_silent(process, secrets)
        for broken in broken_credentials(text):
            credentials.write_text(broken)
            assert "credentials" in fails(tmp_path, (*secrets, *PLANTED), **given)
        credentials.unlink()
        assert "NATS_CREDS" in fails(tmp_path, secrets, **given)


def test_the_expiry_is_shown(tmp_path: Path) -> None:
    """A metric says when the first of what NATS is shown expires, or that a file cannot be used."""
    operator, day = Operator(tmp_path), 86400
    config, credentials = (
        operator.write_config(),
        operator.write_credentials(expires=int(time.time()) + 9 * day),
    )
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        given = {"NATS_URL": broker.url, "NATS_CREDS": str(credentials)}
        with launched(tmp_path, **given) as process:
            process.wait_ready()

            def days() -> float:
                expiry = scrape(process.health_port).value("windshift_nats_credentials_expiry_seconds")
                return (expiry - time.time()) / day

            assert 8.9 < days() < 9.1
            operator.write_credentials(expires=int(time.time()) + 90 * day)
            assert 89.9 < days() < 90.1
            operator.write_credentials()
            assert days() == math.inf
            credentials.unlink()
            assert days() < -10_000


def test_whatever_expires_first(tmp_path: Path) -> None:
    """Of a JWT and a certificate the earlier one counts; without both there is nothing that expires."""
    pair = Authority(tmp_path, "ca").issue("client", lifetime=dt.timedelta(days=20))
    credentials = Operator(tmp_path).write_credentials(expires=int(time.time()) + 90 * 86400)
    files = {"NATS_TLS_CERT": str(pair.certificate), "NATS_TLS_KEY": str(pair.key)}
    given = {"NATS_URL": "nats", "NATS_CREDS": str(credentials), **files}
    config = config_from_environment(given).nats
    assert 19.9 < (broker_credentials_expiry(config) - time.time()) / 86400 < 20.1
    pair.certificate.write_text("no certificate")
    assert broker_credentials_expiry(config) == 0
    pair.certificate.unlink()
    assert broker_credentials_expiry(config) == 0
    assert broker_credentials_expiry(replace(config, credentials=None, tls=TlsFiles())) == math.inf


def broken_credentials(text: str) -> Iterator[str]:
    """Spoil a credentials file in several ways."""
    lines = text.splitlines(keepends=True)
    seed = next(line for line in lines if line.startswith("SU"))
    yield text.replace(seed[10:20], "AAAAAAAAAA")
    yield text.replace(seed, "pl4nted-s3cret\n")
    yield text.replace("NKEY SEED", "PLANT")
    yield text.replace("USER JWT", "PLANT")
    yield "".join(lines[: lines.index(seed)])
    yield "pl4nted s3cret"
    yield ""


def test_nkey_file(tmp_path: Path) -> None:
    """The seed is not shown, whether the broker takes it or not, or it stands where its file should be."""
    key, other, file = user_key(), user_key(), tmp_path / "nkey"
    secrets = (key.seed, other.seed, *PLANTED)
    config = tmp_path / "nats.conf"
    config.write_text(f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}")
    file.write_text(key.seed)
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        given = {"NATS_URL": broker.url, "NATS_NKEY": str(file)}
        with launched(tmp_path, **given) as process:
            process.wait_for(lambda: "windshift is ready" in process.out)
            assert process.stop() == 0
            assert_silent(process, secrets)
        for broken in (
            other.seed,
            key.seed[:-1],
            f"{key.seed[:20]}AAAAAA{key.seed[26:]}",
            "pl4nted s3cret",
            "",
        ):
            file.write_text(broken)
            assert "NATS_NKEY" in fails(tmp_path, (*secrets, *filter(None, (broken,))), **given)
        for name in ("NATS_NKEY", "NATS_CREDS"):
            assert name in fails(tmp_path, secrets, NATS_URL=broker.url, **{name: key.seed})


def test_tls_files(tmp_path: Path) -> None:
    """Keys that do not fit, are none, or are refused are not quoted; nor is a password that was not sent."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    theirs, ours, foreign = authority.issue("nats"), authority.issue("ours"), stranger.issue("foreign")
    garbage = tmp_path / "garbage.key"
    garbage.write_text("-----BEGIN PRIVATE KEY-----\npl4nteds3cret\n-----END PRIVATE KEY-----\n")
    secrets = (
        *PLANTED,
        *(line for pair in (ours, foreign) for line in pair.key.read_text().splitlines()[1:-1]),
    )
    arguments = (
        *("--user", "windshift", "--pass", PASSWORD),
        *("--tlscert", str(theirs.certificate), "--tlskey", str(theirs.key)),
        *("--tlsverify", "--tlscacert", str(authority.certificate)),
    )
    with running_nats(tmp_path / "nats", *arguments) as broker:
        url = f"tls://windshift:{ENCODED}@127.0.0.1:{broker.port}"
        files: Mapping[str, str] = {"NATS_URL": url, "NATS_TLS_CA": str(authority.certificate)}
        for certificate, key in (
            (ours.certificate, garbage),
            (ours.certificate, foreign.key),
            (foreign.certificate, foreign.key),
            (garbage, ours.key),
        ):
            tls = {"NATS_TLS_CERT": str(certificate), "NATS_TLS_KEY": str(key)}
            assert "NATS" in fails(tmp_path, secrets, **files, **tls)
        assert "NATS" in fails(tmp_path, secrets, **{**files, "NATS_TLS_CA": str(stranger.certificate)})
    with running_nats(tmp_path / "nats", "--user", "windshift", "--pass", PASSWORD) as broker:
        url = f"tls://windshift:{ENCODED}@127.0.0.1:{broker.port}"
        assert "does not offer TLS" in fails(tmp_path, NATS_URL=url)
