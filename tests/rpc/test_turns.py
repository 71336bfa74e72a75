"""Who gets the time of the event loop."""

from __future__ import annotations

import asyncio

import pytest

from windshift.rpc.turns import LITTLE, SLICE, Account, Turns

from .serving import eventually


class Clock:
    """A clock that stands still unless work is done."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """A connection with so many turns' worth of bytes."""

    stranger = False
    part = 1.0
    """Of the time that it gets, which it uses."""

    def __init__(self, name: str, turns: Turns, clock: Clock, log: list[str], account: Account) -> None:
        self.name, self.turns, self.clock, self.log, self.account = name, turns, clock, log, account
        self.left = 0

    def send(self, turns: int) -> None:
        """Have as many turns to take, and stand in line."""
        self.left = turns
        self.turns.wait(self)

    def take_turn(self, seconds: float) -> bool:
        """Take one."""
        self.log.append(self.name)
        self.clock.now += seconds * self.part
        self.turns.charge(self.account, seconds * self.part, self.clock.now)
        self.left -= 1
        return self.left > 0


def busy(clock: Clock) -> Account:
    """Return the account of somebody who used much."""
    account = Account()
    account.charge(1.0, clock.now)
    return account


def test_who_uses_little_is_not_busy() -> None:
    """Half of what is little is never much, twice as much is so soon, and no longer after a second."""
    account, now = Account(), 1000.0
    for _ in range(1000):
        now += 0.01
        account.charge(0.01 * LITTLE / 2, now)
        assert not account.is_busy(now)
    for _ in range(1000):
        now += 0.01
        account.charge(0.01 * LITTLE * 2, now)
    assert account.is_busy(now)
    assert not account.is_busy(now + 1.0)


def test_much_at_once_is_forgotten_soon() -> None:
    """However much it was."""
    account = Account()
    account.charge(100.0, 1000.0)
    assert account.is_busy(1000.0)
    assert not account.is_busy(1001.0)


async def test_who_uses_little_does_not_wait() -> None:
    """Busy ones do when the slice of the turn is used up, and when others of them wait."""
    clock = Clock()
    turns, much, little = Turns(asyncio.get_running_loop(), clock), busy(clock), Account()
    assert turns.lets_in(little)
    assert turns.lets_in(much)
    turns.charge(much, SLICE, clock.now)
    assert not turns.lets_in(much)
    assert turns.lets_in(little)
    await asyncio.sleep(0)
    assert turns.lets_in(much)


async def test_slices_are_longer_where_they_hinder_nobody() -> None:
    """That is so when nobody who uses little was there for a while."""
    clock = Clock()
    turns, much, little = Turns(asyncio.get_running_loop(), clock), busy(clock), Account()
    turns.charge(much, SLICE, clock.now)
    turns.charge(much, 100 * SLICE, clock.now)
    assert turns.lets_in(much)
    assert not turns.hinders(much)
    assert turns.lets_in(little)
    assert turns.hinders(much)
    assert not turns.hinders(little)
    assert not turns.lets_in(much)
    clock.now += 1.0
    much.charge(1.0, clock.now)
    assert turns.lets_in(much)


async def test_busy_ones_do_not_wait_for_each_other() -> None:
    """Of ten connections that use a little more than is little there is always one that has waited."""
    clock = Clock()
    turns, much, less = Turns(asyncio.get_running_loop(), clock), busy(clock), Account()
    less.charge(0.005, clock.now)
    turns.charge(much, SLICE, clock.now)
    assert turns.lets_in(less)
    assert not turns.hinders(much)
    assert turns.lets_in(much)


async def test_who_uses_little_hinders_nobody_alone() -> None:
    """Slices are short only once somebody busy is about, or other work."""
    clock = Clock()
    turns, much, little = Turns(asyncio.get_running_loop(), clock), busy(clock), Account()

    def is_shared() -> bool:
        return turns.is_shared

    assert turns.lets_in(little)
    assert not is_shared()
    turns.is_busy_elsewhere = lambda: True
    assert is_shared()
    turns.is_busy_elsewhere = lambda: False
    assert turns.lets_in(much)
    assert is_shared()
    clock.now += 1.0
    assert turns.lets_in(little)
    assert not is_shared()


@pytest.mark.parametrize("is_stranger", [True, False])
async def test_who_waits_in_line_hinders_who_uses_little(is_stranger: bool) -> None:
    """Also while it has its turn, when nobody else waits."""
    clock, log = Clock(), list[str]()
    turns, shared = Turns(asyncio.get_running_loop(), clock), list[bool]()
    kind = Stranger if is_stranger else Worker
    worker = kind("a", turns, clock, log, busy(clock))
    take_turn = worker.take_turn

    def looking(seconds: float) -> bool:
        shared.append(turns.is_shared)
        return take_turn(seconds)

    worker.take_turn = looking  # type: ignore[method-assign]
    assert turns.lets_in(Account())
    worker.send(3)
    await eventually(lambda: len(log) == 3)
    assert shared == [True, True, True]


