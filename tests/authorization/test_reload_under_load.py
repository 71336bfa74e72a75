"""The rules change again and again while calls are made: none is judged wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

from tests.authorization.policies import ALL, principal
from tests.authorization.rows import ALLOWED, DENIED, UNKNOWN, Answer, invoke, method_of
from tests.authorization.served import Served, served
from tests.support.client import any_of
from tests.support.nats_server import NatsServer
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

RELOADS = 12
PUBLISH = method_of("EventsService/Publish")
READER = """
[role.reader]
streams = { consume = ["ORDERS"], subjects = ["orders.>"] }
consumers = { use = ["c-*"] }
"""


def rules(version: int) -> str:
    """Write the rules in ever other words, with rights that come and go beside those that stay."""
    writer = principal("writer", "writer" if version % 2 else "writer-too", "more")
    roles = [
        '[role.writer]\npublish = ["orders.>"]\n',
        '[role.writer-too]\npublish = ["orders.*", "orders.a.>"]\n',
        f'[role.more]\npublish = ["more.{version}.>"]\n',
        READER,
        '[role.refused]\npublish = [">"]\ndeny.publish = ["orders.>"]\n',
        '[role.swinging]\npublish = ["orders.>"]\n' if version % 3 else "[role.swinging]\n",
    ]
    people = [writer, *(principal(name) for name in ("reader", "refused", "swinging", "all"))]
    parts = roles + people
    return ALL + "".join(parts if version % 2 else reversed(parts))


@contextmanager
def asking(served: Served, answers: Counter[tuple[str, Answer]], who: str, version: int) -> Iterator[None]:
    """Publish all the while, and count the answers."""
    request, done = pb.PublishEventRequest(subject="orders.a", data=any_of("x")), Event()
    caller = served.caller(who, version)

    def publish() -> None:
        while not done.is_set():
            answers[f"{who} {version}", invoke(caller, PUBLISH, request).answer] += 1
            done.wait(0.02)

    thread = Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_many_reloads(nats_server: NatsServer, tmp_path: Path) -> None:
    """Who may all the time is never refused, who may not never let in, and open streams miss nothing."""
    answers: Counter[tuple[str, Answer]] = Counter()
    with served(tmp_path, rules(1), NATS_URL=nats_server.url) as server, ExitStack() as stack:
        admin = server.caller("all")
        admin.ensure_stream("ORDERS", "orders.>")
        calls = []
        for name in ("c-1", "c-2"):
            fields = {"from": {"start": True}, "processing_timeout": "600s"}
            ensure_consumer(admin, "ORDERS", name=name, subjects=["orders.>"], **fields)
            calls.append(stack.enter_context(subscribed(server.caller("reader"), "ORDERS", 10_000, name)))
        with ExitStack() as load:
            for who, version in (("writer", 1), ("refused", 1), ("swinging", 1), ("writer", 2)):
                load.enter_context(asking(server, answers, who, version))
            for version in range(2, RELOADS + 2):
                if version % 10 == 0:
                    server.file.write_text(rules(version)[:-version] + '"')
                    server.hang_up("failed")
                server.put(rules(version))
        assert server.reloads() >= RELOADS
        for call in calls:  # nothing is acknowledged, so that all of it is delivered once
            published = answers["writer 1", ALLOWED] + answers["swinging 1", ALLOWED]
            assert len({event.id for event in call.events(min(published, 10_000))}) == min(published, 10_000)
    seen = {who: {answer for asked, answer in answers if asked == who} for who, _ in answers}
    assert seen == {
        "writer 1": {ALLOWED},
        "writer 2": {UNKNOWN},
        "refused 1": {DENIED},
        "swinging 1": {ALLOWED, DENIED},
    }, answers
