"""How many dead letters and replays one consumer may have in a minute, at the wire."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests.authorization.policies import ALL, principal
from tests.authorization.served import Served, served
from tests.support.client import refused
from tests.support.nats_server import NatsServer
from tests.wire.burying import DEAD_LETTER, ask, bury, consumer, listed
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb

NUMBERS = count()
KEEPING = {"retry_policy": {"max_attempts": 9, "initial_backoff": "1s"}, "from": {"start": True}}
RULES = (
    ALL
    + principal("all")
    + principal("few", "all", more="quotas = { dead_letters = 2 }")
    + principal("small", "all", more="quotas = { dead_letter_bytes = 1000 }")
    + principal("slow", "all", more="quotas = { replays = 2 }")
)


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a server whose principals may have few dead letters."""
    with served(tmp_path_factory.mktemp("few"), RULES, NATS_URL=nats_server.url) as server:
        yield server


@pytest.fixture
def stream(server: Served) -> str:
    """Make a stream with three events."""
    name = f"FEW-{next(NUMBERS)}"
    server.caller("all").ensure_stream(name)
    for _ in range(3):
        server.caller("all").publish(f"{name}.x", "x" * 1500)
    return name


def exceeded(server: Served, quota: str) -> float:
    """Count what was refused."""
    return server.seen().value("windshift_auth_quotas_exceeded_total", quota=quota)


def left(server: Served, who: str, stream: str, name: str, events: int = 3) -> int:
    """Reject so many events, one after the other; give how many became dead letters. The others stay."""
    done = 0
    with subscribed(server.caller(who), stream, consumer=name) as call:
        for seq in [call.event().id for _ in range(events)]:
            call.reject(seq, action=DEAD_LETTER)
            told = call.told()
            assert told in (("reject", [seq], [], []), ("reject", [], [], [seq])), told
            done += told[1] == [seq]
    return done


def test_dead_letters(server: Served, stream: str) -> None:
    """A consumer leaves so many; what is too much stays, is told as not done, and is in metrics and audit."""
    before = exceeded(server, "dead_letters")
    consumer(server.caller("few"), stream, "one", attempts=9)
    assert left(server, "few", stream, "one") == 2
    assert exceeded(server, "dead_letters") == before + 1
    (record, *_) = server.records(event="denied", quota="dead_letters", principal="few")
    assert record["limit"] == 2
    assert len(listed(server.caller("all"), stream)) == 2
    consumer(server.caller("few"), stream, "another", attempts=9)
    assert left(server, "few", stream, "another") == 2
    assert left(server, "all", stream, "one", events=1) == 1  # which was not lost


def test_dead_letters_of_ephemeral_consumers(server: Served, stream: str) -> None:
    """They count as one: there may be any number of them."""
    few = server.caller("few")
    assert sum(left(server, "few", stream, ensure_consumer(few, stream, **KEEPING)) for _ in range(3)) == 2


def test_bytes_of_dead_letters(server: Served, stream: str) -> None:
    """What goes beyond is written, and nothing after it for a while."""
    consumer(server.caller("small"), stream, "one", attempts=9)
    assert left(server, "small", stream, "one") == 1
    assert exceeded(server, "dead_letter_bytes") == 2


def test_replays(server: Served, stream: str, nats_server: NatsServer) -> None:
    """So many begin; a call that comes too early is refused, one that had begun says how far it came."""
    caller = server.caller("slow")
    consumer(caller, stream, "one")
    consumer(caller, stream, "two")
    ones, _ = (bury(nats_server, stream, 1, 2, 3, consumer=name) for name in ("one", "two"))
    with refused("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED") as found:
        ask(caller, "Replay", pb.ReplayRequest(ids=ones))
    assert found[0].metadata == {"quota": "replays", "limit": "2"}
    request = pb.ReplayRequest(filter=pb.Filter(stream=stream, consumer="two"), rate=10)
    part = ask(caller, "Replay", request)
    assert part.replayed == 2
    request.page_token = part.next_page_token
    rest = ask(server.caller("all"), "Replay", request)
    assert (rest.replayed, rest.next_page_token) == (1, "")
