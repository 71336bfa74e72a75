"""Who is let in by which credentials, at the wire: static tokens, and what is none."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator

import pytest

from tests.authorization.callers import Callers, bearer, callers_with_rules
from tests.authorization.policies import ALL, digest_of, principal, put, token_of
from tests.authorization.rows import path_of
from tests.authorization.whoami import answer_to, who
from tests.rpc.frames import Peer, prefixed
from tests.support.client import EVENTS, Metadata, refused
from tests.support.nats_server import NatsServer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

ANN, BOB = token_of("ann"), token_of("bob")
POLICY = f"""
{ALL}
[role.none]
{principal("ann", "none")}
{principal("bob", "none")}
{principal("all")}
[[principals]]
name = "rotating"
roles = ["none"]
token_sha256 = [
  "{digest_of("rotating", 1)}",
  {{ sha256 = "{digest_of("rotating", 2)}", expires = 2999-01-01T00:00:00Z }},
  {{ sha256 = "{digest_of("rotating", 3)}", expires = 2020-01-01T00:00:00Z }},
]
"""


@pytest.fixture(scope="module")
def callers(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    """Run a server that knows some principals without rights, and one that may do everything."""
    file = put(tmp_path_factory.mktemp("credentials") / "auth.toml", POLICY)
    with callers_with_rules(nats_server, file) as callers:
        yield callers


def header(value: str) -> Metadata:
    """Return an authorization header."""
    return (("authorization", value),)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer   "])
def test_spellings(callers: Callers, scheme: str) -> None:
    """The scheme may be in whatever case, as HTTP has it."""
    assert who(callers.with_metadata(header(scheme + ANN))) == "ann"


NONE = {
    "nothing": (),
    "empty": header(""),
    "scheme alone": header("Bearer"),
    "no scheme": header(ANN),
    "Basic": header(f"Basic {ANN}"),
    "Basic, as it should be": header("Basic " + b64encode(f"ann:{ANN}".encode()).decode()),
    "another scheme": header(f"Token {ANN}"),
    "no blank": header(f"Bearer{ANN}"),
    "colon": header(f"Bearer: {ANN}"),
    "quoted": header(f'Bearer "{ANN}"'),
    "scheme twice": header(f"Bearer Bearer {ANN}"),
    "two tokens": header(f"Bearer {ANN} {BOB}"),
    "comma": header(f"Bearer {ANN},"),
    "comma and another": header(f"Bearer {ANN}, Bearer {BOB}"),
    "parameter": header(f'Bearer {ANN}, realm="x"'),
    "sent twice": header(f"Bearer {ANN}") * 2,
    "with another's": header(f"Bearer {ANN}") + header(f"Bearer {BOB}"),
    "with a wrong one first": header("Bearer x") + header(f"Bearer {ANN}"),
    "with a wrong one behind": header(f"Bearer {ANN}") + header("Bearer x"),
    "with an empty one": header(f"Bearer {ANN}") + header(""),
    "longer": header(f"Bearer {ANN}x"),
    "shorter": header(f"Bearer {ANN[:-1]}"),
    "in capitals": header(f"Bearer {ANN.upper()}"),
    "padded": header(f"Bearer {ANN}="),
    "its secret alone": header(f"Bearer {ANN[-43:]}"),
    "its name alone": header("Bearer ws_ann_"),
    "its digest": header(f"Bearer {digest_of('ann')}"),
    "its digest as a secret": header(f"Bearer ws_ann_{digest_of('ann')[:43]}"),
    "another's secret": header(f"Bearer ws_ann_{BOB[-43:]}"),
    "another's name": header(f"Bearer ws_bob_{ANN[-43:]}"),
    "nobody's name": header(f"Bearer ws_eve_{ANN[-43:]}"),
    "no name": header(f"Bearer ws__{ANN[-43:]}"),
    "an old secret": header(f"Bearer {token_of('ann', 2)}"),
    "very long": header("Bearer " + "x" * 7000),
    "expired": header(f"Bearer {token_of('rotating', 3)}"),
    "authorization-bin": (("authorization-bin", f"Bearer {ANN}".encode()),),
    "x-forwarded-client-cert": (("x-forwarded-client-cert", 'Subject="CN=edge,O=Acme";URI=spiffe://edge'),),
    "x-authorization": (("x-authorization", f"Bearer {ANN}"),),
    "proxy-authorization": (("proxy-authorization", f"Bearer {ANN}"),),
    "cookie": (("cookie", f"authorization=Bearer {ANN}"),),
    "x-api-key": (("x-api-key", ANN),),
    "forwarded": (("forwarded", "for=127.0.0.1;by=ann"), ("x-forwarded-user", "ann"), ("x-user", "ann")),
    "token": (("token", ANN), ("access_token", ANN)),
}


@pytest.mark.parametrize("metadata", NONE.values(), ids=NONE.keys())
def test_no_credentials(callers: Callers, metadata: Metadata) -> None:
    """What is not exactly one header with one valid token lets nobody in."""
    assert who(callers.with_metadata(metadata)) is None


def test_nobody_learns_what_was_wrong(callers: Callers) -> None:
    """Whether a name is known, and whether a secret is nearly right, nobody is told."""
    told = [
        answer_to(callers.with_metadata(metadata)) for name, metadata in NONE.items() if name != "expired"
    ]
    assert all(refusal == told[0] for refusal in told)
    assert told[0].metadata == {}


def test_rotation(callers: Callers) -> None:
    """Two tokens of one principal are good at once; one that has expired is told so."""
    assert [who(callers.with_token(token_of("rotating", version))) for version in (1, 2)] == ["rotating"] * 2
    assert "expired" in answer_to(callers.with_token(token_of("rotating", 3))).message


def test_credentials_decide_for_each_call(callers: Callers) -> None:
    """One connection carries calls of several, and of nobody: what one call showed counts for no other."""
    caller = callers.with_metadata(())
    request, method = pb.GetConsumerRequest(stream="some", id="some"), EVENTS.methods_by_name["GetConsumer"]
    for _ in range(3):
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            caller.call(method, request, metadata=bearer(ANN))
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
            caller.call(method, request)
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
            caller.call(method, request, metadata=bearer(ANN + "x"))


@pytest.mark.parametrize("timeout", [0.0000001, None])
@pytest.mark.parametrize(
    "metadata",
    [(), (("grpc-encoding-x", "gzip"), ("te-x", "a")), (("traceparent", "00-x"), ("a-bin", b"\xff"))],
)
def test_other_metadata_and_deadlines(callers: Callers, metadata: Metadata, timeout: float | None) -> None:
    """Neither deadlines nor metadata make a way around."""
    caller = callers.with_metadata(())
    request, method = pb.GetConsumerRequest(stream="some", id="some"), EVENTS.methods_by_name["GetConsumer"]
    with refused("UNAUTHENTICATED", "UNAUTHENTICATED") if timeout is None else pytest.raises(Exception):
        caller.call(method, request, timeout, metadata)


# What no client library sends

GET = path_of(EVENTS.methods_by_name["GetConsumer"])
BODY = prefixed(pb.GetConsumerRequest(stream="some", id="some").SerializeToString())
UNAUTHENTICATED, DENIED, UNIMPLEMENTED = 16, 7, 12


async def status_of(callers: Callers, path: str | bytes, *extra: tuple[bytes, bytes]) -> int | None:
    """Make a call byte by byte; return its status."""
    host, _, port = callers.address.partition(":")
    async with await Peer.connect((host, int(port))) as peer:
        return (await peer.response(peer.request(path, BODY, extra))).status


PATHS = [
    GET + "/",
    "/" + GET,
    "//" + GET.lstrip("/"),
    GET.replace("/GetConsumer", "//GetConsumer"),
    GET.replace("GetConsumer", "%47etConsumer"),
    GET.replace("/GetConsumer", "%2FGetConsumer"),
    GET.replace("EventsService", "%45ventsService"),
    GET.replace("GetConsumer", "%ff"),
    GET.replace("GetConsumer", "x/../GetConsumer"),
    "/%2e" + GET,
    "/." + GET,
    "/.." + GET,
    "/x/.." + GET,
    GET.lower(),
    GET.upper(),
    GET.replace("GetConsumer", "get_consumer"),
    GET.replace("GetConsumer", "getConsumer"),
    GET + "?",
    GET + f"?access_token={ANN}",
    GET + "#x",
    GET + ";x=1",
    GET + "%00",
    GET + "%20",
    GET.lstrip("/"),
    "http://localhost" + GET,
    "/windshift.events.v1alpha1.EventsService",
    "/EventsService/GetConsumer",
    "/grpc.health.v1.Health/../../" + GET.lstrip("/"),
    "/grpc.health.v1.Health/Check?" + GET,
    GET.encode() + b"\xff",
    b"/\xff" + GET.encode(),
]


@pytest.mark.parametrize("path", PATHS, ids=repr)
async def test_paths(callers: Callers, path: str | bytes) -> None:
    """Another spelling of a method's path leads nowhere: not past the rules, and to no handler."""
    token = (b"authorization", f"Bearer {token_of('all')}".encode())
    for extra in ((), (token,)):
        assert await status_of(callers, path, *extra) in (UNIMPLEMENTED, None)  # None: a connection error


