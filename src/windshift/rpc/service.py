"""Services: Protobuf descriptors bound to the coroutines that serve them."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import iscoroutinefunction
from types import FunctionType, MethodType
from typing import Any, Final, cast

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

UNLIMITED: Final = 2**32 - 1
"""Bytes of the largest message in the wire format."""

Handler = Callable[..., Any]
Shortcut = Callable[[Any, Any], bool]
OnHeaders = Callable[[Any], Coroutine[Any, Any, None] | None]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service.

    An interceptor changes ``handler``, ``shortcut``, ``on_headers``, ``max_message_size``, and what parses
    requests.

    Attributes:
        path: the ``:path`` of its calls, ``/package.Service/Method``.
        handler: a coroutine function; its arguments depend on which sides stream, see ``windshift.rpc.call``.
            Of a unary method it may be a plain function, and then every interceptor's wrapper must be one.
        plain: whether it is.
        shortcut: of a unary method, does what ``handler`` does for most requests, without a task: a plain
            function that takes the same arguments. It returns False, and has done nothing, where ``handler``
            is to do it; otherwise it answers as a plain handler does. An interceptor wraps both, or has
            its own handler call it, and sets it to None.
        request_type: parses its requests: their class, or what has its ``FromString`` and ``DESCRIPTOR``.
        large_type: of a unary method, parses those that come in several pieces, or compressed, in place of
            ``request_type``; None = that does.
        client_streaming: whether the client sends a stream of messages.
        server_streaming: whether the server does.
        streaming: whether either does.
        max_message_size: bytes of one request message; the server may allow fewer.
        on_headers: called with each call before its body is read; must be quick. An exception becomes the
            call's status; a coroutine that it returns is awaited before the handler starts.
    """

    path: str
    handler: Handler
    request_type: type[Message]
    client_streaming: bool
    server_streaming: bool
    max_message_size: int = UNLIMITED
    on_headers: OnHeaders | None = None
    large_type: type[Message] | None = None
    shortcut: Shortcut | None = None
    streaming: bool = field(init=False)
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        streaming = self.client_streaming or self.server_streaming
        object.__setattr__(self, "streaming", streaming)
        object.__setattr__(self, "plain", not (streaming or iscoroutinefunction(self.handler)))


Interceptor = Callable[[Method], Method]
"""Wraps a method: returns the one that calls are to use.

It is called once per method, when the server is made, so that a call costs only what it added.
"""


class Service:
    """A Protobuf service, implemented by an object.

    The object has a method for each rpc it implements, named in snake case (``PublishEvent`` →
    ``publish_event``): a coroutine, or for a unary one a function. An rpc without one is answered with
    UNIMPLEMENTED. A method of that name behind ``begin_`` is its shortcut, see `Method`. The descriptor is
    from generated code.
    """

    def __init__(self, descriptor: ServiceDescriptor, implementation: object) -> None:
        self.descriptor = descriptor
        self.name = descriptor.full_name
        self.methods: Mapping[str, Method] = {each.path: each for each in self._bound(implementation)}

    def _bound(self, implementation: object) -> Iterator[Method]:
        for descriptor in cast("list[MethodDescriptor]", self.descriptor.methods):
            name = snake_case(descriptor.name)
            handler = getattr(implementation, name, None)
            if isinstance(handler, (MethodType, FunctionType)):  # and no field that happens to have its name
                yield Method(
                    path=f"/{self.name}/{descriptor.name}",
                    handler=handler,
                    request_type=GetMessageClass(descriptor.input_type),
                    client_streaming=bool(descriptor.client_streaming),
                    server_streaming=bool(descriptor.server_streaming),
                    shortcut=getattr(implementation, f"begin_{name}", None),
                )


def taking_shortcut(method: Method) -> Method:
    """Return a method whose handler takes the shortcut where it can, and has a task do the rest."""
    handler, shortcut = method.handler, method.shortcut
    if shortcut is None:
        return method

    def begin(request: Any, call: Any) -> None:
        if not shortcut(request, call):
            call.go_on(lambda: handler(request, call))

    return replace(method, handler=begin, shortcut=None)


def snake_case(name: str) -> str:
    """Return a CamelCase rpc name in snake case."""
    return _WORD_START.sub("_", name).lower()
