"""What somebody who is not known can have a server keep."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import Any

from tests.authorization.policies import ALL, principal
from tests.authorization.served import served
from tests.rpc.frames import INITIAL_WINDOW_SIZE, Peer, prefixed
from tests.support.client import any_of
from tests.support.json_web_keys import AUDIENCE, ISSUER, Signer, claims, key_set
from tests.support.jwks_server import content, key_server
from tests.support.nats_server import NatsServer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import StatusCode

PUBLISH = "/windshift.events.v1alpha1.EventsService/Publish"
LIMIT = 30.0
LARGE = 1_000_000


def policy(url: str) -> str:
    """Know the subject ``ci`` of an issuer."""
    return (
        ALL
        + principal("all")
        + f"""
[[issuers]]
name = "corp"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks = "{url}"
algorithms = ["ES256"]

[[principals]]
name = "ci"
roles = ["all"]
jwt = {{ issuer = "corp", sub = "ci" }}
"""
    )


def credentials(signer: Signer) -> list[tuple[bytes, bytes]]:
    """Return the header of who has a token that this key has signed."""
    return [(b"authorization", f"Bearer {signer.token(claims(time.time(), sub='ci'))}".encode())]


async def test_bodies_of_whom_nobody_knows_yet(nats_server: NatsServer, tmp_path: Path) -> None:
    """As long as keys are waited for, no more of a body is taken than fits the stream's window."""
    known, stranger, answer = Signer("one"), Signer("other"), Event()

    def slowly(request: Any) -> None:
        answer.wait(LIMIT)
        content(key_set(known))(request)

    event = pb.PublishEventRequest(subject="large.x", data=any_of("x" * LARGE))
    with (
        key_server(slowly) as keys,
        served(tmp_path, policy(keys.url), NATS_URL=nats_server.url) as server,
    ):
        server.caller("all").ensure_stream("LARGE", "large.>")
        async with await Peer.connect(("127.0.0.1", server.process.api_port)) as peer:
            streams = [
                peer.request(PUBLISH, None, credentials(signer), end=False) for signer in (known, stranger)
            ]
            body = prefixed(event.SerializeToString())
            for stream_id in streams:
                peer.send(peer.data(stream_id, body[: peer.stream_window(stream_id)]))
            await peer.pong()
            assert [peer.stream_window(stream_id) for stream_id in streams] == [0, 0]
            answer.set()
            refused = await peer.response(streams[1])
            assert refused.status == StatusCode.UNAUTHENTICATED
            rest = body[peer.settings[INITIAL_WINDOW_SIZE] :]
            assert await peer.upload(streams[0], rest, end=True)
            assert (await peer.response(streams[0])).status == 0
