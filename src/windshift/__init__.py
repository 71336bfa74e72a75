"""Windshift: events and state for services, over gRPC and NATS JetStream.

`import windshift as ws` is the client library, whose parts are loaded when they are first used.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time an import of the package costs nothing
    from windshift import testing
    from windshift.sdk import codecs, sync
    from windshift.sdk.app import *
    from windshift.sdk.client import Client, connect
    from windshift.sdk.client_credentials import ClientCredentials
    from windshift.sdk.consumers import Consumer, ConsumerInfo, Sought
    from windshift.sdk.credentials import Token
    from windshift.sdk.dead_letters import *
    from windshift.sdk.deliveries import Delivery, Drop, GiveUp, Outcome, RetryLater, Verdict
    from windshift.sdk.errors import *
    from windshift.sdk.events import *
    from windshift.sdk.history import History, Series
    from windshift.sdk.logs import EventLogFilter
    from windshift.sdk.pointers import END, START, Position, at, from_id
    from windshift.sdk.principals import Credential, Principal, PrincipalList
    from windshift.sdk.publish_stream import PublishReceipt
    from windshift.sdk.publishing import Publish, Publisher
    from windshift.sdk.servers import Decision, Identity, RunningServer, ServerInfo, ServerList, Usage
    from windshift.sdk.settings import Tls
    from windshift.sdk.specs import ConsumerSpec, RetryPolicy, Source, StreamSpec
    from windshift.sdk.stores import Entry, Revision, Store, StoreInfo
    from windshift.sdk.streams import Stream, StreamInfo


def _elsewhere() -> list[str]:
    """Return folders of this name elsewhere on the import path: stubs that users generated may be there.

    It does what pkgutil.extend_path does, without the time that its import takes.
    """
    folders = (f"{entry}/{__name__}" for entry in sys.path)
    return [each for each in folders if each not in __path__ and os.path.isdir(each)]  # noqa: PTH112 -- costs no import


__path__ += _elsewhere()

__version__ = "0.1.0"
"""The version in pyproject.toml; `make release` changes both. Looking it up there at run time takes 30 ms."""

__all__ = [
    "END",
    "START",
    "AlreadySubscribed",
    "App",
    "AppConsumer",
    "AppStream",
    "BrokerUnavailable",
    "CancelledReplays",
    "CaughtUp",
    "Client",
    "ClientClosed",
    "ClientCredentials",
    "Conflict",
    "ConnectionEnded",
    "Consumer",
    "ConsumerInfo",
    "ConsumerLimit",
    "ConsumerNotFound",
    "ConsumerSpec",
    "Credential",
    "DeadLetter",
    "DeadLetterFilter",
    "DeadLetterGroup",
    "DeadLetterNotFound",
    "DeadLetterSummary",
    "DeadlineExceeded",
    "Decision",
    "Delivery",
    "Denied",
    "Drop",
    "DuplicateEvent",
    "Entry",
    "Event",
    "EventHolder",
    "EventLogFilter",
    "EventNotFound",
    "EventTooLarge",
    "Exhausted",
    "ExplainedConsumer",
    "Explanation",
    "ForbiddenByBroker",
    "GiveUp",
    "History",
    "Identity",
    "IdentityUnavailable",
    "InvalidField",
    "InvalidRequest",
    "KeyExists",
    "KeyNotFound",
    "LeaseLost",
    "MirrorChange",
    "NotAllowedByStream",
    "NotFound",
    "NotProvided",
    "NotSettled",
    "NotSupportedByBroker",
    "Outcome",
    "OutcomeUnknown",
    "PermissionDenied",
    "Position",
    "Principal",
    "PrincipalList",
    "PrincipalNotFound",
    "Publish",
    "PublishManyError",
    "PublishReceipt",
    "Publisher",
    "Purged",
    "QuotaExceeded",
    "Refused",
    "Replayed",
    "ReplicasUnavailable",
    "RetryLater",
    "RetryPolicy",
    "Revision",
    "RevisionMismatch",
    "Running",
    "RunningServer",
    "SeekNotPossible",
    "Series",
    "ServerInfo",
    "ServerList",
    "SettingsError",
    "ShuttingDown",
    "Skipped",
    "Sought",
    "Source",
    "StorageChange",
    "StorageFull",
    "Store",
    "StoreInfo",
    "StoreNotFound",
    "StoredEvent",
    "Stream",
    "StreamFull",
    "StreamInfo",
    "StreamLimit",
    "StreamNotFound",
    "StreamSpec",
    "SubjectsOverlap",
    "SubscribeExpected",
    "Tls",
    "Token",
    "TokenUnavailable",
    "TooManyInFlight",
    "TooManySubjects",
    "TransactionsNotSupported",
    "Trial",
    "TtlNotSupported",
    "Unauthenticated",
    "Unavailable",
    "UnboundSubject",
    "Undecodable",
    "UnknownType",
    "Unreachable",
    "UnsupportedCombination",
    "Usage",
    "ValueNotAny",
    "Verdict",
    "WindshiftError",
    "WrongLastId",
    "WrongLoop",
    "at",
    "codecs",
    "connect",
    "dead_letter",
    "drop",
    "from_id",
    "retry",
    "sync",
    "testing",
]


_NAMES_OF = {
    "app": (
        "App",
        "AppConsumer",
        "AppStream",
        "NotProvided",
        "Running",
        "Trial",
        "dead_letter",
        "drop",
        "retry",
    ),
    "client": ("Client", "connect"),
    "client_credentials": ("ClientCredentials",),
    "consumers": ("Consumer", "ConsumerInfo", "Sought"),
    "credentials": ("Token",),
    "dead_letters": (
        "CancelledReplays",
        "DeadLetter",
        "DeadLetterFilter",
        "DeadLetterGroup",
        "DeadLetterSummary",
        "Purged",
        "Replayed",
    ),
    "deliveries": ("Delivery", "Drop", "GiveUp", "Outcome", "RetryLater", "Verdict"),
    "events": (
        "CaughtUp",
        "Event",
        "EventHolder",
        "ExplainedConsumer",
        "Explanation",
        "Skipped",
        "StoredEvent",
    ),
    "history": ("History", "Series"),
    "logs": ("EventLogFilter",),
    "pointers": ("END", "Position", "START", "at", "from_id"),
    "principals": ("Credential", "Principal", "PrincipalList"),
    "publish_stream": ("PublishReceipt",),
    "publishing": ("Publish", "Publisher"),
    "servers": ("Decision", "Identity", "RunningServer", "ServerInfo", "ServerList", "Usage"),
    "settings": ("Tls",),
    "specs": ("ConsumerSpec", "RetryPolicy", "Source", "StreamSpec"),
    "stores": ("Entry", "Revision", "Store", "StoreInfo"),
    "streams": ("Stream", "StreamInfo"),
}
"""Names by their module in `windshift.sdk`, which is loaded when one is used; all others are errors."""
_MODULES = {"codecs": "windshift.sdk.codecs", "sync": "windshift.sdk.sync", "testing": "windshift.testing"}
_MODULE_OF = {name: f"windshift.sdk.{module}" for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a part of the client library when somebody asks."""
    from importlib import import_module

    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in __all__:
        module = _MODULE_OF.get(name, "windshift.sdk.errors")
        value = globals()[name] = getattr(import_module(module), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
