"""Client certificates as credentials, over real TLS."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import grpc
import pytest

from tests.authorization.callers import Caller, bearer
from tests.authorization.policies import principal, put, token_of
from tests.authorization.rows import invoke, method_of
from tests.authorization.whoami import who
from tests.support.app import running_app
from tests.support.certificates import Authority, Pair
from tests.support.client import EVENTS, Metadata
from tests.support.nats_server import NatsServer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc._gen.grpc.health.v1 import health_pb2 as health_pb


def certified(name: str, certificate: str) -> str:
    """Write a principal that is known by a name in a certificate."""
    return f'[[principals]]\nname = "{name}"\nroles = ["none"]\nmtls = "{certificate}"\n'


POLICY = "[role.none]\n" + "".join(
    [
        principal("token", "none"),
        certified("edge", "CN=edge,O=Acme"),
        certified("plain", "CN=plain"),
        certified("host", "DNS:host.acme.example"),
        certified("spiffe", "URI:spiffe://acme/billing"),
        certified("mail", "EMAIL:ops@acme.example"),
        certified("address", "IP:192.0.2.7"),
    ]
)


@dataclass(frozen=True, slots=True)
class Tls:
    """A server that takes client certificates, or not.

    Attributes:
        authority: whose certificates it takes.
        stranger: another one.
        required: the address where clients must show one.
        optional: the address where they may.
    """

    authority: Authority
    stranger: Authority
    required: str
    optional: str

    def caller(self, address: str, shown: Pair | None, metadata: Metadata = ()) -> Caller:
        """Connect, and show a certificate."""
        credentials = grpc.ssl_channel_credentials(
            self.authority.certificate.read_bytes(),
            shown.key.read_bytes() if shown else None,
            shown.certificate.read_bytes() if shown else None,
        )
        return Caller(address.replace("127.0.0.1", "localhost"), metadata, credentials)


@pytest.fixture(scope="module")
def tls(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    """Run servers with TLS that know some names."""
    directory = tmp_path_factory.mktemp("certificates")
    authority, stranger = Authority(directory), Authority(directory, "stranger")
    own = authority.issue("server")
    settings = {
        "GRPC_TLS_CERT": str(own.certificate),
        "GRPC_TLS_KEY": str(own.key),
        "GRPC_TLS_CLIENT_CA": str(authority.certificate),
        "WINDSHIFT_AUTH_FILE": str(put(directory / "auth.toml", POLICY)),
    }
    with (
        running_app(nats_server.url, **settings) as required,
        running_app(nats_server.url, **settings, GRPC_TLS_CLIENT_AUTH="optional") as optional,
    ):
        yield Tls(authority, stranger, required, optional)


def of(name: str, **more: Any) -> dict[str, Any]:
    """Describe a certificate, which has no alternative names but those that are given."""
    return {"name": name, "dns": (), "ips": ()} | more


CASES: dict[str, tuple[dict[str, Any], str | None]] = {
    "the whole subject": (of("edge", organization="Acme"), "edge"),
    "a part of the subject": (of("edge"), None),
    "more than the subject": (of("plain", organization="Acme"), None),
    "the subject alone": (of("plain"), "plain"),
    "another case": (of("Plain"), None),
    "a blank behind": (of("plain "), None),
    "a subject that holds another": (of("x,CN=plain"), None),
    "a name that is spelled like a subject": (of("edge,O=Acme"), None),
    "a DNS name": (of("a", dns=("host.acme.example",)), "host"),
    "a wildcard": (of("a", dns=("*.acme.example",)), None),
    "a longer DNS name": (of("a", dns=("x.host.acme.example",)), None),
    "a DNS name for a subject": (of("host.acme.example"), None),
    "a subject for a DNS name": (of("a", dns=("CN=plain",)), None),
    "a URI": (of("a", uris=("spiffe://acme/billing",)), "spiffe"),
    "a longer URI": (of("a", uris=("spiffe://acme/billing/x",)), None),
    "a URI as a DNS name": (of("a", dns=("spiffe://acme/billing",)), None),
    "mail": (of("a", emails=("ops@acme.example",)), "mail"),
    "an address": (of("a", ips=("192.0.2.7",)), "address"),
    "an address as a DNS name": (of("a", dns=("192.0.2.7",)), None),
    "two of one principal and none": (of("a", dns=("host.acme.example", "other.example")), "host"),
    "of several": (of("plain", dns=("host.acme.example",)), None),
    "nobody": (of("nobody", dns=("localhost",)), None),
}


@pytest.mark.parametrize(("described", "expected"), CASES.values(), ids=CASES.keys())
def test_names(tls: Tls, described: dict[str, Any], expected: str | None) -> None:
    """A certificate is somebody's by a name that is exactly in it, and of its kind."""
    pair = tls.authority.issue(**described)
    for address in (tls.required, tls.optional):
        caller = tls.caller(address, pair)
        assert who(caller) == expected
        caller.channel.close()


def test_a_token_beside_a_certificate(tls: Tls) -> None:
    """The token decides, also when it is not valid: nobody falls back to the certificate."""
    pair = tls.authority.issue(**of("plain"))
    for address in (tls.required, tls.optional):
        for metadata, expected in (
            (bearer(token_of("token")), "token"),
            (bearer(token_of("token", 2)), None),
            ((("authorization", ""),), None),
            ((("authorization", "Basic x"),), None),
            ((("x-authorization", "Bearer x"),), "plain"),
        ):
            caller = tls.caller(address, pair, metadata)
            assert who(caller) == expected
            caller.channel.close()


def test_no_certificate(tls: Tls) -> None:
    """Where none is required, who shows none has to have a token; headers of proxies are none."""
    forwarded = (("x-forwarded-client-cert", 'Subject="CN=plain"'), ("x-client-cert", "CN=plain"))
    for metadata, expected in ((bearer(token_of("token")), "token"), ((), None), (forwarded, None)):
        caller = tls.caller(tls.optional, None, metadata)
        assert who(caller) == expected
        caller.channel.close()


def bad(tls: Tls) -> Iterator[Pair]:
    """Make certificates that are not valid, each when the one before was used: they have the same files."""
    yield tls.stranger.issue(**of("plain"))
    yield tls.authority.issue(**of("plain"), lifetime=dt.timedelta(hours=-1))


def test_bad_certificates(tls: Tls) -> None:
    """One of another authority, one that has expired, or none where one is required: no connection."""
    for shown in chain(bad(tls), [None]):
        for address in (tls.required, tls.optional):
            if shown is None and address == tls.optional:
                continue
            caller = tls.caller(address, shown, bearer(token_of("token")))
            with pytest.raises(grpc.RpcError) as caught:
                caller.call(EVENTS.methods_by_name["GetConsumer"], pb.GetConsumerRequest(), 20)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            caller.channel.close()


def test_health_needs_none_of_it(tls: Tls) -> None:
    """Probes are answered without credentials, though over TLS."""
    caller = tls.caller(tls.optional, None)
    answer = invoke(caller, method_of("Health/Check"), health_pb.HealthCheckRequest())
    assert answer.refusal is None
    caller.channel.close()
