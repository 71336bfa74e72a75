"""The rules in force, and the open streams of those that they admitted.

Rules are replaced as a whole. New calls are judged by the new ones; open streams are judged again, by what
the caller may do now and with the credentials that it had.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Self, TypeAlias

from windshift.server.auth.actions import Action, Consume, Publish, RejectForGood, UseConsumer
from windshift.server.auth.authenticate import Authenticator, Identity, Pending
from windshift.server.auth.ledger import Ledger
from windshift.server.auth.policy import Principal, Quotas
from windshift.server.auth.quotas import (
    ALL_CONSUMERS,
    CLAIMS,
    DAY,
    FullStreams,
    GiveBack,
    Usage,
    nothing_taken,
)
from windshift.server.auth.subjects import SubjectPatterns
from windshift.server.domain import names
from windshift.server.domain.errors import (
    IdentityUnavailable,
    PermissionDenied,
    QuotaExceeded,
    Unauthenticated,
    WindshiftError,
)
from windshift.server.domain.names import EVERYTHING

_INTERVAL: Final = 1.0
"""Seconds between two looks for credentials that have expired."""

_SLICE: Final = 0.01
"""Seconds for which open streams are judged before other calls have their turn."""

_AGAIN: Final = 5.0
"""Seconds after which a stream is judged again, when its issuer's keys cannot be had."""

Identify: TypeAlias = Callable[[Authenticator], Identity | Pending]
"""Says who sent certain credentials, by the rules that it is given. May raise `Unauthenticated`."""


def require_of(principal: Principal, action: Action, phrase: str = "") -> None:
    """Raise `PermissionDenied` unless a principal may do this. `phrase` says it, after "may not"."""
    decision = principal.permissions.decide(action)
    if not decision.allowed:
        raise PermissionDenied(
            principal.name, phrase or action.phrase, action.verb, action.resource, decision.rule
        )


