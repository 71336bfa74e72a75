"""Interceptors: their order, and who is let in by a call's headers, before anything of its body is read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import Method, RpcError, ServerCall, StatusCode
from windshift.rpc.service import OnHeaders

from .frames import INITIAL_WINDOW_SIZE, headers, request_fields, rst_stream
from .serving import UNARY, UPLOAD, count, echo, eventually, piece, serving, simple


class Before:
    """Has a function called at the headers of every call."""

    def __init__(self, on_headers: OnHeaders) -> None:
        self._on_headers = on_headers

    def __call__(self, method: Method) -> Method:
        return replace(method, on_headers=self._on_headers)


def admit(call: ServerCall) -> None:
    """Let in who gives a name."""
    call.state = call.raw_header(b"x-name")
    if call.state is None:
        raise RpcError(StatusCode.UNAUTHENTICATED, "who are you?")


class Around:
    """Notes when calls come and go."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    def __call__(self, method: Method) -> Method:
        handler = method.handler

        async def noted(*arguments: Any) -> Any:
            self._notes.append(f"{self._name} in")
            try:
                return await handler(*arguments)
            finally:
                self._notes.append(f"{self._name} out")

        return replace(method, handler=noted)


async def test_the_first_interceptor_is_the_outermost() -> None:
    """A call comes to them in their order, whatever it streams."""
    notes: list[str] = []
    around = [Around("a", notes), Around("b", notes)]
    async with (
        serving(interceptors=around, unary_call=echo, streaming_input_call=count) as served,
        await served.peer() as peer,
    ):
        for path in (UNARY, UPLOAD):
            notes.clear()
            assert (await peer.call(path)).status == 0
            assert notes == ["a in", "b in", "b out", "a out"]


