"""Publishing and consuming without a server of ours: what the way through the broker costs.

    python -m benchmarks.direct nats-py|publish|consume --help

nats-py is what its users have; the others stand on Windshift's own client of NATS, without a task for each
event. Each prints what it saw as a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import click
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from windshift.nats import Connection, ConnectionOptions, Message, Outcome, Requests, parse_servers
from windshift.nats import headers as h

from .h2load import publish_request
from .reporting import reporting

_HEADERS = {
    "WS-Data-Type": "windshift.test.v1.StringValue",
    "WS-Published-Time": "2026-01-01T00:00:00.000000000Z",
}
_LINES = b"".join(h.line(name.encode(), value.encode()) for name, value in _HEADERS.items())
_TIMEOUT = 60.0
Publish = Callable[[str, bytes], Awaitable[object]]


def jetstream(client: Client) -> Publish:
    """Publish as nats-py's users do."""
    context = client.jetstream()
    return lambda subject, payload: context.publish(subject, payload, headers=dict(_HEADERS))


async def multiplexed(client: Client) -> Publish:
    """Publish with one inbox for all answers and a dictionary of who waits, as Windshift does."""
    loop = asyncio.get_running_loop()
    inbox = client.new_inbox()
    skip = len(inbox) + 1
    waiting: dict[str, asyncio.Future[bytes]] = {}
    number = 0

    async def answer(message: Msg) -> None:
        future = waiting.pop(message.subject[skip:], None)
        if future is not None:
            future.set_result(message.data)

    await client.subscribe(f"{inbox}.*", cb=answer)

    async def publish(subject: str, payload: bytes) -> object:
        nonlocal number
        number += 1
        token = str(number)
        future = waiting[token] = loop.create_future()
        await client.publish(subject, payload, f"{inbox}.{token}", dict(_HEADERS))
        return json.loads(await future)["seq"]

    return publish


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Publish or consume and print what was seen as a line of JSON."""


@main.command("nats-py")
@click.argument("url")
@click.argument("subject")
@click.option("--mode", type=click.Choice(["jetstream", "multiplexed"]), default="jetstream")
@click.option("--count", default=50_000, help="Messages.")
@click.option("--inflight", default=200, help="Publishes under way at once.")
@reporting
async def _nats_py(url: str, subject: str, mode: str, count: int, inflight: int) -> dict[str, Any]:
    """Publish with nats-py."""
    client = await nats.connect(url)
    publish = jetstream(client) if mode == "jetstream" else await multiplexed(client)
    payload = publish_request(subject, 100).data.value
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await publish(subject, payload)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(inflight)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    await client.close()
    return {"per_second": count / seconds, "cpu_us": cpu / count * 1e6}


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[tuple[Connection, Requests]]:
    connection = Connection(ConnectionOptions(parse_servers(url)))
    await connection.connect()
    try:
        yield connection, Requests(connection)
    finally:
        await connection.close()


@main.command("publish")
@click.argument("url")
@click.argument("subject")
@click.option("--count", default=100_000, help="Events; a multiple of --atomic.")
@click.option("--unanswered", default=200, help="Events under way at once; a multiple of --atomic, too.")
@click.option("--keys", is_flag=True, help="Give each an id of its own, by which the broker knows it.")
@click.option("--atomic", default=0, help="Events of a batch that is stored as a whole; 0 = each for itself.")
@reporting
async def _publish(
    url: str, subject: str, count: int, unanswered: int, *, keys: bool, atomic: int
) -> dict[str, Any]:
    """Publish with our own client of NATS."""
    body = publish_request(subject, 100).data.value
    topic, plain = subject.encode(), h.BEGIN + _LINES + h.END
    each = atomic or 1
    sent = answered = failed = 0
    over = asyncio.get_running_loop().create_future()
    async with _connected(url) as (connection, requests):
        deadline = requests.loop.time() + _TIMEOUT

        def lines(*pairs: tuple[bytes, bytes]) -> bytes:
            return h.BEGIN + _LINES + b"".join(h.line(*pair) for pair in pairs) + h.END

        def send() -> None:
            nonlocal sent
            sent += each
            for place in range(1, atomic):
                block = lines((h.BATCH_ID, b"%d" % sent), (h.BATCH_SEQUENCE, b"%d" % place))
                connection.publish(topic, body, block)
            block = plain
            if keys:
                block = lines((h.MESSAGE_ID, b"key-%d" % sent))
            elif atomic:
                last = (h.BATCH_SEQUENCE, b"%d" % atomic), (h.BATCH_COMMIT, b"1")
                block = lines((h.BATCH_ID, b"%d" % sent), *last)
            requests.send(topic, body, block, answer, deadline)

        def answer(outcome: Outcome) -> None:
            nonlocal answered, failed
            answered += each
            failed += each * (not isinstance(outcome, bytes) or b'"error"' in outcome)
            if sent < count:
                send()
            elif answered >= count:
                over.set_result(None)

        started, cpu = time.perf_counter(), time.process_time()
        while sent < min(count, unanswered):
            send()
        await over
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"per_second": count / seconds, "cpu_us": cpu / count * 1e6, "failed": failed}


@main.command("consume")
@click.argument("url")
@click.argument("stream")
@click.argument("consumer")
@click.option("--count", default=50_000, help="Events.")
@click.option("--acks", default=1, help="Acks of which the last one is confirmed.")
@click.option("--window", default=200, help="Events unsettled at once.")
@reporting
async def _consume(
    url: str, stream: str, consumer: str, count: int, acks: int, window: int
) -> dict[str, Any]:
    """Consume with our own client of NATS, and acknowledge all."""
    pulling = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}".encode()
    pending: list[bytes] = []
    received = confirmed = room = failed = 0
    pulled, started = min(window, count), 0.0
    over = asyncio.get_running_loop().create_future()
    async with _connected(url) as (connection, requests):
        deadline, inbox = requests.loop.time() + _TIMEOUT, connection.inbox()

        def pull(batch: int) -> None:
            connection.publish(pulling, b'{"batch": %d}' % batch, b"", inbox)

        def receive(message: Message) -> None:
            nonlocal received, started
            if not message.reply:  # no event, but a status
                return
            started = started or time.perf_counter()
            received += 1
            pending.append(message.reply)
            if len(pending) == acks or received == count:
                for reply in pending[:-1]:
                    connection.publish(reply, b"+ACK")
                confirm = partial(confirmation, len(pending))
                requests.send(pending[-1], b"+ACK", b"", confirm, deadline)
                pending.clear()

        def confirmation(of: int, outcome: Outcome) -> None:
            nonlocal confirmed, room, pulled, failed
            confirmed += of
            room += of
            failed += of * (not isinstance(outcome, bytes))
            more = min(room, count - pulled)
            if more and (room >= window // 2 or more < room):
                pull(more)
                pulled, room = pulled + more, 0
            if confirmed == count:
                over.set_result(None)

        connection.subscribe(inbox, receive)
        cpu = time.process_time()
        pull(pulled)
        await over
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"per_second": count / seconds, "cpu_us": cpu / count * 1e6, "failed": failed}


if __name__ == "__main__":
    main()
