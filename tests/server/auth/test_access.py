"""Open streams follow the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import inf

import pytest

from tests.nats.waiting import eventually
from windshift.server.auth import access as access_module
from windshift.server.auth.access import ActivePolicy, AuthorizedCall
from windshift.server.auth.authenticate import Authenticator, Identity, Pending
from windshift.server.auth.permissions import ListEntry, Permissions, Role
from windshift.server.auth.policy import JwtSubject, Policy, Principal, Quotas
from windshift.server.domain.errors import (
    IdentityUnavailable,
    PermissionDenied,
    QuotaExceeded,
    Unauthenticated,
    WindshiftError,
)

Answer = Identity | Pending | Exception
GENERATED = "0123456789abcdef01234567"


def role(*subjects: str, consumers: tuple[str, ...] = ("ann-*",)) -> Role:
    """Give a role that may consume these subjects of a stream."""
    lists = {"streams.consume": ("S",), "streams.subjects": subjects, "consumers.use": consumers}
    return Role("r", {key: tuple(ListEntry(each, 1) for each in value) for key, value in lists.items()})


def identity(*subjects: str, name: str = "ann", expires: float = inf, streams: int | None = None) -> Identity:
    """Give somebody who may consume these subjects."""
    permissions = Permissions(name, [role(*subjects)])
    return Identity(Principal(name, permissions, max_streams=streams), "token", expires)


class Stream:
    """An open stream, and what it was ended with."""

    def __init__(self, access: ActivePolicy, who: Identity) -> None:
        self.access = access
        self.who = who
        self.now: Answer = who
        self.ended: list[WindshiftError] = []

    def identify(self, _: Authenticator) -> Identity | Pending:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    @contextmanager
    def opened(self, subject: str = "a.b") -> Iterator[AuthorizedCall]:
        usage = self.access.usage(self.who.principal, 0)
        denied: list[WindshiftError] = []
        stream = AuthorizedCall(self.access, self.who, self.identify, usage, denied.append, counts=True)
        with stream as admission:
            admission.follow(
                lambda: admission.consume("S", "ann-1", durable=True, owner="", subjects={subject}),
                self.ended.append,
            )
            yield admission


@pytest.fixture
def access() -> ActivePolicy:
    """Rules that know nobody: streams are opened by who is let in beforehand."""
    return ActivePolicy(Authenticator(Policy()))


def renew(access: ActivePolicy) -> None:
    """Put other rules in force."""
    access.replace(Authenticator(Policy()), 1)


def test_who_still_may_goes_on(access: ActivePolicy) -> None:
    """A stream that the new rules allow stays, and is judged by them from then on."""
    stream = Stream(access, identity("a.>"))
    with stream.opened() as admission:
        stream.now = identity("a.*")
        renew(access)
        assert stream.ended == []
        with pytest.raises(PermissionDenied):
            admission.consume("S", "ann-1", durable=True, owner="", subjects={"a.b.c"})


def test_who_may_no_longer_is_ended(access: ActivePolicy) -> None:
    """A stream that the new rules do not allow is ended with what they say."""
    stream = Stream(access, identity("a.>"))
    with stream.opened():
        stream.now = identity("b.>")
        renew(access)
    assert [type(error) for error in stream.ended] == [PermissionDenied]


def test_who_is_not_known_any_more_is_ended(access: ActivePolicy) -> None:
    """So is one whose credentials are revoked, and one whose credentials are somebody else's now."""
    streams = [Stream(access, identity("a.>")), Stream(access, identity("a.>"))]
    with streams[0].opened(), streams[1].opened():
        streams[0].now = Unauthenticated("revoked")
        streams[1].now = identity("a.>", name="bob")
        renew(access)
    assert [[type(error) for error in stream.ended] for stream in streams] == [[Unauthenticated]] * 2


