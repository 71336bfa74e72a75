"""NATS and JetStream on asyncio: a client that knows nothing of Windshift.

From below: `protocol` turns bytes into events and back, without I/O; `wire` runs it on one socket;
`connection` reconnects; `requests` awaits replies in one inbox; `jetstream` is built on these. `retry` is the
one rule for trying again, `semaphore` the one for who is next, `budget` the one for how much may be asked.
"""

from .connection import Connection
from .errors import (
    Busy,
    ConnectFailed,
    Forbidden,
    JetStreamError,
    MessageTooLarge,
    NatsError,
    NoBatches,
    NoBucket,
    NoDirectGet,
    NoStream,
    NotConnected,
    NoTtl,
    OutcomeUnknown,
    StorageFull,
    Superseded,
    TooManyInFlight,
    Unanswered,
    Unavailable,
)
from .options import ConnectionOptions, ServerAddress, parse_servers
from .protocol import Message
from .requests import NoReply, Outcome, Requests
from .retry import Backoff, retry

__all__ = [
    "Backoff",
    "Busy",
    "ConnectFailed",
    "Connection",
    "ConnectionOptions",
    "Forbidden",
    "JetStreamError",
    "Message",
    "MessageTooLarge",
    "NatsError",
    "NoBatches",
    "NoBucket",
    "NoDirectGet",
    "NoReply",
    "NoStream",
    "NoTtl",
    "NotConnected",
    "Outcome",
    "OutcomeUnknown",
    "Requests",
    "ServerAddress",
    "StorageFull",
    "Superseded",
    "TooManyInFlight",
    "Unanswered",
    "Unavailable",
    "parse_servers",
    "retry",
]