async def test_the_path(callers: Callers) -> None:
    """The path itself is what the others are compared with."""
    assert await status_of(callers, GET) == UNAUTHENTICATED
    assert await status_of(callers, GET, (b"authorization", f"Bearer {ANN}".encode())) == DENIED


NO_TEXT = [
    b"\xff",
    b"\x01",
    b"Bearer ",
    b"Bearer \xff",
    b"Bearer " + "ä".encode() * 4,
    b"Bearer\t" + ANN.encode(),
    b" Bearer " + ANN.encode(),
    b"Bearer " + ANN.encode() + b" ",
    b"Bearer " + ANN.encode() + b"\xff",
    b"Bearer " + ANN.encode() + b"\0",
]


@pytest.mark.parametrize("value", NO_TEXT)
async def test_bytes_that_are_no_text(callers: Callers, value: bytes) -> None:
    """A header of any bytes lets nobody in, and ends nothing but its call."""
    assert await status_of(callers, GET, (b"authorization", value)) in (UNAUTHENTICATED, None)
    assert await status_of(callers, GET, (b"authorization", f"Bearer {ANN}".encode())) == DENIED


async def test_two_headers(callers: Callers) -> None:
    """Headers that repeat each other are no credentials, wherever they stand."""
    token = (b"authorization", f"Bearer {ANN}".encode())
    assert await status_of(callers, GET, token, (b"x", b"y"), token) == UNAUTHENTICATED
    assert await status_of(callers, GET, (b"authorization", b""), token) == UNAUTHENTICATED


# What not even an all-powerful principal may do

RESERVED = ["$JS.API.STREAM.DELETE.VICTIM", "$JS.API.>", "$JS.ACK.x", "$KV.vault.a", "$SYS.x", "$SYS.>"]


@pytest.mark.parametrize(
    "subject", [*RESERVED, "_INBOX.x", "_INBOX.>", "_R_.x", "_WS.x", "*", ">", "a.*", "a.>"]
)
def test_reserved_subjects(callers: Callers, subject: str) -> None:
    """Rules that allow everything do not open the broker's own subjects."""
    caller = callers.with_token(token_of("all"))
    caller.ensure_stream("VICTIM", "victim.>")
    stored = caller.ensure_store("vault")
    before = caller.set(stored, "a", "untouched")
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        caller.publish(subject)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        caller.set(stored, subject)
    assert caller.publish("victim.x") > 0
    assert caller.get(stored, "a").revision == before