@dataclass(slots=True, eq=False)
class AuthorizedCall:
    """A call of a caller that lasts, be it a stream or not. The caller may lose what let him in.

    It is reviewed as long as the `with` block of it lasts.

    Attributes:
        identity: who it is, by the rules in force.
        identify: says it anew.
        tell_denied: has the audit log told of what is denied without an end of the call: events that it
            publishes, and what goes beyond a quota of the caller's consumer.
        counts: whether it is one of the open streams of the caller.
    """

    _policy: ActivePolicy
    identity: Identity
    identify: Identify
    _usage: Usage
    tell_denied: Callable[[PermissionDenied | QuotaExceeded], None]
    counts: bool = field(kw_only=True)
    _consumer: str = field(default="", init=False)  # which counts; empty = one without a name
    _name: str | None = field(default=None, init=False)  # of the consumer, in rules
    _chosen: SubjectPatterns = field(default_factory=SubjectPatterns, init=False)
    _check: Callable[[], None] | None = field(default=None, init=False)
    _end: Callable[[WindshiftError], None] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        """Count the stream as open. Raise `QuotaExceeded`."""
        if self.counts:
            self._usage.open_stream(self.identity.principal)
        self._policy.open.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Count it no more."""
        self._policy.open.remove(self)
        if self.counts:
            self._usage.close_stream()

    @property
    def principal(self) -> str:
        """Name of the caller's principal."""
        return self.identity.principal.name

    def follow(self, check: Callable[[], None], end: Callable[[WindshiftError], None]) -> None:
        """Have the stream judged again whenever the rules change.

        `check` raises `PermissionDenied` when the caller may no longer do what he does; `end` ends the stream
        with an error, soon, also when the credentials have expired.
        """
        self._check = check
        self._end = end

    def may_publish(self, subject: str) -> bool:
        """Tell whether `publish` would let an event through, quickly: this is asked for every event."""
        return self.identity.principal.permissions.publishes(subject) and self._policy.full is None

    def publish(self, subject: str) -> None:
        """Raise `PermissionDenied` or `QuotaExceeded` unless the caller may publish an event."""
        require_of(self.identity.principal, Publish(subject))
        full = self._policy.full
        if full is not None:
            full.check(subject)

    def pause(self, now: float) -> float:
        """Return in how many seconds the caller may publish on in this call. `now` is the loop's time."""
        return self._usage.pause(self.identity.principal, now)

    def count_calls(self, number: int) -> None:
        """Count events as calls, beside the call in which they are."""
        self._usage.count_calls(self.identity.principal, number)

    def delivered(self, number: int) -> None:
        """Count events that the caller was handed."""
        self._usage.delivered += number

    def use_consumer(self, stream: str, consumer: str) -> None:
        """Raise `PermissionDenied` unless the caller may attach to consumers of this name."""
        require_of(self.identity.principal, UseConsumer(stream, names.given_name(consumer)))

    def consume(self, stream: str, consumer: str, *, durable: bool, owner: str, subjects: set[str]) -> None:
        """Raise `PermissionDenied` unless the caller may have all that this owner's consumer chooses."""
        self._consumer = consumer if durable else names.given_name(consumer) or ""
        self._name = self.identity.principal.consumer_in_rules(consumer, durable=durable, owner=owner)
        chosen = SubjectPatterns()
        for number, subject in enumerate(sorted(subjects) or (EVERYTHING,)):
            require_of(self.identity.principal, Consume(stream, subject, self._name))
            chosen.add(subject.split("."), number)
        self._chosen = chosen

    def receive(self, stream: str, subject: str) -> None:
        """Raise `PermissionDenied` unless the caller may have an event of the consumer.

        What belongs to the subjects for which `consume` let him through is his. They are compared as they
        are: other programs may store what is no subject here.
        """
        if self._chosen.covering(subject.split(".")) is None:
            require_of(self.identity.principal, Consume(stream, subject, self._name))

    def bury(self, stream: str, now: float) -> None:
        """Raise `QuotaExceeded` when the consumer has left too many dead letters. `now` is the loop's time.

        Consumers without a name count as one, and then all of the principal's together: there may be any
        number of them.
        """
        with self._telling():
            self._require("dead_letters", stream, now)
            self._require("dead_letter_bytes", stream, now)
        self._spend("dead_letters", stream, 1)

    def weigh(self, stream: str, size: int, left: int | None, now: float) -> GiveBack:
        """Count the bytes of a dead letter that is about to be written; 0 only asks.

        `left` are those that are left for all principals, when that is little; `now` is the loop's time.
        Return what gives back the room, where nothing is written after all. The minute's bytes stay counted:
        to try took the broker's time. Raise `QuotaExceeded` when there were too many already; these were not
        counted.
        """
        with self._telling():
            self._require("dead_letter_bytes", stream, now)
            give_back = self._take_room(size, left, now, DAY)
        self._spend("dead_letter_bytes", stream, size)
        return give_back

    def claim(self, size: int, left: int | None, now: float) -> GiveBack:
        """Count the bytes of a claim that is about to be written where dead letters are, as `weigh` does.

        What is kept for longer than `CLAIMS` counts as many times more.
        """
        with self._telling():
            return self._take_room(size, left, now, CLAIMS)

    def _take_room(self, size: int, left: int | None, now: float, period: float) -> GiveBack:
        if left is None:
            return nothing_taken
        return self._usage.take_room(self.identity.principal, size, left, now, period)

    def _require(self, quota: str, stream: str, now: float) -> None:
        for which in (stream, self._consumer), ALL_CONSUMERS:
            self._usage.require(self.identity.principal, quota, *which, now)

    def _spend(self, quota: str, stream: str, amount: int) -> None:
        for which in (stream, self._consumer), ALL_CONSUMERS:
            self._usage.spend(quota, *which, amount)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell the audit log what goes beyond a quota."""
        try:
            yield
        except QuotaExceeded as error:
            self.tell_denied(error)
            raise

    def replay(self, stream: str, consumer: str, now: float) -> None:
        """Count a replay. Raise `QuotaExceeded` when there were too many. `now` is the loop's time."""
        self._usage.require(self.identity.principal, "replays", stream, consumer, now)
        self._usage.spend("replays", stream, consumer)

    def reject(self, stream: str, consumer: str, owner: str) -> None:
        """Raise `PermissionDenied` unless the caller may reject for good what this owner's consumer has."""
        if owner != self.identity.principal.name:
            require_of(self.identity.principal, RejectForGood(stream, consumer))

    def review(self, identity: Identity) -> None:
        """Go on as somebody whom the rules know now. Raise what speaks against it."""
        if identity.principal.name != self.identity.principal.name:
            raise Unauthenticated("the credentials belong to somebody else now")
        self.identity = identity
        if self._check is not None:
            self._check()

    def end(self, error: WindshiftError) -> None:
        """End the stream."""
        if self._end is not None:
            self._end(error)


