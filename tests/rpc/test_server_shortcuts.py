"""Unary calls that take no task: shortcuts, and what is told of the end of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import Method, RpcError, ServerCall, StatusCode

from .frames import rst_stream
from .serving import UNARY, echo, eventually, server_options, serving, simple


class WithShortcut:
    """Gives a method a shortcut, and notes when its calls have ended.

    Attributes:
        calls: those for which the shortcut was taken.
        ends: how many of the calls have ended.
    """

    def __init__(self, *, applies: bool = True, error: Exception | None = None) -> None:
        self._applies = applies
        self._error = error
        self.calls: list[ServerCall] = []
        self.ends = 0

    def __call__(self, method: Method) -> Method:
        return replace(method, shortcut=self._begin)

    def _begin(self, _: object, call: ServerCall) -> bool:
        call.on_end = self._ended
        if self._error is not None:
            raise self._error
        if self._applies:
            self.calls.append(call)
        return self._applies

    def _ended(self) -> None:
        self.ends += 1


async def test_the_shortcut_answers() -> None:
    """Where it can the handler is not asked."""
    shortcut = WithShortcut()
    async with (
        serving(interceptors=[shortcut], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        stream = peer.request(UNARY, simple(b"x"))
        await eventually(lambda: len(shortcut.calls) == 1)
        assert shortcut.ends == 0
        shortcut.calls[0].answer(await echo(_request(b"y"), shortcut.calls[0]))
        response = await peer.response(stream)
    assert (response.status, shortcut.ends) == (0, 1)
    assert served.finished == [(UNARY, 0)]


async def test_the_handler_does_the_rest() -> None:
    """What the shortcut leaves to it."""
    shortcut = WithShortcut(applies=False)
    async with (
        serving(interceptors=[shortcut], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        assert (await peer.call(UNARY, simple(b"x"))).status == 0
    assert shortcut.ends == 1


async def test_a_shortcut_that_fails() -> None:
    """Its error is that of the call, which has ended then."""
    shortcut = WithShortcut(error=RpcError(StatusCode.ABORTED, "no"))
    async with (
        serving(interceptors=[shortcut], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        assert (await peer.call(UNARY, simple(b"x"))).status == StatusCode.ABORTED
    assert shortcut.ends == 1


async def test_a_shortcut_whose_client_cancels() -> None:
    """The call has ended, and what was begun for it is abandoned; an answer comes too late."""
    shortcut, abandoned = WithShortcut(), list[bool]()
    async with (
        serving(interceptors=[shortcut], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        stream = peer.request(UNARY, simple(b"x"))
        await eventually(lambda: len(shortcut.calls) == 1)
        call = shortcut.calls[0]
        call.on_cancel = lambda: abandoned.append(True)
        peer.send(rst_stream(stream))
        await eventually(lambda: shortcut.ends == 1)
        assert abandoned == [True]
        call.answer(await echo(_request(b"y"), call))
    assert served.finished == [(UNARY, int(StatusCode.CANCELLED))]


async def test_cancelled_while_the_rest_of_the_work_waits_for_its_turn() -> None:
    """What was begun is abandoned, since the work that would see to it never begins."""
    turn, waiting = asyncio.Event(), asyncio.Event()

    async def pace(_: ServerCall, work: Awaitable[Any]) -> Any:
        waiting.set()
        try:
            await turn.wait()
        except asyncio.CancelledError:
            work.close()  # type: ignore[attr-defined]
            raise
        return await work

    shortcut, abandoned = WithShortcut(), list[bool]()
    async with (
        serving(server_options(pace=pace), interceptors=[shortcut], unary_call=echo) as served,
        await served.peer() as peer,
    ):
        stream = peer.request(UNARY, simple(b"x"))
        await eventually(lambda: len(shortcut.calls) == 1)
        call = shortcut.calls[0]
        call.on_cancel = lambda: abandoned.append(True)
        call.go_on(lambda: echo(_request(b"y"), call))
        await waiting.wait()
        peer.send(rst_stream(stream))
        await eventually(lambda: abandoned == [True])


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("is_plain", [False, True])
async def test_an_answer_is_a_part_of_the_work(*, is_plain: bool, fails: bool) -> None:
    """It is given in the last step, so that it counts for who makes the call, also what it takes to fail."""
    done, shortcut = list[bool](), WithShortcut(applies=is_plain)

    async def pace(call: ServerCall, work: Awaitable[Any]) -> None:
        await work
        done.append(call.done)

    async def handle(request: Any, call: ServerCall) -> Any:
        if fails:
            raise RpcError(StatusCode.ABORTED, "no")
        return await echo(request, call)

    async with (
        serving(server_options(pace=pace), interceptors=[shortcut], unary_call=handle) as served,
        await served.peer() as peer,
    ):
        peer.request(UNARY, simple(b"x"))
        if is_plain:
            await eventually(lambda: len(shortcut.calls) == 1)
            call = shortcut.calls[0]
            call.go_on(lambda: handle(_request(b"y"), call))
        await eventually(lambda: done == [True])


def _request(body: bytes) -> Any:
    return messages_pb2.SimpleRequest(payload=messages_pb2.Payload(body=body))
