"""A dead letter as a message of the API."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.nats.times import Time, from_unix_ns
from windshift.server.api.consume import write_event
from windshift.server.events.dead_letters.letters import Cause, DeadLetter, id_text

CAUSES: Final[dict[int, Cause | None]] = {
    pb.CAUSE_UNSPECIFIED: None,
    pb.CAUSE_MAX_ATTEMPTS: Cause.MAX_ATTEMPTS,
    pb.CAUSE_REJECTED: Cause.REJECTED,
}
_NUMBERS: Final = {cause: number for number, cause in CAUSES.items()}


def letter_message(letter: DeadLetter, *, replaying: bool) -> pb.DeadLetter:
    """Write a dead letter."""
    failure = letter.failure
    message = pb.DeadLetter(
        id=id_text(failure.id),
        stream=failure.id.stream,
        consumer=failure.id.consumer,
        attempts=failure.attempts,
        time=_timestamp(letter.time),
        cause=_NUMBERS[failure.cause],  # type: ignore[arg-type] # the stubs want the enum's own type
        reason=failure.reason,
        error_type=failure.error_type,
        replay_count=failure.replay_count,
        replaying=replaying,
        data_size=letter.data_size,
        other_headers=letter.other_headers,
    )
    if failure.first_delivery_ns:
        message.first_delivery.CopyFrom(_timestamp(from_unix_ns(failure.first_delivery_ns)))
    if failure.last_delivery_ns:
        message.last_delivery.CopyFrom(_timestamp(from_unix_ns(failure.last_delivery_ns)))
    write_event(message.event, letter.delivery(failure.attempts))
    return message


def _timestamp(time: Time) -> Timestamp:
    return Timestamp(seconds=time.seconds, nanos=time.nanos)
