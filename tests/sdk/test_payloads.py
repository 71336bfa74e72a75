"""Payloads that are no Protobuf messages, and those that are none at all."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, NewType
from uuid import UUID

import msgspec
import pydantic
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

import windshift as ws
from windshift.protos import payload, test
from windshift.sdk.payloads import JSON, Payloads, type_name

Text = test.StringValue
Cents = NewType("Cents", int)


class Colour(enum.Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


class Order(pydantic.BaseModel):
    """An order, for pydantic."""

    order_id: str = pydantic.Field(alias="orderId")
    cents: int
    placed: datetime | None = None


class Bill(msgspec.Struct):
    """A bill, for msgspec."""

    number: int
    lines: list[str] = []


@dataclasses.dataclass(frozen=True)
class Line:
    """A part of a parcel."""

    name: str
    count: int = 1


@dataclasses.dataclass
class Parcel:
    """Everything that a dataclass may hold."""

    number: UUID
    price: Decimal
    sent: datetime
    colour: Colour
    lines: list[Line]
    size: tuple[int, float]
    tags: frozenset[str]
    notes: dict[str, str | None]
    how: Literal["air", "sea"]
    cents: Cents
    seal: bytes = b""
    inside: Parcel | None = None
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


ORDER = b'{"orderId":"7","cents":1152921504606846977,"placed":null}'


def parcel(**changes: Any) -> Parcel:
    """Return a parcel with something of everything."""
    number = UUID("12345678123456781234567812345678")
    values: dict[str, Any] = {
        "number": number,
        "price": Decimal("1.10"),
        "sent": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "colour": Colour.BLUE,
        "lines": [Line("a"), Line("ü", 2**60 + 1)],
        "size": (1, 2.5),
        "tags": frozenset({"x"}),
        "notes": {"a": None, "b": "c"},
        "how": "sea",
        "cents": 3490,
        "seal": b"\0\xff",
        "more": {"any": [1, {"thing": None}]},
        **changes,
    }
    return Parcel(**values)


@pytest.fixture
def payloads() -> Payloads:
    """Return payloads with all codecs."""
    return Payloads([ws.codecs.Pydantic(), ws.codecs.Msgspec(), ws.codecs.Dataclasses()])


def wrapped(packed: AnyMessage) -> payload.Json:
    """Return the wrapper in a payload."""
    assert packed.type_url == f"type.googleapis.com/{JSON}"
    return payload.Json.FromString(packed.value)


@pytest.mark.parametrize(
    ("codec", "value", "text"),
    [
        (ws.codecs.Pydantic(), Order(orderId="7", cents=2**60 + 1), ORDER),
        (ws.codecs.Msgspec(), Bill(1, ["a"]), b'{"number":1,"lines":["a"]}'),
        (ws.codecs.Msgspec(), Line("a"), b'{"name":"a","count":1}'),
        (ws.codecs.Dataclasses(), Line("ü"), '{"name":"ü","count":1}'.encode()),
    ],
)  # fmt: skip
def test_objects_travel_as_json_with_the_name_of_their_class(
    codec: ws.codecs.Codec, value: object, text: bytes
) -> None:
    """What goes out is the wrapper; what comes back is equal."""
    payloads = Payloads([codec])
    packed = payloads.pack(value)
    kind = type(value)
    assert wrapped(packed) == payload.Json(type=f"{kind.__module__}.{kind.__qualname__}", value=text)
    assert type_name(packed) == payloads.name(kind) == f"{JSON}/{kind.__module__}.{kind.__qualname__}"
    assert payloads.unpack_as(packed, kind) == value
    assert payloads.unpack(packed) == wrapped(packed)


def test_dataclasses_hold_what_python_brings_along() -> None:
    """Every type that the codec takes comes back as it was, nested and optional."""
    payloads = Payloads([ws.codecs.Dataclasses()])
    value = parcel(inside=parcel())
    assert payloads.unpack_as(payloads.pack(value), Parcel) == value


def test_a_dataclass_that_cannot_be_read_is_refused_before_it_is_sent() -> None:
    """A field of a type that the codec does not know is a TypeError at the first use."""

    @dataclasses.dataclass
    class Odd:
        what: complex

    with pytest.raises(TypeError, match=r"Odd\.what is of type .*complex"):
        Payloads([ws.codecs.Dataclasses()]).pack(Odd(1j))
    with pytest.raises(ValueError, match="Out of range"):
        Payloads([ws.codecs.Dataclasses()]).pack(parcel(size=(1, float("nan"))))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting"),
        ("[]", "list instead of dict"),
        ('{"count": 1}', "name: missing"),
        ('{"name": 1}', "name: int instead of str"),
        ('{"name": "a", "count": true}', "count: bool instead of int"),
        ('{"name": "a", "count": 1.5}', "count: float instead of int"),
    ],
)
def test_json_that_is_no_such_dataclass_is_undecodable(text: str, why: str) -> None:
    """The error says where and why."""
    payloads = Payloads([ws.codecs.Dataclasses()])
    packed = payloads.pack(Line("a"))
    packed.value = payload.Json(type=wrapped(packed).type, value=text.encode()).SerializeToString()
    with pytest.raises(ws.Undecodable, match=why):
        payloads.unpack_as(packed, Line)


def test_more_fields_than_a_dataclass_has_are_ignored() -> None:
    """A publisher may be newer than its readers."""
    payloads = Payloads([ws.codecs.Dataclasses()])
    packed = payloads.pack(Line("a"))
    newer = payload.Json(type=wrapped(packed).type, value=b'{"name": "a", "new": {}}')
    packed.value = newer.SerializeToString()
    assert payloads.unpack_as(packed, Line) == Line("a")


@pytest.mark.parametrize("kind", [Order, Bill, Line])
def test_broken_payloads_are_undecodable(payloads: Payloads, kind: type) -> None:
    """Whatever is wrong with a payload, the error is one that makes a dead letter; values stay out of it."""
    name = payloads.name(kind).partition("/")[2]
    for value in (b"", b"{}", b'{"secret": 1}', b"\xff", b"null", b"[" * 100_000):
        packed = AnyMessage()
        packed.Pack(payload.Json(type=name, value=value))
        with pytest.raises(ws.Undecodable) as caught:
            payloads.unpack_as(packed, kind)
        assert "secret" not in str(caught.value)
    packed = AnyMessage(type_url=f"type.googleapis.com/{JSON}", value=b"\xff")
    assert type_name(packed) == JSON
    with pytest.raises(ws.Undecodable):
        payloads.unpack_as(packed, kind)


def test_a_class_may_say_its_name(payloads: Payloads) -> None:
    """`__windshift_type__` names a class wherever it is defined; a class that inherits has its own name."""

    class Named(pydantic.BaseModel):
        __windshift_type__ = "shop.Named"

    class Child(Named):
        pass

    assert payloads.name(Named) == f"{JSON}/shop.Named"
    assert payloads.name(Child).endswith("<locals>.Child")


def test_what_no_codec_takes_is_a_type_error(payloads: Payloads) -> None:
    """Neither texts nor classes of nobody become payloads; nor do classes where there is no codec."""
    for value in ("text", b"bytes", 1, None, {}, object(), Order):
        with pytest.raises(TypeError, match="a payload is a Protobuf message"):
            payloads.pack(value)
    with pytest.raises(TypeError, match="not Order"):
        Payloads().name(Order)
    with pytest.raises(TypeError, match="classes, not 'Order'"):
        payloads.filter(["Order"])  # type: ignore[list-item] # that is the point


def test_mistakes_with_types_and_codecs_say_what_is_wanted() -> None:
    """One class in the place of a list, a class in the place of a codec, a codec in the place of a list."""
    with pytest.raises(TypeError, match=r"types is a list of classes, such as \[StringValue\]"):
        Payloads().filter(Text)  # type: ignore[arg-type] # that is the point
    with pytest.raises(TypeError, match="classes, not 'Text'"):
        Payloads().name("Text")  # type: ignore[arg-type] # that is the point
    wrongs: list[Any] = [ws.codecs.Dataclasses(), [ws.codecs.Dataclasses]]
    for wrong in wrongs:
        for take in (Payloads, Payloads().learn, lambda codecs: ws.App("a", codecs=codecs)):
            with pytest.raises(TypeError, match=r"codecs is a list of objects, such as \[ws.codecs"):
                take(wrong)


async def test_a_handler_that_is_no_function_is_refused_at_once(client: ws.Client) -> None:
    """Otherwise every event would fail on it, and use its attempts up."""
    stream = await client.streams.ensure("s", subjects=["s.>"])
    consumer = await stream.consumers.ensure("c")
    for wrong in ("handle", 7):
        with pytest.raises(TypeError, match="a handler is a function"):
            await consumer.run(wrong)  # type: ignore[arg-type] # that is the point


async def test_objects_go_through_a_server(server: str, unique: Callable[[], str]) -> None:
    """A client publishes, consumes, stores and reads objects; who has no class gets the wrapper."""
    async with ws.connect(
        server,
        namespace=unique(),
        codecs=[ws.codecs.Pydantic(), ws.codecs.Dataclasses()],
    ) as client:
        stream = await client.streams.ensure("orders", subjects=["orders.>"])
        consumer = await stream.consumers.ensure("c", start=ws.START)
        order = Order(orderId="7", cents=100)
        for value in (order, Line("a"), Text(value="b")):
            await client.publish("orders.placed", value)

        seen: list[object] = []
        async with consumer.running(lambda delivery: seen.append(delivery.event.data), types=[Order, Text]):
            await consumer.idle()
        assert sorted(seen, key=str) == sorted([order, Text(value="b")], key=str)
        letters = [letter async for letter in client.dead_letters.list(stream="orders")]
        assert [(letter.event.id, letter.error_type) for letter in letters] == [(2, "UnknownType")]
        assert f"{JSON}/{Line.__module__}.Line" in letters[0].reason
        assert letters[0].event.decode(Line) == Line("a")
        assert letters[0].event.message().DESCRIPTOR.full_name == JSON
        listed = [letter async for letter in client.dead_letters.list(stream="orders", type=Line)]
        assert [letter.event.data for letter in listed] == [Line("a")]
        assert [x async for x in client.dead_letters.list(stream="orders", type=Order)] == []
        with pytest.raises(ValueError, match="inside of JSON"):
            await client.dead_letters.purge(stream="orders", type=Line)

        read = [stored.event.data async for stored in stream.events.read(types=[Line], limit=1)]
        assert read == [Line("a")]
        any_json = [stored.event.data async for stored in stream.events.read(types=[payload.Json])]
        assert [json.type.rpartition(".")[2] for json in any_json] == ["Order", "Line"]

        store = await client.stores.ensure("lines", Line)
        await store.set("a", Line("x", 2))
        entry = await store.modify("a", lambda line: dataclasses.replace(line, count=line.count + 1))
        assert entry.value == Line("x", 3)
        with pytest.raises(TypeError, match="no empty value: Line needs arguments"):
            await store.modify("b", lambda line: line)
        with pytest.raises(ws.Undecodable):
            await client.store("lines", Order).get("a")
