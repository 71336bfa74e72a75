"""Replays may go on for an hour; whoever may not replay any more ends sooner."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.authorization.policies import ALL, digest_of, principal
from tests.authorization.rows import DENIED, UNKNOWN
from tests.authorization.served import Served, served
from tests.support.client import DEAD_LETTERS, read_refusal
from tests.support.nats_server import NatsServer
from tests.wire.burying import bury
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb

LIMIT = 30.0
REPLAYING = '[role.replayer]\ndead_letters = { replay = ["LASTING"], read = ["*"], consumers = ["*"] }\n'
ADMIN = ALL + principal("all")
USUAL = ADMIN + REPLAYING + principal("ann", "replayer")
EXPIRED = f'"{digest_of("ann")}"', f'{{ sha256 = "{digest_of("ann")}", expires = 2020-01-01T00:00:00Z }}'


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Share one process, with more dead letters than are replayed in a minute at a slow rate."""
    with served(tmp_path_factory.mktemp("lasting"), USUAL, NATS_URL=nats_server.url) as server:
        admin = server.caller("all")
        admin.ensure_stream("LASTING", "lasting.>")
        ensure_consumer(admin, "LASTING", name="one")
        bury(nats_server, "LASTING", *(admin.publish("lasting.x") for _ in range(200)), consumer="one")
        yield server


def replaying(server: Served) -> Future[Any]:
    """Begin to replay, one in a second."""
    pool = ThreadPoolExecutor(1)
    replay = DEAD_LETTERS.methods_by_name["Replay"]
    request = pb.ReplayRequest(filter=pb.Filter(stream="LASTING"), rate=1)
    future = pool.submit(server.caller("ann").call, replay, request, 55)
    pool.shutdown(wait=False)
    before = replayed(server)
    server.process.wait_for(lambda: replayed(server) > before)
    return future


def replayed(server: Served) -> float:
    """Count what was replayed."""
    return server.seen().value("windshift_replays_total")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (ADMIN, UNKNOWN),
        (USUAL.replace(*EXPIRED), UNKNOWN),
        (USUAL.replace('replay = ["LASTING"]', 'replay = ["OTHER"]'), DENIED),
    ],
    ids=["gone", "expired", "denied"],
)
def test_a_replay_under_way(server: Served, changed: str, expected: object) -> None:
    """It ends within seconds when its caller is known no longer, or may not do it any more."""
    server.put(USUAL)
    call = replaying(server)
    server.put(USUAL + "\n# another version that allows the same\n")
    assert not call.done()
    server.put(changed)
    with pytest.raises(grpc.RpcError) as caught:
        call.result(LIMIT)
    refusal = read_refusal(caught.value)
    assert (refusal.code, refusal.reason) == expected
    assert server.records(event="denied", principal="ann", reason=refusal.reason)