def test_dead_letters_of_many_consumers(access: ActivePolicy) -> None:
    """All that somebody uses together leave four times as much as one of them may, whatever their names."""
    quotas = Quotas(dead_letters=3, dead_letter_bytes=1_000)
    who = Identity(Principal("ann", Permissions("ann", [role("a.>")]), quotas=quotas), "token", inf)

    def left(now: float, size: int) -> list[int]:
        """Leave dead letters with one consumer after the other; give how many each has left."""
        counts = [0] * 10
        for number in range(len(counts)):
            with Stream(access, who).opened() as admission:
                admission.consume("S", f"ann-{now}-{number}", durable=True, owner="", subjects={"a.b"})
                try:
                    while True:
                        admission.bury("S", now)
                        admission.weigh("S", size, None, now)
                        counts[number] += 1
                except QuotaExceeded as error:
                    refusals.append(str(error))
        return counts

    refusals: list[str] = []
    assert left(0, 1) == [3, 3, 3, 3, 0, 0, 0, 0, 0, 0]
    assert "no more than 3 dead letters of one consumer per minute" in refusals[0]
    assert (
        "no more than 12 dead letters of all its consumers per minute (4 times quotas.dead_letters);"
        in refusals[-1]
    )
    assert left(1_000, 1_000) == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_dead_letters_that_are_weighed_at_once(access: ActivePolicy) -> None:
    """Those that are let in together do not go beyond their bytes together, nor beyond the room of all."""
    quotas = Quotas(dead_letter_bytes=1_000)
    who = Identity(Principal("ann", Permissions("ann", [role("a.>")]), quotas=quotas), "token", inf)

    def weighed(left: int | None) -> int:
        with Stream(access, who).opened() as admission:
            admission.consume("S", f"ann-{left}", durable=True, owner="", subjects={"a.b"})
            for _ in range(10):
                admission.bury("S", 0)
                admission.weigh("S", 0, left, 0)
            for count in range(10):
                try:
                    admission.weigh("S", 400, left, 0)
                except QuotaExceeded:
                    return count
        return 10

    assert (weighed(None), weighed(30 * 500)) == (3, 2)


def after(wait: Callable[[], Awaitable[object]], outcome: Identity | WindshiftError) -> Pending:
    """Return a caller who is known, or not, when something was waited for."""

    async def resolve() -> Identity:
        await wait()
        if isinstance(outcome, WindshiftError):
            raise outcome
        return outcome

    return Pending(resolve)


async def test_keys_that_have_to_be_fetched(access: ActivePolicy) -> None:
    """A stream whose token needs keys first is judged when they are there."""
    streams = [Stream(access, identity("a.>")) for _ in range(3)]
    outcomes: list[Identity | WindshiftError] = [
        identity("a.>"),
        identity("b.>"),
        Unauthenticated("unknown key"),
    ]
    with streams[0].opened(), streams[1].opened(), streams[2].opened():
        for stream, outcome in zip(streams, outcomes, strict=True):
            stream.now = after(lambda: asyncio.sleep(0), outcome)
        renew(access)
        for _ in range(5):
            await asyncio.sleep(0)
    assert [[type(error) for error in stream.ended] for stream in streams] == [
        [],
        [PermissionDenied],
        [Unauthenticated],
    ]


async def test_keys_that_come_after_other_rules(access: ActivePolicy) -> None:
    """What earlier rules would have said counts for nothing, whether it is more or less."""
    keys = asyncio.Event()
    more, less = Stream(access, identity("a.>")), Stream(access, identity("a.>"))
    with more.opened() as admission, less.opened():
        more.now = after(keys.wait, identity(">"))
        less.now = after(keys.wait, Unauthenticated("unknown key"))
        renew(access)
        await asyncio.sleep(0)
        more.now = less.now = identity("a.*")
        renew(access)
        keys.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert more.ended == less.ended == []
        with pytest.raises(PermissionDenied):
            admission.consume("S", "ann-1", durable=True, owner="", subjects={"b"})


