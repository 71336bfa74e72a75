"""What a handler wants to be given, read from its annotations and checked before anything is delivered."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter
from types import UnionType
from typing import Any, Union, get_args, get_origin

from google.protobuf.message import Message

from windshift.sdk.client import Client
from windshift.sdk.deliveries import Delivery
from windshift.sdk.errors import WindshiftError
from windshift.sdk.events import Event
from windshift.sdk.functions import check_handler, is_async
from windshift.sdk.stores import Store

Function = Callable[..., Any]
Getter = Callable[[Delivery[Any]], Any]
Provided = Sequence[tuple[Any, object]]
"""What handlers get beside the event: objects, each behind the annotation that it is for alone, or None."""


class NotProvided(WindshiftError):
    """A handler asks for something that nobody provided, or that several could be meant by."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that handles events.

    Attributes:
        function: the function.
        name: its name, for messages.
        types: the classes of payloads that it takes; none = whatever comes.
        parameters: its parameters.
        message: the one that is the payload, if there is one.
        blocking: whether it is no coroutine function, and so runs in a thread.
    """

    function: Function
    name: str
    types: tuple[type, ...]
    parameters: tuple[Parameter, ...]
    message: Parameter | None
    blocking: bool

    def __str__(self) -> str:
        return self.name


def read_handler(function: Function, types: Sequence[type] = (), *, untyped: bool = False) -> Handler:
    """Read the signature of a handler.

    Args:
        function: the function.
        types: the payloads that it takes; none = those in its annotations.
        untyped: it takes whatever comes, so its annotations need not tell.

    Raises:
        TypeError: an annotation is missing, cannot be resolved, or contradicts another one; no type of a
            payload is told; or it is a generator.
    """
    check_handler(function)
    name = getattr(function, "__qualname__", None) or repr(function)
    for kind in types:
        if not isinstance(kind, type):
            raise TypeError(f"{name}: {kind!r} is not a class")
    parameters = _parameters(function, name)
    messages = [each for place, each in enumerate(parameters) if _is_message(each.annotation, place, types)]
    if len(messages) > 1:
        raise TypeError(f"{name} takes its message twice")
    message = messages[0] if messages else None
    taken = _taken(name, parameters, message, types)
    if untyped and taken:
        raise TypeError(f"{name} takes whatever comes, but is annotated with {_names(taken)}")
    if not untyped and not taken:
        raise TypeError(f"{name}: no parameter is annotated with a class of payloads")
    return Handler(function, name, taken, parameters, message, not is_async(function))


def _taken(
    name: str, parameters: Sequence[Parameter], message: Parameter | None, types: Sequence[type]
) -> tuple[type, ...]:
    """Return the payloads that a handler takes: those that are named, or what its parameters say."""
    annotated = [found for each in parameters if (found := _types_of(each, message))]
    taken = tuple(types) or (annotated[0] if annotated else ())
    for found in annotated:
        if not set(taken) <= set(found):
            raise TypeError(f"{name} is annotated with {_names(found)}, but takes {_names(taken)}")
    return taken


def _parameters(function: Function, name: str) -> tuple[Parameter, ...]:
    try:
        parameters = tuple(inspect.signature(function, eval_str=True).parameters.values())
    except Exception as error:
        raise TypeError(f"the annotations of {name} cannot be resolved: {error}") from error
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: *{parameter.name} cannot be filled; name what is needed")
        if parameter.annotation is parameter.empty and parameter.default is parameter.empty:
            raise TypeError(f"{name}: the parameter {parameter.name!r} has no annotation")
    return parameters


def _is_message(annotation: Any, position: int, types: Sequence[type]) -> bool:
    """Say whether a parameter is the payload: a Protobuf message, a class that is named, or the first one."""
    classes = _classes(annotation)
    if all(issubclass(kind, Message) for kind in classes):
        return bool(classes)
    return bool(set(classes) & set(types)) if types else position == 0 and all(map(_holds_data, classes))


def _classes(annotation: Any) -> tuple[type, ...]:
    """Return the classes that an annotation means: one, or those of a union; none for whatever comes."""
    several = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    plain = all(isinstance(kind, type) and get_origin(kind) is None for kind in several)
    return several if plain and not {Message, object, Any} & set(several) else ()


def _holds_data(kind: type) -> bool:
    """Say whether objects of a class hold data: dataclasses, pydantic models, msgspec structs, messages."""
    return (
        dataclasses.is_dataclass(kind)
        or hasattr(kind, "__pydantic_fields__")
        or hasattr(kind, "__struct_fields__")
        or issubclass(kind, Message)
    )


def _types_of(parameter: Parameter, message: Parameter | None) -> tuple[type, ...]:
    """Return the payloads that a parameter says are taken: the message's, or that of `Event[T]`."""
    if get_origin(parameter.annotation) in (Event, Delivery):
        return _classes(get_args(parameter.annotation)[0])
    return _classes(parameter.annotation) if parameter is message else ()


def _names(types: Sequence[type]) -> str:
    return ", ".join(kind.__name__ for kind in types)


def _find(provided: Provided, wanted: Parameter, handler: Handler) -> object:
    """Return the object that a parameter means.

    Raises:
        NotProvided: none, or more than one.
    """
    meant = [value for annotation, value in provided if annotation == wanted.annotation]
    exact = [value for _, value in provided if type(value) is wanted.annotation]
    fitting = [value for _, value in provided if _fits(value, wanted.annotation)]
    found = meant or exact or fitting
    if len(found) == 1:
        return found[0]
    what = f"{handler} wants {wanted.name}: {inspect.formatannotation(wanted.annotation)}"
    if not found:
        raise NotProvided(f"{what}, which nobody provided")
    raise NotProvided(f"{what}, which {len(found)} provided objects are; wrap them in classes of their own")


def _fits(value: object, annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Store:
        return isinstance(value, Store) and value.kind is get_args(annotation)[0]
    try:
        return isinstance(value, origin or annotation)
    except TypeError:
        return False  # it is nothing that an object can be an instance of, such as `int | None`


def bind(handler: Handler, client: Client, provided: Provided) -> Callable[[Delivery[Any]], Any]:
    """Return a function that calls the handler with what it wants.

    Raises:
        NotProvided: something is missing.
    """
    positional: list[Getter] = []
    named: list[tuple[str, Getter]] = []
    for wanted in handler.parameters:
        getter = _getter(wanted, handler, client, provided)
        if wanted.kind is wanted.POSITIONAL_ONLY:
            positional.append(getter)
        else:
            named.append((wanted.name, getter))

    function = handler.function

    def call(delivery: Delivery[Any]) -> Any:
        return function(
            *[get(delivery) for get in positional], **{name: get(delivery) for name, get in named}
        )

    return call


def _getter(wanted: Parameter, handler: Handler, client: Client, provided: Provided) -> Getter:
    annotation = get_origin(wanted.annotation) or wanted.annotation
    if wanted is handler.message or wanted.annotation is Message:
        return lambda delivery: delivery.event.data
    if annotation is Event:
        return lambda delivery: delivery.event
    if annotation is Delivery:
        return lambda delivery: delivery
    if annotation is Client:
        return lambda _: client
    try:
        value = _find(provided, wanted, handler)
    except NotProvided:
        if wanted.default is wanted.empty:
            raise
        value = wanted.default
    return lambda _: value