async def test_accounts_take_turns() -> None:
    """However many connections one has."""
    clock, log = Clock(), list[str]()
    turns = Turns(asyncio.get_running_loop(), clock)
    many, few = busy(clock), busy(clock)
    for name in ("a", "b", "c"):
        Worker(name, turns, clock, log, many).send(2)
    Worker("x", turns, clock, log, few).send(3)
    await eventually(lambda: len(log) == 9)
    assert log == ["a", "x", "b", "x", "c", "x", "a", "b", "c"]


async def taken_in_each_turn(log: list[str], total: int) -> list[int]:
    """Wait until so many turns were taken; return how many were in each turn of the loop."""
    taken = []
    while len(log) < total:
        before = len(log)
        await asyncio.sleep(0)
        taken.append(len(log) - before)
    return taken


async def test_one_slice_in_a_turn_of_the_loop() -> None:
    """Busy ones together get no more."""
    clock, log = Clock(), list[str]()
    turns = Turns(asyncio.get_running_loop(), clock)
    for name in "abcdef":
        Worker(name, turns, clock, log, busy(clock)).send(2)
    assert max(await taken_in_each_turn(log, 12)) == 1


async def test_what_is_much_of_one_who_uses_little_goes_first() -> None:
    """It waits for nobody's turn but one that has begun."""
    clock, log = Clock(), list[str]()
    turns = Turns(asyncio.get_running_loop(), clock)
    for name in ("a", "b"):
        Worker(name, turns, clock, log, busy(clock)).send(3)
    Worker("x", turns, clock, log, Account()).send(1)
    await eventually(lambda: len(log) == 7)
    assert log[0] == "x"


async def test_answers_to_who_uses_little_leave_at_once() -> None:
    """Those to busy ones never, and none while nobody waits: they leave with others then."""
    clock, log = Clock(), list[str]()
    turns, much, little = Turns(asyncio.get_running_loop(), clock), busy(clock), Account()
    assert not turns.hurries(little)
    Worker("a", turns, clock, log, much).send(2)
    assert turns.hurries(little)
    assert not turns.hurries(much)
    await eventually(lambda: not turns.hurries(little))
    turns.others_wait = lambda: True
    assert turns.hurries(little)
    assert not turns.hurries(much)


async def test_small_calls_go_ahead_of_bulk_work() -> None:
    """What comes of them leaves at once, whoever makes them; of busy ones not each by itself."""
    clock = Clock()
    turns, much, little = Turns(asyncio.get_running_loop(), clock), busy(clock), Account()
    turns.others_wait = turns.is_bulky = lambda: True
    assert turns.hurries(little)
    assert turns.hurries(little)
    for _ in range(2):
        assert turns.hurries(much)
        assert turns.hurries(much)
        assert not turns.hurries(much)
        clock.now += 0.001


@pytest.mark.parametrize("amount", [1, 3])
async def test_one_account_alone_is_served_in_order(amount: int) -> None:
    """Its connections one after the other."""
    clock, log = Clock(), list[str]()
    turns, account = Turns(asyncio.get_running_loop(), clock), busy(clock)
    for name in "abc":
        Worker(name, turns, clock, log, account).send(amount)
    await eventually(lambda: len(log) == 3 * amount)
    assert log == ["a", "b", "c"] * amount


class Stranger(Worker):
    """One that nobody knows."""

    stranger = True

    def take_turn(self, seconds: float) -> bool:
        """Take one, which lasts longer than it should."""
        return super().take_turn(SLICE)


async def test_busy_ones_go_first_where_a_stranger_left_nothing() -> None:
    """A step of a stranger that takes longer than the slice is no reason not to serve them."""
    clock, log = Clock(), list[str]()
    turns = Turns(asyncio.get_running_loop(), clock)
    Worker("a", turns, clock, log, busy(clock)).send(20)
    Stranger("x", turns, clock, log, Account()).send(20)
    await eventually(lambda: len(log) == 40)
    assert log[:6] == ["x", "a", "x", "a", "x", "a"]


async def test_nobody_begins_for_whom_too_little_is_left() -> None:
    """Where somebody is about who uses little, one who has used half of the slice is the last of the turn."""
    clock, log = Clock(), list[str]()
    turns = Turns(asyncio.get_running_loop(), clock)
    for name in "abcd":
        worker = Worker(name, turns, clock, log, busy(clock))
        worker.part = 0.6
        worker.send(2)
    assert turns.lets_in(Account())
    assert max(await taken_in_each_turn(log, 8)) == 1


async def test_bytes_wait_when_half_of_the_slice_is_used() -> None:
    """Where somebody is about who uses little: what begins then will hardly fit."""
    clock = Clock()
    turns, much = Turns(asyncio.get_running_loop(), clock), busy(clock)
    assert turns.lets_in(Account())
    assert turns.lets_in(much)
    turns.charge(much, SLICE * 0.6, clock.now)
    assert not turns.lets_in(much)