async def test_keys_that_cannot_be_had(access: ActivePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream goes on as what its caller is in the rules, and is judged again until there are keys."""
    monkeypatch.setattr(access_module, "_AGAIN", 0.01)

    def named(*subjects: str, sub: str = "ci") -> Principal:
        permissions = Permissions("ann", [role(*subjects)])
        return Principal("ann", permissions, jwt=(JwtSubject("corp", sub),))

    who = Identity(named("a.>"), "jwt corp ci", inf)
    for now, ended in (
        (named("a.*"), None),
        (named("b.>"), PermissionDenied),
        (named("a.>", sub="other"), Unauthenticated),
        (None, Unauthenticated),
    ):
        stream = Stream(access, who)
        with stream.opened():
            stream.now = IdentityUnavailable()
            access.replace(Authenticator(Policy({} if now is None else {"ann": now})), 1)
            assert [type(error) for error in stream.ended] == ([] if ended is None else [ended])
            if ended is None:
                stream.now = Unauthenticated("withdrawn")
                await eventually(partial(bool, stream.ended))
                assert [type(error) for error in stream.ended] == [Unauthenticated]


async def test_many_streams(access: ActivePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are judged one after the other, with turns of others in between, by the rules in force then."""
    monkeypatch.setattr(access_module, "_SLICE", 0.0)
    streams = [Stream(access, identity("a.>")) for _ in range(10)]
    with ExitStack() as opened:
        for stream in streams:
            opened.enter_context(stream.opened())
            stream.now = Unauthenticated("revoked")
        renew(access)
        assert sum(len(stream.ended) for stream in streams) == 1
        for _ in range(3):
            await asyncio.sleep(0)
        assert 1 < sum(len(stream.ended) for stream in streams) < 10
        left = [stream for stream in streams if not stream.ended]
        for stream in streams:
            stream.now = identity("a.*")
        renew(access)
        for _ in range(30):
            await asyncio.sleep(0)
        assert [len(stream.ended) for stream in left] == [0] * len(left)
        for stream in streams:
            stream.now = identity("b")
        renew(access)
        for _ in range(30):
            await asyncio.sleep(0)
        assert all(stream.ended for stream in streams)


async def test_streams_that_end_before_they_are_judged(
    access: ActivePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said of them any more."""
    monkeypatch.setattr(access_module, "_SLICE", 0.0)
    streams = [Stream(access, identity("a.>")) for _ in range(5)]
    with ExitStack() as opened:
        for stream in streams:
            opened.enter_context(stream.opened())
            stream.now = Unauthenticated("revoked")
        renew(access)
    for _ in range(10):
        await asyncio.sleep(0)
    assert sum(len(stream.ended) for stream in streams) == 1


def test_expired_credentials(access: ActivePolicy) -> None:
    """A stream ends when its credentials expire, and is told so."""
    early, late = Stream(access, identity("a.>", expires=100)), Stream(access, identity("a.>", expires=101))
    with early.opened(), late.opened():
        access.expire(99.9)
        assert early.ended == []
        access.expire(100)
        assert "expired" in early.ended[0].message
        assert late.ended == []


def test_closed_streams_are_forgotten(access: ActivePolicy) -> None:
    """A stream that is closed is not judged, and makes room for another."""
    stream = Stream(access, identity("a.>", streams=1))
    with stream.opened(), pytest.raises(QuotaExceeded), Stream(access, stream.who).opened():
        pass
    stream.now = Unauthenticated("revoked")
    renew(access)
    access.expire(inf)
    assert stream.ended == []
    with stream.opened():
        pass


def test_generated_names(access: ActivePolicy) -> None:
    """A generated name needs no right of its own, unless somebody gave it, or somebody else has it."""
    with Stream(access, identity("a.>")).opened() as admission:
        admission.use_consumer("S", GENERATED)
        for owner in ("", admission.principal):
            admission.consume("S", GENERATED, durable=False, owner=owner, subjects={"a.b"})
            admission.receive("S", "a.c")
        for consumer, durable, owner in (
            (GENERATED, True, ""),
            (GENERATED, True, admission.principal),
            (GENERATED, False, "bob"),
            ("bob-1", False, ""),
            (GENERATED.upper(), False, ""),
        ):
            with pytest.raises(PermissionDenied):
                admission.consume("S", consumer, durable=durable, owner=owner, subjects={"a.b"})


def test_every_subject_counts(access: ActivePolicy) -> None:
    """One subject that is not allowed is one too many, and no subject is every subject."""
    with Stream(access, identity("a.>")).opened() as admission:
        for subjects in ({"a.b", "b.a"}, {">"}, set[str]()):
            with pytest.raises(PermissionDenied):
                admission.consume("S", "ann-1", durable=True, owner="", subjects=subjects)
