"""The server that Windshift is compared with: ``grpc.aio`` on uvloop and ``js.publish``, nothing else.

It answers ``PublishEvent`` alone and writes the message that the contract asks for (body, type name, time),
so that the broker has the same to store. It checks nothing, has no interceptors, no limits, no tracing.

    python -m benchmarks.comparison_server NATS_URL

prints the port that it listens on, and runs until it is killed.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import grpc.aio
import nats
import uvloop
from nats.js import JetStreamContext

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb

SERVICE = "windshift.events.v1alpha1.EventsService"


class Publisher:
    """Answers ``PublishEvent``."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    async def publish_event(
        self, request: events_pb.PublishEventRequest, context: object
    ) -> events_pb.PublishEventResponse:
        """Store one event."""
        headers = {
            "WS-Data-Type": request.data.type_url.rpartition("/")[2],
            "WS-Published-Time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z"),
        }
        stored = await self._jetstream.publish(request.subject, request.data.value, headers=headers)
        return events_pb.PublishEventResponse(id=stored.seq)


async def serve(nats_url: str) -> None:
    """Serve on a free port of the loopback address until the process ends."""
    connection = await nats.connect(nats_url)
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        Publisher(connection.jetstream()).publish_event,
        request_deserializer=events_pb.PublishEventRequest.FromString,
        response_serializer=events_pb.PublishEventResponse.SerializeToString,
    )
    handlers = {"PublishEvent": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
