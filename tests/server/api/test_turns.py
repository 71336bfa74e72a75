"""Lists of one caller take turns."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from windshift._gen.windshift.admin.v1alpha1.service_pb2 import ListStreamsRequest
from windshift.rpc import Method
from windshift.server.api.policies import POLICIES
from windshift.server.api.turns import LISTS_AT_ONCE, list_turns, take_turns
from windshift.server.domain.errors import BrokerUnavailable

ADMIN = "/windshift.admin.v1alpha1.AdminService/"


@dataclass(eq=False, slots=True)
class Call:
    """As much of a call as counts here."""

    peer: str
    deadline: float | None = None
    state: None = None
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class Lists:
    """A handler of lists, which ends when it is told to."""

    def __init__(self) -> None:
        self.at_work: list[Call] = []
        self._done: dict[Call, asyncio.Future[str]] = {}
        plain = Method(ADMIN + "ListStreams", self._handle, ListStreamsRequest, False, False)
        self._handler = take_turns(list_turns(), plain).handler

    async def _handle(self, _: ListStreamsRequest, call: Call) -> str:
        self.at_work.append(call)
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._done[call] = done
        try:
            return await done
        finally:
            self.at_work.remove(call)

    async def begin(self, *calls: Call) -> list[asyncio.Task[str]]:
        """Have calls made, and let them come as far as they do."""
        tasks = [asyncio.create_task(self._handler(ListStreamsRequest(), call)) for call in calls]
        await self.settle()
        return tasks

    async def end(self, call: Call) -> None:
        """Have a call answered."""
        self._done[call].set_result(call.peer)
        await self.settle()

    @staticmethod
    async def settle() -> None:
        """Let everything run that can."""
        for _ in range(10):
            await asyncio.sleep(0)


async def test_few_of_one_caller_are_at_work() -> None:
    """Others begin, in their order, when one has ended; those of another caller do not wait."""
    lists = Lists()
    mine = [Call("a:1") for _ in range(LISTS_AT_ONCE + 2)]
    tasks = await lists.begin(*mine)
    assert lists.at_work == mine[:LISTS_AT_ONCE]
    other = Call("b:1")
    tasks += await lists.begin(other)
    assert lists.at_work == [*mine[:LISTS_AT_ONCE], other]

    await lists.end(mine[1])
    assert mine[LISTS_AT_ONCE] in lists.at_work
    assert mine[-1] not in lists.at_work
    tasks[0].cancel()
    await lists.settle()
    assert mine[-1] in lists.at_work

    for call in list(lists.at_work):
        await lists.end(call)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in answers].count(asyncio.CancelledError) == 1
    assert sorted(each for each in answers if isinstance(each, str)) == ["a:1"] * (len(mine) - 1) + ["b:1"]


async def test_who_goes_while_waiting_leaves_the_line() -> None:
    """A call that was cancelled takes no turn."""
    lists = Lists()
    mine = [Call("a:1") for _ in range(LISTS_AT_ONCE + 2)]
    tasks = await lists.begin(*mine)
    tasks[LISTS_AT_ONCE].cancel()
    await lists.settle()
    await lists.end(mine[0])
    assert lists.at_work == [*mine[1:LISTS_AT_ONCE], mine[-1]]
    for call in list(lists.at_work):
        await lists.end(call)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_whose_time_is_over_is_told_to_ask_for_less() -> None:
    """The turns of others are as they were."""
    lists = Lists()
    mine = [Call("a:1") for _ in range(LISTS_AT_ONCE)]
    tasks = await lists.begin(*mine)
    (late,) = await lists.begin(Call("a:1", deadline=asyncio.get_running_loop().time()))
    with pytest.raises(BrokerUnavailable, match="fewer calls at once"):
        await late
    next_one = Call("a:1")
    tasks += await lists.begin(next_one)
    assert lists.at_work == mine
    await lists.end(mine[0])
    assert lists.at_work == [*mine[1:], next_one]
    for call in list(lists.at_work):
        await lists.end(call)
    assert await asyncio.gather(*tasks) == ["a:1"] * (LISTS_AT_ONCE + 1)


def test_which_are_lists() -> None:
    """Neither publishes nor what lasts, such as replays and streams, waits for lists of the same caller."""
    methods = [Method(path, Lists.settle, ListStreamsRequest, False, False) for path in POLICIES]
    lists = {each.path for each in methods if take_turns(list_turns(), each) is not each}
    assert lists == {
        ADMIN + "ExplainEvent",
        ADMIN + "GetHistory",
        ADMIN + "ListConsumers",
        ADMIN + "ListServers",
        ADMIN + "ListStreams",
        ADMIN + "ListSubjects",
        ADMIN + "ListSubscriptions",
        ADMIN + "ReadEvents",
        "/windshift.admin.v1alpha1.PrincipalsService/ListPrincipals",
        "/windshift.deadletters.v1alpha1.DeadLettersService/Get",
        "/windshift.deadletters.v1alpha1.DeadLettersService/List",
        "/windshift.state.v1alpha1.StateService/History",
        "/windshift.state.v1alpha1.StateService/ListKeys",
        "/windshift.state.v1alpha1.StateService/ListStores",
    }
