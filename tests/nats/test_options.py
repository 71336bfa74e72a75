"""NATS URLs, what is known of other servers, and the files of credentials and TLS."""

from __future__ import annotations

import ssl
from base64 import urlsafe_b64decode
from pathlib import Path

import nkeys
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from tests.support.certificates import Authority
from windshift.nats import ConnectFailed, ConnectionOptions, ServerAddress, parse_servers
from windshift.nats.credentials import credentials
from windshift.nats.tls import client_context

SERVERS = parse_servers("nats://a")
SEED = b"SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("localhost", [ServerAddress("nats", "localhost", 4222)]),
        ("nats://a:1, tls://b", [ServerAddress("nats", "a", 1), ServerAddress("tls", "b", 4222)]),
        ("nats://[::1]:7", [ServerAddress("nats", "::1", 7)]),
        ("nats://me:p%40ss%2Cword@a", [ServerAddress("nats", "a", 4222, "me", "p@ss,word")]),
        ("nats://t0ken@a", [ServerAddress("nats", "a", 4222, "t0ken")]),
    ],
)
def test_urls(text: str, servers: list[ServerAddress]) -> None:
    """One or several URLs, with or without scheme, port and credentials."""
    assert list(parse_servers(text)) == servers


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "nats://",
            "ws://a",
            "http://me:s3cret@a",
            "nats://me:s3cret@a:port",
            "nats://a:1,",
            "nats://[x",
        ),
        *("nats://s3cret/more@a", "nats://me:42?s3cret@a", "nats://s3cret#more@a", "nats://a:1/s3cret"),
        *("nats://s3cret,more@a", "me:42,s3cret@a", "nats://a, nats://me:42,s3cret@b"),
    ],
)
def test_malformed_urls(text: str) -> None:
    """A malformed URL is refused without repeating what may be a password."""
    with pytest.raises(ValueError) as caught:
        parse_servers(text)
    assert "s3cret" not in str(caught.value)


def test_credentials_do_not_show() -> None:
    """Neither a server nor the options show a password when they are printed."""
    servers = parse_servers("nats://me:s3cret@[::1]:7")
    assert "s3cret" not in repr(servers) + servers[0].url + repr(ConnectionOptions(servers))
    assert servers[0].url == "nats://[::1]:7"


def test_a_discovered_server_borrows_credentials() -> None:
    """A server that the cluster told us of gets the credentials of the first that has some."""
    options = ConnectionOptions(parse_servers("nats://a,nats://me:s3cret@b"))
    lent = options.discovered("c:7")
    assert lent is not None
    assert (lent.host, lent.port, lent.user, lent.password) == ("c", 7, "me", "s3cret")


def test_a_discovered_server_of_which_only_the_number_is_known() -> None:
    """Its certificate must be for the first name that was configured."""
    options = ConnectionOptions(parse_servers("tls://10.0.0.1,tls://nats.example,tls://other"))
    assert options.discovered("10.0.0.2:4222") == ServerAddress(
        "nats", "10.0.0.2", 4222, tls_name="nats.example"
    )
    assert options.discovered("[::1]:4222") == ServerAddress("nats", "::1", 4222, tls_name="nats.example")
    assert options.discovered("nats-2:4222") == ServerAddress("nats", "nats-2", 4222)


@pytest.mark.parametrize("url", ["", ":4222", "a:port", "http://a", "[x", "a/b", "a:1:2", "\x00", "\ud800:1"])
def test_what_is_no_server_is_not_discovered(url: str) -> None:
    """A cluster may say anything: what cannot be connected to is left out, or fails when it is tried."""
    server = ConnectionOptions(SERVERS).discovered(url)
    assert server is None or server.user is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ConnectionOptions(SERVERS), False),
        (ConnectionOptions(parse_servers("nats://a,tls://b")), True),
        (ConnectionOptions(SERVERS, tls_first=True), True),
        (ConnectionOptions(SERVERS, tls_ca=Path("ca")), True),
        (ConnectionOptions(SERVERS, tls_certificate=Path("certificate"), tls_key=Path("key")), True),
    ],
)
def test_what_asks_for_tls(options: ConnectionOptions, expected: bool) -> None:
    """A URL, a file, or TLS from the first byte on."""
    assert options.wants_tls is expected


