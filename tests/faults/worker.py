"""A client that consumes and holds what it gets, in a process that can be killed.

python -m tests.faults.worker ADDRESS STREAM CONSUMER WINDOW

Prints the id of each event on a line of its own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import grpc

from tests.support.client import EVENTS
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb


def main() -> None:
    """Consume until killed."""
    address, stream, consumer, window = sys.argv[1:]
    subscribe = pb.EventsRequest.Subscribe(
        stream=stream, consumer=consumer, max_processing_events=int(window)
    )

    def requests() -> Iterator[pb.EventsRequest]:
        yield pb.EventsRequest(subscribe=subscribe)
        threading.Event().wait()

    call = grpc.insecure_channel(address).stream_stream(
        f"/{EVENTS.full_name}/Events",
        request_serializer=pb.EventsRequest.SerializeToString,
        response_deserializer=pb.EventsResponse.FromString,
    )(requests())
    for response in call:
        if response.HasField("event"):
            sys.stdout.write(f"{response.event.id}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