class ActivePolicy:
    """Who may call now.

    Attributes:
        replaced_at: loop time at which they were put in force.
        on_replaced: called whenever others were put in force.
        full: streams that take nothing more; None when there are none.
        open: the streams that are reviewed.
        usages: what each principal that ever called uses, the first one first.

    Args:
        ledger: where the workers of this server count together; None = this process is alone.
    """

    def __init__(self, authenticator: Authenticator, ledger: Ledger | None = None) -> None:
        self.authenticator = authenticator
        self.replaced_at = -inf
        self.on_replaced: list[Callable[[], None]] = []
        self.full: FullStreams | None = None
        self._ledger = ledger
        self.usages: dict[str, Usage] = {}
        self.open: set[AuthorizedCall] = set()
        self._resolving: set[asyncio.Task[None]] = set()

    def usage(self, principal: Principal, now: float) -> Usage:
        """Return what a principal uses. `now` is the loop's time."""
        usage = self.usages.get(principal.name)
        if usage is None:
            usage = self.usages[principal.name] = Usage(now, principal.name, self._ledger)
        return usage

    def quotas_of(self, principal: str) -> Quotas | None:
        """Return how much a principal may have; None when the rules know nobody of that name."""
        found = self.authenticator.principals.get(principal)
        return None if found is None else found.quotas

    def replace(self, authenticator: Authenticator, now: float) -> None:
        """Put other rules in force, and judge all open streams by them, soon. `now` is the loop's time."""
        self.authenticator = authenticator
        self.replaced_at = now
        for callback in self.on_replaced:
            callback()
        waiting = deque(self.open)
        self._review_some(waiting)
        if waiting:
            self._start(self._review_others(waiting))

    async def watch(self) -> None:
        """End streams whose credentials expire, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            self.expire(time.time())

    def expire(self, now: float) -> None:
        """End the streams whose credentials have expired by `now`, a Unix time in seconds."""
        for admission in list(self.open):
            if admission.identity.expires <= now:
                admission.end(
                    Unauthenticated(
                        "expired while the call was open",
                        "the credentials have expired",
                        "call with new ones",
                    )
                )

    def _review_some(self, waiting: deque[AuthorizedCall]) -> None:
        """Judge streams for as long as others may be made to wait for that: one at least."""
        until = time.perf_counter() + _SLICE
        while waiting:
            admission = waiting.popleft()
            if admission in self.open:
                self._review(admission)
            if time.perf_counter() > until:
                return

    async def _review_others(self, waiting: deque[AuthorizedCall]) -> None:
        """Judge the rest, unless other rules were put in force, by which all are judged again."""
        rules = self.authenticator
        while waiting:
            await asyncio.sleep(0)
            if rules is not self.authenticator:
                return
            self._review_some(waiting)

    def _review(self, admission: AuthorizedCall) -> None:
        try:
            identity = admission.identify(self.authenticator)
            if isinstance(identity, Pending):
                self._start(self._resolve(admission, identity, self.authenticator))
                return
            admission.review(identity)
        except IdentityUnavailable:
            self._review_unverified(admission)
        except WindshiftError as error:
            admission.end(error)

    def _review_unverified(self, admission: AuthorizedCall) -> None:
        """Judge a stream whose token cannot be verified now as if it were valid, and again in a while."""
        rules = self.authenticator

        def again() -> None:
            if rules is self.authenticator and admission in self.open:
                self._review(admission)

        try:
            admission.review(rules.unverified(admission.identity))
        except WindshiftError as error:
            admission.end(error)
        else:
            asyncio.get_running_loop().call_later(_AGAIN, again)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._resolving.add(task)
        task.add_done_callback(self._resolving.discard)

    async def _resolve(self, admission: AuthorizedCall, pending: Pending, rules: Authenticator) -> None:
        """Judge a stream whose token needs keys that are to be fetched, by these rules if no others came."""
        try:
            identity = await pending.resolve()
            if rules is self.authenticator:
                admission.review(identity)
        except IdentityUnavailable:
            if rules is self.authenticator and admission in self.open:
                self._review_unverified(admission)
        except WindshiftError as error:
            if rules is self.authenticator:
                admission.end(error)
