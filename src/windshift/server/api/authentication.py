"""Every call is asked who it is and judged by the rules, before its handler begins.

Who calls is found out by the headers alone, before anything else of the call is read; what he wants, once the
request is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Final

from windshift.rpc import Method, ServerCall
from windshift.rpc.service import Handler
from windshift.rpc.turns import Account
from windshift.server.api.callers import peer_of
from windshift.server.api.policies import MethodPolicy, Quota, Rule, actions_of, in_parts, policy_of
from windshift.server.auth.access import ActivePolicy, AuthorizedCall, require_of
from windshift.server.auth.actions import Action, Publish, WriteKey
from windshift.server.auth.audit import Audit, Caller, Denial
from windshift.server.auth.authenticate import Authenticator, Identity, Pending
from windshift.server.auth.certificates import CertificateNames, certificate_names
from windshift.server.auth.quotas import FullStreams, Usage
from windshift.server.broker.asking import asking
from windshift.server.domain.errors import (
    InvalidField,
    PermissionDenied,
    QuotaExceeded,
    Unauthenticated,
    WindshiftError,
)
from windshift.server.events.counts import Counts

_DENIALS: Final = (Unauthenticated, PermissionDenied, QuotaExceeded)

_AT_ONCE: Final = 64
"""How many of the things that a request asks for are judged before other calls have their turn."""


class AuthInterceptor:
    """Lets calls through, or not.

    Args:
        counts: counts publishes that are refused as malformed, as their handler does.
    """

    def __init__(self, access: ActivePolicy, audit: Audit, counts: Counts) -> None:
        self._access = access
        self._audit = audit
        self._counts = counts
        self._accounts: dict[str, Account] = {}  # of the loop's time, by principal

    def intercept(self, method: Method) -> Method:
        """Have the calls of a method judged, unless anybody may call it."""
        policy = policy_of(method.path)
        if not policy.identified:
            return method
        if policy.publishes:
            handler = self._publishing(method)
        elif policy.quota is Quota.OPEN_STREAMS:
            handler = self._streaming(method, policy)
        else:
            handler = self._unary(method, policy)
        return replace(method, handler=handler, shortcut=None, on_headers=self.on_headers)

    def on_headers(self, call: ServerCall) -> Coroutine[Any, Any, None] | None:
        """Find out who calls; return a coroutine when that takes a while.

        Raises:
            Unauthenticated: nobody who is known.
            QuotaExceeded: somebody who has too many connections.
        """
        header = call.raw_header(b"authorization")
        caller = None if header is None else self._access.authenticator.known(header)
        if caller is not None:
            self._arrived(call, caller)
            return None
        try:
            found = _identify(call, self._access.authenticator)
        except Unauthenticated as error:
            self._audit.denied(Caller(call.method, call.peer), error, call.started)
            raise
        if isinstance(found, Pending):
            call.state = found
            return self._wait(call, found)
        self._arrived(call, found)
        return None

    def _arrived(self, call: ServerCall, caller: Identity) -> None:
        """Note whose call this is. Raise `QuotaExceeded` when that caller has too many connections."""
        usage = self._access.usage(caller.principal, call.started)
        usage.calls += 1
        call.state = caller
        if peer_of(call.connection).caller is not caller:
            self._take_over(call, caller, usage)

    def _take_over(self, call: ServerCall, caller: Identity, usage: Usage) -> None:
        """Have a connection be that of its new caller. Who has too many stays a stranger on it."""
        connection, principal = call.connection, caller.principal
        peer, account = peer_of(connection), self._accounts.setdefault(principal.name, Account())
        if peer.caller is None or peer.caller.principal.name != principal.name:
            try:
                usage.open_connection(principal)
            except QuotaExceeded as error:
                if peer.caller is None:
                    connection.account = account
                self._deny(call, caller, error)
                raise
            if connection.on_closed is not None:
                connection.on_closed()
            connection.on_closed = usage.close_connection
        peer.caller, connection.account = caller, account

    async def _wait(self, call: ServerCall, caller: Pending) -> None:
        """Wait until it is known who calls. The call uses almost no memory until then."""
        try:
            self._arrived(call, await caller.resolve())
        except Unauthenticated as error:
            if not call.done:
                self._deny(call, None, error)
            raise

    # -- kinds of methods ----------------------------------------------------------------------------

    def _publishing(self, method: Method) -> Handler:
        """Judge a publish: what `_unary` does, as quickly as can be, and without a task where possible.

        Tasks of busy callers wait for their turn: a flood of what is denied would fill the line.
        """
        handler, access = method.handler, self._access

        def publish(request: Any, call: ServerCall) -> None:
            identity = call.state
            if not isinstance(identity, Identity) or call.started <= access.replaced_at:
                call.go_on(lambda: identified(request, call))
                return
            principal = identity.principal
            if (
                access.full is None
                and principal.max_rps is None
                and principal.permissions.publishes(request.subject)
            ):
                handler(request, call)
            else:
                judge(identity, request, call)

        def judge(identity: Identity, request: Any, call: ServerCall) -> None:
            principal = identity.principal
            try:
                access.usage(principal, call.started).begin_call(principal, call.started)
                if not principal.permissions.publishes(request.subject):
                    self._require_publish(call, identity, request)
                if access.full is not None:
                    access.full.check(request.subject)
                handler(request, call)
            except _DENIALS as error:
                self._deny(call, identity, error)
                raise

        async def identified(request: Any, call: ServerCall) -> None:
            judge(await self._identified(call), request, call)

        return publish

    def _require_publish(self, call: ServerCall, identity: Identity, request: Any) -> None:
        """Do what `_require` does, and count what is malformed: the handler, which counts it, comes later."""
        try:
            _require(call, identity, [Publish(request.subject)], request)
        except InvalidField as error:
            self._counts.publish_failed(error)
            raise

    def _unary(self, method: Method, policy: MethodPolicy) -> Handler:
        """Judge a call where its request is parsed, as far as that is quick, and do it in a task.

        So what is denied takes none, as with publishes, nor does what has a shortcut.
        """
        handler, rule, weight = method.handler, policy.rule, int(policy.weight)
        access, carries_payload, shortcut = self._access, policy.carries_payload, method.shortcut
        if policy.lasting or policy.each:
            handler = self._lasting(handler, rule, is_followed=policy.lasting)

        def begin(request: Any, call: ServerCall) -> None:
            identity = call.state
            if not isinstance(identity, Identity) or call.started <= access.replaced_at:
                call.go_on(lambda: guarded(request, call))
                return
            usage = self._begin(call, identity, weight)
            call.on_end = lambda: usage.end_work(weight)
            is_judged = self._judge(call, identity, rule, request)
            is_full = carries_payload and access.full is not None
            if is_judged and not is_full and shortcut is not None and shortcut(request, call):
                return
            call.go_on(lambda: guarded(request, call, is_judged=is_judged, is_counted=True))

        async def guarded(
            request: Any, call: ServerCall, *, is_judged: bool = False, is_counted: bool = False
        ) -> Any:
            is_judged = is_judged and call.started > access.replaced_at
            identity = await self._identified(call)
            usage = None if is_counted else self._begin(call, identity, weight)
            try:
                if not is_judged:
                    await self._require_in_turns(call, identity, rule, request)
                if carries_payload and access.full is not None:
                    _require_room(access.full, actions_of(rule, request))
                return await handler(request, call)
            except (PermissionDenied, QuotaExceeded) as error:  # the handler's as well: it knows more
                self._deny(call, identity, error)
                raise
            finally:
                if usage is not None:
                    usage.end_work(weight)

        return begin

    def _lasting(self, handler: Handler, rule: Rule, *, is_followed: bool) -> Handler:
        """Have what a call does judged one by one, and all of it again when the rules change if it lasts.

        A call that does not last is not followed: its writes are under way, and would be told to have failed.
        """

        async def lasting(request: Any, call: ServerCall) -> Any:
            identity = call.state
            if not isinstance(identity, Identity):
                raise TypeError("a call that was not authenticated")
            usage = self._access.usage(identity.principal, call.started)
            asked = actions_of(rule, request) if is_followed else None
            with self._stream(call, identity, usage, asked, counts=False) as call.state:
                return await handler(request, call)

        return lasting

    def _streaming(self, method: Method, policy: MethodPolicy) -> Handler:
        handler, rule, weight = method.handler, policy.rule, int(policy.weight)

        async def guarded(*arguments: Any) -> Any:
            call: ServerCall = arguments[-1]
            identity = await self._identified(call)
            usage = self._begin(call, identity, weight)
            try:
                asked = actions_of(rule, arguments[0])
                _require(call, identity, asked, arguments[0])
                with self._stream(call, identity, usage, asked, counts=True) as call.state:
                    return await handler(*arguments)
            except _DENIALS as error:
                self._deny(call, identity, error)
                raise
            finally:
                usage.end_work(weight)

        return guarded

    # -- steps ---------------------------------------------------------------------------------------

    def _judge(self, call: ServerCall, identity: Identity, rule: Rule, request: Any) -> bool:
        """Refuse a call that its caller may not make; False = it asks for too much to say so at once."""
        asked = list(islice(rule(request), _AT_ONCE + 1))
        if len(asked) > _AT_ONCE:
            return False
        try:
            _require(call, identity, asked, request)
        except PermissionDenied as error:
            self._deny(call, identity, error)
            raise
        return True

    async def _identified(self, call: ServerCall) -> Identity:
        """Return who calls, by the rules that are in force now: the request may have taken a while.

        The task asks the broker on his behalf from then on.
        """
        caller = call.state
        try:
            if call.started <= self._access.replaced_at:
                caller = _identify(call, self._access.authenticator)
            while isinstance(caller, Pending):
                await caller.resolve()
                caller = _identify(call, self._access.authenticator)
        except Unauthenticated as error:
            self._deny(call, None, error)
            raise
        if not isinstance(caller, Identity):
            raise TypeError("a call that was not authenticated")
        call.state = caller
        asking.set(caller.principal.name)
        return caller

    def _begin(self, call: ServerCall, identity: Identity, weight: int) -> Usage:
        """Count a call, and what it weighs; `end_work` must follow."""
        principal = identity.principal
        usage = self._access.usage(principal, call.started)
        try:
            usage.begin_call(principal, call.started)
            usage.begin_work(principal, weight)
        except QuotaExceeded as error:
            self._deny(call, identity, error)
            raise
        return usage

    async def _require_in_turns(self, call: ServerCall, identity: Identity, rule: Rule, request: Any) -> None:
        """Do what `_require` does, and let other calls run in between: thousands of things take seconds."""
        parts, rules = in_parts(rule, request, _AT_ONCE), self._access.authenticator
        while (asked := next(parts, None)) is not None:
            _require(call, identity, asked, request)
            await asyncio.sleep(0)
            if rules is not self._access.authenticator:  # they were replaced: all of it begins anew
                parts, rules = in_parts(rule, request, _AT_ONCE), self._access.authenticator
                identity = await self._identified(call)

    def _stream(
        self, call: ServerCall, identity: Identity, usage: Usage, asked: list[Action] | None, *, counts: bool
    ) -> AuthorizedCall:
        """Return what a call that lasts may do. Unless `asked` is None, it ends once that is forbidden."""
        tell_denied = partial(self._deny, call, identity)
        identify = partial(_identify, call)
        admission = AuthorizedCall(self._access, identity, identify, usage, tell_denied, counts=counts)
        if asked is not None:
            admission.follow(partial(_require_all, admission, asked), partial(self._cut_off, call, identity))
        return admission

    def _deny(self, call: ServerCall, identity: Identity | None, error: Denial) -> None:
        now = asyncio.get_running_loop().time()
        self._audit.denied(Caller(call.method, call.peer, identity), error, now)

    def _cut_off(self, call: ServerCall, identity: Identity, error: WindshiftError) -> None:
        """End a call from outside, whose handler does not see to that itself."""
        if not call.done:
            if isinstance(error, Denial):
                self._deny(call, identity, error)
            call.abort(error)


def _require(call: ServerCall, identity: Identity, asked: list[Action], request: Any) -> None:
    """Raise `PermissionDenied` unless the caller may do all that is asked for.

    What is malformed is refused as that, since nothing covers it.
    """
    try:
        for action in asked:
            require_of(identity.principal, action)
    except PermissionDenied:
        check = policy_of(call.method).check
        if check is not None:
            check(request)
        raise


def _require_room(full: FullStreams, asked: list[Action]) -> None:
    for action in asked:
        if isinstance(action, WriteKey):
            full.check(f"$KV.{action.store}.{action.key}")


def _identify(call: ServerCall, authenticator: Authenticator) -> Identity | Pending:
    return authenticator.identify(call.raw_header(b"authorization"), lambda: _certificate(call))


def _certificate(call: ServerCall) -> CertificateNames:
    """Return the names in the client's certificate, which are read once for each connection."""
    peer = peer_of(call.connection)
    if peer.certificate is None:
        peer.certificate = certificate_names(call.connection.peer_certificate)
    return peer.certificate


def _require_all(admission: AuthorizedCall, asked: list[Action]) -> None:
    for action in asked:
        require_of(admission.identity.principal, action)
