"""Who is let in is decided by a call's headers, before anything of its body is read."""

from __future__ import annotations

from typing import Any

from windshift.rpc import RpcError, ServerCall, StatusCode

from .serving import UNARY, UPLOAD, echo, server_options, serving, simple


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