# --- Credentials ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://a", {}),
        ("nats://me:s3cret@a", {"user": "me", "pass": "s3cret"}),
        ("nats://me:@a", {"user": "me", "pass": ""}),
        ("nats://t0ken@a", {"auth_token": "t0ken"}),
    ],
)
def test_credentials_of_a_url(url: str, said: dict[str, str]) -> None:
    """A user with a password, or a token."""
    assert credentials(ConnectionOptions(SERVERS), parse_servers(url)[0], "nonce") == said


def test_a_key_signs_the_nonce(tmp_path: Path) -> None:
    """No seed leaves the process, from neither kind of file: a signature does, without padding."""
    bare, creds = tmp_path / "user.nk", tmp_path / "user.creds"
    bare.write_bytes(b"# a comment\n" + SEED + b"\n")
    creds.write_bytes(
        b"-----BEGIN NATS USER JWT-----\neyJ0.e30.c2ln\n------END NATS USER JWT------\n\n"
        b"-----BEGIN USER NKEY SEED-----\n" + SEED + b"\n------END USER NKEY SEED------\n"
    )
    pair = nkeys.from_seed(bytearray(SEED))
    said = credentials(ConnectionOptions(SERVERS, nkey=bare), SERVERS[0], "nonce")
    assert said.keys() == {"nkey", "sig"}
    assert "=" not in said["sig"]
    assert said["nkey"] == pair.public_key.decode()
    assert pair.verify(b"nonce", urlsafe_b64decode(said["sig"] + "=="))
    said = credentials(ConnectionOptions(SERVERS, credentials=creds), SERVERS[0], "nonce")
    assert said.keys() == {"jwt", "sig"}
    assert said["jwt"] == "eyJ0.e30.c2ln"
    assert pair.verify(b"nonce", urlsafe_b64decode(said["sig"] + "=="))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"s3cret",
        b"\xff" * 100,
        b"SU" + b"A" * 55,
        b"-----BEGIN NATS USER JWT-----\ns3cret\n-----BEGIN USER NKEY SEED-----\ns3cret\n",
    ],
)
def test_files_that_hold_no_key(tmp_path: Path, text: bytes) -> None:
    """They are refused for good, and neither what they hold nor where they are is said."""
    file = tmp_path / SECRET
    file.write_bytes(text)
    for options in (
        ConnectionOptions(SERVERS, nkey=file),
        ConnectionOptions(SERVERS, credentials=file),
        ConnectionOptions(SERVERS, nkey=tmp_path / SECRET / "none"),
        ConnectionOptions(SERVERS, credentials=tmp_path),
    ):
        with pytest.raises(ConnectFailed) as caught:
            credentials(options, SERVERS[0], "nonce")
        assert caught.value.final
        assert SECRET not in str(caught.value)


# --- TLS --------------------------------------------------------------------------------------------------


def test_tls_files(tmp_path: Path) -> None:
    """A context is made from the files as they are now; names are verified."""
    authority = Authority(tmp_path)
    pair = authority.issue("client")
    context = client_context(
        ConnectionOptions(
            SERVERS, tls_ca=authority.certificate, tls_certificate=pair.certificate, tls_key=pair.key
        )
    )
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing or broken file, and a key that asks for a password, fail for good; no path is said."""
    authority = Authority(tmp_path)
    pair = authority.issue("client")
    broken, locked = tmp_path / SECRET, tmp_path / "locked"
    broken.write_bytes(b"s3cret")
    key = ec.generate_private_key(ec.SECP256R1())
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(SECRET.encode()))
    )
    for options in (
        ConnectionOptions(SERVERS, tls_ca=broken),
        ConnectionOptions(SERVERS, tls_ca=broken / "none"),
        ConnectionOptions(SERVERS, tls_certificate=broken, tls_key=pair.key),
        ConnectionOptions(SERVERS, tls_certificate=pair.certificate, tls_key=broken),
        ConnectionOptions(SERVERS, tls_certificate=pair.certificate, tls_key=locked),
    ):
        with pytest.raises(ConnectFailed) as caught:
            client_context(options)
        assert caught.value.final
        assert SECRET not in str(caught.value)
