"""Who is let in is decided by a call's headers, before anything of its body is read."""

from __future__ import annotations

import asyncio
from typing import Any

from windshift.rpc import RpcError, ServerCall, StatusCode

from .frames import INITIAL_WINDOW_SIZE, headers, rst_stream
from .serving import UNARY, UPLOAD, count, echo, server_options, serving, simple


def admit(call: ServerCall) -> object:
    """Let in who gives a name."""
    name = call.raw_header(b"x-name")
    if name is None:
        raise RpcError(StatusCode.UNAUTHENTICATED, "who are you?")
    return name


async def test_refused_before_its_body() -> None:
    """A call that is not let in is answered though its body never comes, and never reaches its handler."""
    reached: list[object] = []

    async def handler(call: ServerCall) -> None:
        reached.append(call)

    async with (
        serving(server_options(admit=admit), streaming_input_call=handler) as served,
        await served.peer() as peer,
    ):
        response = await peer.response(peer.request(UPLOAD, None, [(b"grpc-timeout", b"1S")], end=False))
        assert response.status == StatusCode.UNAUTHENTICATED
    assert reached == []
    assert served.finished == []


async def test_what_admission_returned_is_the_caller() -> None:
    """Handlers see what admission returned; a header that was sent twice is seen whole."""
    callers: list[object] = []

    async def handler(request: Any, call: ServerCall) -> Any:
        callers.append(call.caller)
        return await echo(request, call)

    async with (
        serving(server_options(admit=admit), unary_call=handler) as served,
        await served.peer() as peer,
    ):
        await peer.call(UNARY, simple(b"x"), extra=[(b"x-name", b"ann")])
        await peer.call(UNARY, simple(b"x"), extra=[(b"x-name", b"ann"), (b"x-name", b"bob")])
    assert callers == [b"ann", b"ann,bob"]


async def test_a_mistake_in_admission() -> None:
    """An error that nobody expected lets nobody in, and is told without its text."""

    def broken(call: ServerCall) -> object:
        raise ZeroDivisionError("secret")

    async with (
        serving(server_options(admit=broken), unary_call=echo) as served,
        await served.peer() as peer,
    ):
        response = await peer.response(peer.request(UNARY))
    assert response.status == StatusCode.INTERNAL
    assert "secret" not in response.message


# Calls that are let in later, or not at all


class Doorman:
    """Has every call wait until it says so."""

    def __init__(self) -> None:
        self.calls: list[ServerCall] = []
        self.held: list[bool] = []

    def admit(self, call: ServerCall) -> object:
        self.calls.append(call)
        self.held.append(call.hold())
        return None


async def test_a_call_that_has_to_wait() -> None:
    """No more of its body is taken than the window has room for; released, it goes on as if nothing was."""
    door, body = Doorman(), b"x" * 1_000_000
    async with (
        serving(server_options(admit=door.admit), unary_call=echo) as served,
        await served.peer() as peer,
    ):
        stream_id = peer.request(UNARY, None, end=False)
        upload = asyncio.create_task(peer.upload(stream_id, simple(body), end=True))
        await asyncio.wait((upload,), timeout=0.5)
        assert not upload.done()
        assert peer.room(stream_id) == 0
        assert not peer.responses[stream_id].headers
        assert door.calls[0].held >= peer.settings[INITIAL_WINDOW_SIZE] // 2
        door.calls[0].release()
        assert await upload
        response = await peer.response(stream_id)
        assert (response.status, len(response.messages[0]) >= len(body)) == (0, True)


async def test_small_calls_that_have_to_wait() -> None:
    """They come whole, in one piece or in several, and are answered once they are released."""
    door = Doorman()
    async with (
        serving(server_options(admit=door.admit), unary_call=echo) as served,
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
        for call in door.calls:
            call.release()
        answers = [await peer.response(each) for each in (whole, parts, trailers)]
        assert [each.status for each in answers] == [0, 0, 0]
        assert len({bytes(each.body) for each in answers}) == 1


async def test_calls_that_waited_in_vain() -> None:
    """They end with what is said, and give back the connection's window."""
    door = Doorman()
    async with (
        serving(server_options(admit=door.admit), unary_call=echo) as served,
        await served.peer() as peer,
    ):
        window = peer.window
        for _ in range(10):
            stream_id = peer.request(UNARY, None, end=False)
            room = peer.room(stream_id)
            peer.send(peer.data(stream_id, b"x" * room))
            await peer.pong()
            door.calls[-1].abort(RpcError(StatusCode.UNAUTHENTICATED, "nobody"))
            assert (await peer.response(stream_id)).status == StatusCode.UNAUTHENTICATED
            peer.send(peer.data(stream_id, b"", end=True))
        await peer.pong()
        await peer.until(lambda: peer.window > window // 2)
        gone = peer.request(UNARY, simple(b"x"))
        peer.send(rst_stream(gone))
        await peer.pong()
        door.calls[-1].release()
        assert door.calls[-1].done


async def test_calls_whose_handlers_wait_themselves() -> None:
    """A handler that reads the requests itself begins at once, and there is nothing to release."""
    door = Doorman()
    async with (
        serving(server_options(admit=door.admit), streaming_input_call=count) as served,
        await served.peer() as peer,
    ):
        assert (await peer.response(peer.request(UPLOAD, None))).status == 0
        assert door.held == [False]
        door.calls[0].release()
