"""TLS contexts: what a handshake with them asks for, and how they are replaced."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.certificates import Authority, Pair
from windshift.rpc import ReplaceableTls, client_tls, objection, server_tls

from .serving import UNARY, echo, serving, simple

BOTH = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make one of a name of its own."""
    return Authority(tmp_path)


class Handshake:
    """A client and a server that have shaken hands in memory. Raises `ssl.SSLError` where they could not."""

    def __init__(
        self, server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        outgoing, incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(to_server, outgoing, server_side=True)
        self.client = client.wrap_bio(to_client, incoming, server_hostname="localhost", session=session)
        waiting = [self.client, self.server]
        while waiting:
            for side in list(waiting):
                try:
                    side.do_handshake()
                    waiting.remove(side)
                except ssl.SSLWantReadError:
                    pass
                to_server.write(incoming.read())
                to_client.write(outgoing.read())
        self.server.write(b"x")
        to_client.write(outgoing.read())
        assert self.client.read(1) == b"x"  # and with it the tickets, which come after the handshake

    @property
    def subject(self) -> object:
        """The server's certificate's."""
        return subject(self.client)

    @property
    def client_subject(self) -> object:
        """The client's certificate's; None without one."""
        return subject(self.server)


def subject(side: ssl.SSLObject) -> object:
    """Return the common name that the other side shows; None without a certificate."""
    certificate = side.getpeercert()
    return certificate["subject"][0][0][1] if certificate else None


def client_of(authority: Authority, own: Pair | None = None, version: int | None = None) -> ssl.SSLContext:
    """Make a client's context that speaks this version at most."""
    shown = (own.certificate, own.key) if own else (None, None)
    context = client_tls(authority.certificate, *shown)
    if version is not None:
        context.maximum_version = ssl.TLSVersion(version)
    return context


def replaceable(first: ssl.SSLContext) -> ReplaceableTls:
    """Make one that leaves handshakes to this one at first."""
    context = ReplaceableTls()
    context.replace(first)
    return context


@BOTH
def test_both_versions(authority: Authority, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3 are spoken, with HTTP/2 by ALPN, and no client is asked for anything."""
    own = authority.issue("server")
    made = Handshake(server_tls(own.certificate, own.key), client_of(authority, version=version))
    assert made.client.version() == version.name.replace("_", ".")
    assert made.server.selected_alpn_protocol() == made.client.selected_alpn_protocol() == "h2"
    assert made.client_subject is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_older_versions_are_refused(authority: Authority) -> None:
    """TLS 1.1 is not spoken, even where the machine's library would."""
    own = authority.issue("server")
    client = client_of(authority)
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    server = server_tls(own.certificate, own.key)
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        Handshake(server, client)


@pytest.mark.parametrize(
    "context_of", [server_tls, lambda *own: client_tls(None, *own)], ids=["server", "client"]
)
def test_a_key_with_a_password_is_refused(
    authority: Authority,
    context_of: Callable[[Path, Path], ssl.SSLContext],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nobody is asked for it: there may be no terminal, and an event loop cannot wait."""
    own = authority.issue("server")
    key = serialization.load_pem_private_key(own.key.read_bytes(), None)
    own.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ssl.SSLError):
        context_of(own.certificate, own.key)
    assert capfd.readouterr().err == ""


# Client certificates


@BOTH
@pytest.mark.parametrize("required", [True, False])
def test_a_good_certificate_is_known(authority: Authority, version: int, required: bool) -> None:
    """Whether it is required or may be shown: the server knows whose it is."""
    own, client = authority.issue("server"), authority.issue("client")
    server = server_tls(own.certificate, own.key, authority.certificate, client_required=required)
    assert Handshake(server, client_of(authority, client, version)).client_subject == "client"


@BOTH
def test_no_certificate(authority: Authority, version: int) -> None:
    """Is refused where one is required, and let in where it may be shown."""
    own = authority.issue("server")
    client = client_of(authority, version=version)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        Handshake(server_tls(own.certificate, own.key, authority.certificate), client)
    optional = server_tls(own.certificate, own.key, authority.certificate, client_required=False)
    assert Handshake(optional, client).client_subject is None


@BOTH
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("reason", ["expired", "of another authority"])
def test_a_bad_certificate_is_refused(
    authority: Authority, tmp_path: Path, version: int, required: bool, reason: str
) -> None:
    """Even where none would have been needed."""
    own = authority.issue("server")
    if reason == "expired":
        client = authority.issue("client", lifetime=dt.timedelta(minutes=-1))
    else:
        client = Authority(tmp_path, "stranger").issue("client")
    server = server_tls(own.certificate, own.key, authority.certificate, client_required=required)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        Handshake(server, client_of(authority, client, version))


@BOTH
@pytest.mark.parametrize("required", [True, False])
def test_clients_with_certificates_resume_no_session(
    authority: Authority, version: int, required: bool
) -> None:
    """Else a certificate would be good for hours after it has expired."""
    own, client = authority.issue("server"), authority.issue("client")
    server = server_tls(own.certificate, own.key, authority.certificate, client_required=required)
    context = client_of(authority, client, version)
    again = Handshake(server, context, Handshake(server, context).client.session)
    assert not again.server.session_reused
    assert again.client_subject == "client"


@BOTH
def test_clients_without_certificates_resume_sessions(authority: Authority, version: int) -> None:
    """That saves both sides work, and lets in nobody who could not have come otherwise."""
    own = authority.issue("server")
    server, context = server_tls(own.certificate, own.key), client_of(authority, version=version)
    assert Handshake(server, context, Handshake(server, context).client.session).server.session_reused


# Replacement


@BOTH
@pytest.mark.parametrize("kinds", [(False, True), (True, False), (False, False)])
def test_a_certificate_is_replaced(authority: Authority, version: int, kinds: tuple[bool, bool]) -> None:
    """Whatever kinds of keys the old one and the new one have, and back again."""
    context, client = ReplaceableTls(), client_of(authority, version=version)
    names = ("old", "new", "old")
    for name, rsa in zip(names, (*kinds, kinds[0]), strict=True):
        pair = authority.issue(name, rsa=rsa)
        context.replace(server_tls(pair.certificate, pair.key))
        made = Handshake(context, client)
        assert (made.subject, made.client.selected_alpn_protocol()) == (name, "h2")


@BOTH
def test_no_session_outlives_a_replacement(authority: Authority, tmp_path: Path, version: int) -> None:
    """Who had been let in without a certificate is asked for one, whatever session it resumes."""
    own = authority.issue("server")
    context = replaceable(server_tls(own.certificate, own.key))
    client = client_of(authority, version=version)
    session = Handshake(context, client).client.session
    context.replace(server_tls(own.certificate, own.key))
    assert not Handshake(context, client, session).server.session_reused
    context.replace(server_tls(own.certificate, own.key, authority.certificate))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        Handshake(context, client, session)


@BOTH
def test_authorities_are_replaced(authority: Authority, tmp_path: Path, version: int) -> None:
    """Clients of the old one are refused from then on, and those of the new one are let in."""
    own, other = authority.issue("server"), Authority(tmp_path, "other")
    old, new = (client_of(authority, each.issue("client"), version) for each in (authority, other))
    context = replaceable(server_tls(own.certificate, own.key, authority.certificate))
    Handshake(context, old)
    context.replace(server_tls(own.certificate, own.key, other.certificate))
    Handshake(context, new)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        Handshake(context, old)


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
async def test_open_connections_stay(authority: Authority) -> None:
    """Of a server that listens: what is open goes on, and who comes later sees the new certificate."""
    old, new = authority.issue("old"), authority.issue("new", rsa=True)
    context, client = replaceable(server_tls(old.certificate, old.key)), client_of(authority)
    async with (
        serving(ssl=context, unary_call=echo) as running,
        await running.peer(ssl=client) as first,
    ):
        context.replace(server_tls(new.certificate, new.key))
        async with await running.peer(ssl=client) as second:
            for peer, name in ((first, "old"), (second, "new")):
                assert subject(peer._writer.get_extra_info("ssl_object")) == name
                assert (await peer.call(UNARY, simple(b"x"))).status == 0


@pytest.mark.parametrize("rsa", [False, True])
@pytest.mark.parametrize("asks", [False, True])
def test_what_clients_have_against_a_certificate(authority: Authority, rsa: bool, asks: bool) -> None:
    """Nothing, whoever signed it and whatever its names are; unless it has expired."""
    client_ca = authority.certificate if asks else None
    good = authority.issue("good", dns=["elsewhere"], rsa=rsa)
    assert objection(server_tls(good.certificate, good.key, client_ca), good.certificate) is None
    old = authority.issue("old", lifetime=dt.timedelta(days=-1), rsa=rsa)
    context = server_tls(old.certificate, old.key, client_ca)
    assert objection(context, old.certificate) == "certificate has expired"
