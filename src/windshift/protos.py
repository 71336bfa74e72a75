"""The messages of the API, generated from the `.proto` files, for programs that speak gRPC themselves.

They import on every protobuf runtime from 5.29 on. `events` is `windshift.events.v1alpha1`, `state` is
`windshift.state.v1alpha1`, `deadletters` is `windshift.deadletters.v1alpha1`, `admin` and `principals` are of
`windshift.admin.v1alpha1`; `payload` is `windshift.payload.v1`, JSON values as payloads; `test` holds the
message that examples and tests carry. Those of a service are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from windshift._gen.windshift.payload.v1 import payload_pb2 as payload
from windshift._gen.windshift.test.v1 import test_pb2 as test

if TYPE_CHECKING:
    from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as principals
    from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin
    from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as deadletters
    from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events
    from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state

__all__ = ["admin", "deadletters", "events", "payload", "principals", "state", "test"]

_SERVICES = {
    "admin": "admin.v1alpha1.service_pb2",
    "deadletters": "deadletters.v1alpha1.service_pb2",
    "events": "events.v1alpha1.service_pb2",
    "principals": "admin.v1alpha1.principals_pb2",
    "state": "state.v1alpha1.service_pb2",
}


def __getattr__(name: str) -> Any:
    """Load the messages of a service."""
    if name not in _SERVICES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = globals()[name] = import_module(f"windshift._gen.windshift.{_SERVICES[name]}")
    return module