async def test_an_interceptor_may_limit_requests() -> None:
    """One that is larger is refused; what the server takes in all stays a limit."""

    class Small:
        def __call__(self, method: Method) -> Method:
            return replace(method, max_message_size=100)

    async with (
        serving(interceptors=[Small()], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        assert (await peer.call(UNARY, simple(bytes(80)))).status == 0
        assert (await peer.call(UNARY, simple(bytes(101)))).status == StatusCode.RESOURCE_EXHAUSTED


async def test_refused_before_its_body() -> None:
    """A call that is not let in is answered though its body never comes, and never reaches its handler."""
    reached: list[object] = []

    async def handler(call: ServerCall) -> None:
        reached.append(call)

    async with (
        serving(interceptors=[Before(admit)], streaming_input_call=handler) as served,
        await served.peer() as peer,
    ):
        response = await peer.response(peer.request(UPLOAD, None, [(b"grpc-timeout", b"1S")], end=False))
        assert response.status == StatusCode.UNAUTHENTICATED
    assert reached == []
    assert served.finished == []


async def test_what_an_interceptor_keeps_about_a_call() -> None:
    """Handlers see it; a header that was sent twice is seen whole."""
    callers: list[object] = []

    async def handler(request: Any, call: ServerCall) -> Any:
        callers.append(call.state)
        return await echo(request, call)

    async with (
        serving(interceptors=[Before(admit)], unary_call=handler) as served,
        await served.peer() as peer,
    ):
        await peer.call(UNARY, simple(b"x"), extra=[(b"x-name", b"ann")])
        await peer.call(UNARY, simple(b"x"), extra=[(b"x-name", b"ann"), (b"x-name", b"bob")])
    assert callers == [b"ann", b"ann,bob"]


async def test_a_mistake_in_admission() -> None:
    """An error that nobody expected lets nobody in, and is told without its text."""

    def broken(call: ServerCall) -> None:
        raise ZeroDivisionError("secret")

    async with (
        serving(interceptors=[Before(broken)], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        response = await peer.response(peer.request(UNARY))
    assert response.status == StatusCode.INTERNAL
    assert "secret" not in response.message


# Calls that are let in later, or not at all


class Doorman:
    """Has every call wait until it says so.

    Attributes:
        open: set it, and calls go on.
        error: what they end with instead.
        waiting: calls that are not let in yet.
    """

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.error: Exception | None = None
        self.calls: list[ServerCall] = []
        self.waiting = 0

    def __call__(self, method: Method) -> Method:
        return replace(method, on_headers=self._on_headers)

    def _on_headers(self, call: ServerCall) -> Coroutine[Any, Any, None]:
        self.calls.append(call)
        return self._wait()

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.open.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.waiting -= 1


async def test_a_call_that_has_to_wait() -> None:
    """No more of its body is taken than the window has room for; released, it goes on as if nothing was."""
    door, body = Doorman(), b"x" * 1_000_000
    async with (
        serving(interceptors=[door], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        stream_id = peer.request(UNARY, None, end=False)
        upload = asyncio.create_task(peer.upload(stream_id, simple(body), end=True))
        await eventually(lambda: peer.room(stream_id) == 0)
        await asyncio.wait((upload,), timeout=0.5)
        assert not upload.done()
        assert peer.room(stream_id) == 0
        assert not peer.responses[stream_id].headers
        assert door.calls[0].size >= peer.settings[INITIAL_WINDOW_SIZE] // 2
        door.open.set()
        assert await upload
        response = await peer.response(stream_id)
        assert (response.status, len(response.messages[0]) >= len(body)) == (0, True)


async def test_small_calls_that_have_to_wait() -> None:
    """They come whole, in one piece or in several, and are answered once they are released."""
    door = Doorman()
    async with (
        serving(interceptors=[door], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        whole = peer.request(UNARY, simple(b"abc"))
        parts = peer.request(UNARY, None, end=False)
        for position, byte in enumerate(simple(b"abc")):
            peer.send(peer.data(parts, bytes((byte,)), end=position == len(simple(b"abc")) - 1))
        trailers = peer.request(UNARY, simple(b"abc"), end=False)
        peer.send(headers(trailers, [(b"x", b"y")], end=True))
        await peer.pong()
        assert not any(peer.responses[each].headers for each in (whole, parts, trailers))
        door.open.set()
        answers = [await peer.response(each) for each in (whole, parts, trailers)]
        assert [each.status for each in answers] == [0, 0, 0]
        assert len({bytes(each.body) for each in answers}) == 1


async def test_calls_that_waited_in_vain() -> None:
    """They end with what is said, and give back the connection's window."""
    door = Doorman()
    door.error = RpcError(StatusCode.UNAUTHENTICATED, "nobody")
    async with (
        serving(interceptors=[door], unary_call=echo, streaming_input_call=count) as served,
        await served.peer() as peer,
    ):
        window = peer.window
        for path in [UNARY, UPLOAD] * 5:
            door.open.clear()
            stream_id = peer.request(path, None, end=False)
            peer.send(peer.data(stream_id, b"x" * peer.room(stream_id)))
            await peer.pong()
            assert not peer.responses[stream_id].headers
            door.open.set()
            assert (await peer.response(stream_id)).status == StatusCode.UNAUTHENTICATED
            peer.send(peer.data(stream_id, b"", end=True))
        await peer.pong()
        await peer.until(lambda: peer.window > window // 2)


async def test_calls_that_end_while_they_wait() -> None:
    """By their deadline or by their client: nothing waits for them any longer."""
    door = Doorman()
    async with (
        serving(interceptors=[door], unary_call=echo, streaming_input_call=count) as served,
        await served.peer() as peer,
    ):
        for path in (UNARY, UPLOAD):
            late = peer.request(path, simple(b"x"), [(b"grpc-timeout", b"20m")])
            assert (await peer.response(late)).status == StatusCode.DEADLINE_EXCEEDED
            await eventually(lambda: door.waiting == 0)
            gone = peer.request(path, simple(b"x"))
            await peer.pong()
            assert door.waiting == 1
            peer.send(rst_stream(gone))
            await peer.pong()
            await eventually(lambda: door.waiting == 0)
            unborn = peer.stream_id()
            peer.send(headers(unborn, request_fields(path)) + rst_stream(unborn))
            await peer.pong()
        assert all(call.done for call in door.calls)
        door.open.set()
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


async def test_streams_that_have_to_wait() -> None:
    """Their handlers begin when they are let in, and find all that came meanwhile."""
    door = Doorman()
    async with (
        serving(interceptors=[door], streaming_input_call=count) as served,
        await served.peer() as peer,
    ):
        stream_id = peer.request(UPLOAD, piece(b"abc") + piece(b"de"))
        await peer.pong()
        assert not peer.responses[stream_id].headers
        door.open.set()
        response = await peer.response(stream_id)
        (message,) = response.messages
        answer = messages_pb2.StreamingInputCallResponse.FromString(message)
        assert (response.status, answer.aggregated_payload_size) == (0, 5)
