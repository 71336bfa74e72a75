"""Publishing with nats-py alone: what the way through the broker costs without a server of ours.

    python -m benchmarks.direct NATS_URL SUBJECT --mode jetstream|multiplexed

Prints what it saw as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import click
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from .h2load import publish_request

_HEADERS = {
    "WS-Data-Type": "windshift.test.v1.StringValue",
    "WS-Published-Time": "2026-01-01T00:00:00.000000000Z",
}
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


async def measure(url: str, subject: str, mode: str, count: int, inflight: int) -> dict[str, Any]:
    """Publish ``count`` messages with ``inflight`` under way all the time."""
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


@click.command(context_settings={"show_default": True})
@click.argument("url")
@click.argument("subject")
@click.option("--mode", type=click.Choice(["jetstream", "multiplexed"]), default="jetstream")
@click.option("--count", default=50_000, help="Messages.")
@click.option("--inflight", default=200, help="Publishes under way at once.")
def main(**options: Any) -> None:
    """Publish with nats-py and print what was seen as a line of JSON."""
    print(json.dumps(uvloop.run(measure(**options))), flush=True)


if __name__ == "__main__":
    main()
