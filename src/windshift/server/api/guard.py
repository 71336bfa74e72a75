"""Every call is asked who it is and judged by the rules, before its handler begins.

Who calls is found out by the headers alone, before anything else of the call is read; what he wants, once the
request is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Final, NoReturn

from windshift.rpc import Method, ServerCall, Service
from windshift.server.api.errors import code_of
from windshift.server.api.rules import (
    CHECKS,
    CONSUMING,
    FOR_ALL,
    FOR_ALL_KNOWN,
    LASTING,
    MANAGING,
    MOST_ACTIONS,
    PUBLISHING,
    RULES,
    Rule,
    actions,
)
from windshift.server.auth.access import Access, Admission, require
from windshift.server.auth.actions import Action, Publish
from windshift.server.auth.audit import Audit, Caller
from windshift.server.auth.authenticate import Authenticator, Identity, Pending
from windshift.server.auth.certificates import certificate_names
from windshift.server.errors import PermissionDenied, QuotaExceeded, Unauthenticated, WindshiftError

Handler = Callable[..., Awaitable[Any]]

_DENIALS: Final = (Unauthenticated, PermissionDenied, QuotaExceeded)

_NAMED: Final = 20
"""How many of the things that a call manages the audit log names."""
_AT_ONCE: Final = 64
"""How many of the things that a request asks for are judged before other calls have their turn."""


class Guard:
    """Lets calls through, or not.

    Args:
        access: the rules in force.
        audit: the audit log.
    """

    def __init__(self, access: Access, audit: Audit) -> None:
        self._access = access
        self._audit = audit
        self._holding: set[asyncio.Task[None]] = set()

    def admit(self, call: ServerCall) -> Identity | Pending | None:
        """Say who calls; see ``ServerOptions.admit``. Raise `Unauthenticated`."""
        header = call.raw_header(b"authorization")
        known = None if header is None else self._access.authenticator.known(header)
        if known is not None or call.method in FOR_ALL:
            return known
        try:
            caller = _identify(call, self._access.authenticator)
        except Unauthenticated as error:
            self._audit.denied(Caller(call.method, call.peer), error, call.started)
            raise
        if isinstance(caller, Pending) and call.hold():
            task = asyncio.create_task(self._release(call, caller))
            self._holding.add(task)
            task.add_done_callback(self._holding.discard)
        return caller

    async def _release(self, call: ServerCall, caller: Pending) -> None:
        """Let a call go on when it is known who calls. Until then it costs as good as no memory."""
        try:
            identity = await caller.resolve()
        except WindshiftError as error:
            self._cut_off(call, None, error)
        else:
            call.caller = identity
            call.release()

    def protect(self, service: Service) -> None:
        """Have the calls of a service judged."""
        service.methods = {
            path: method if path in FOR_ALL else replace(method, handler=self._protected(method))
            for path, method in service.methods.items()
        }

    def _protected(self, method: Method) -> Handler:
        if method.path in PUBLISHING:
            return self._publishing(method)
        return self._streaming(method) if method.streaming else self._unary(method)

    # -- kinds of methods ----------------------------------------------------------------------------

    def _publishing(self, method: Method) -> Handler:
        """Judge a publish: what `_unary` does, as quickly as can be."""
        handler, access = method.handler, self._access

        def publish(request: Any, call: ServerCall) -> Awaitable[Any]:
            identity = call.caller
            if isinstance(identity, Identity) and call.started > access.replaced_at:
                principal = identity.principal
                if principal.max_rps is None and principal.permissions.publishes(request.subject):
                    return handler(request, call)
            return judged(request, call)

        async def judged(request: Any, call: ServerCall) -> Any:
            identity = await self._identified(call)
            self._begin(call, identity)
            if not identity.principal.permissions.publishes(request.subject):
                self._require(call, identity, [Publish(request.subject)], request)
            return await handler(request, call)

        return publish

    def _unary(self, method: Method) -> Handler:
        handler, rule = method.handler, RULES.get(method.path)
        if method.path in LASTING:
            handler = self._lasting(method)

        async def guarded(request: Any, call: ServerCall) -> Any:
            identity = await self._identified(call)
            self._begin(call, identity)
            if rule is None:
                self._forbid(call, identity)
            await self._require_in_turns(call, identity, actions(rule, request), request)
            try:
                return await handler(request, call)
            except PermissionDenied as error:  # what it looked up says more than the request
                self._deny(call, identity, error)
                raise

        return guarded

    def _lasting(self, method: Method) -> Handler:
        """Judge a call again when the rules change: it may last for an hour."""
        handler, rule = method.handler, RULES[method.path]

        async def lasting(request: Any, call: ServerCall) -> Any:
            identity = call.caller
            if not isinstance(identity, Identity):
                raise TypeError("a call that nobody was asked about")
            with self._access.followed(identity, partial(_identify, call)) as admission:
                self._follow(call, admission, actions(rule, request))
                return await handler(request, call)

        return lasting

    def _streaming(self, method: Method) -> Handler:
        handler, rule = method.handler, RULES.get(method.path)
        forbidden = rule is None and method.path not in CONSUMING | FOR_ALL_KNOWN

        async def guarded(*arguments: Any) -> Any:
            call: ServerCall = arguments[-1]
            identity = await self._identified(call)
            self._begin(call, identity)
            if forbidden:
                self._forbid(call, identity)
            asked = [] if rule is None else actions(rule, arguments[0])
            self._require(call, identity, asked, arguments[0])
            try:
                usage = self._access.usage(identity.principal, call.started)
                with self._access.admitted(identity, partial(_identify, call), usage) as admission:
                    call.caller = admission
                    self._follow(call, admission, asked)
                    return await handler(*arguments)
            except _DENIALS as error:
                self._deny(call, identity, error)
                raise

        return guarded

    # -- steps ---------------------------------------------------------------------------------------

    async def _identified(self, call: ServerCall) -> Identity:
        """Return who calls, by the rules that are in force now: the request may have taken a while."""
        caller = call.caller
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
            raise TypeError("a call that nobody was asked about")
        call.caller = caller
        return caller

    def _begin(self, call: ServerCall, identity: Identity) -> None:
        try:
            self._access.usage(identity.principal, call.started).begin_call(identity.principal, call.started)
        except QuotaExceeded as error:
            self._deny(call, identity, error)
            raise

    def _require(self, call: ServerCall, identity: Identity, asked: list[Action], request: Any) -> None:
        """See whether the caller may do all that is asked for.

        If not, what is malformed is refused as that, since nothing covers it.
        """
        try:
            for action in asked:
                require(identity, action)
        except PermissionDenied as error:
            if call.method in CHECKS:
                CHECKS[call.method](request)
            self._deny(call, identity, error)
            raise

    async def _require_in_turns(
        self, call: ServerCall, identity: Identity, asked: list[Action], request: Any
    ) -> None:
        """Do what `_require` does, and let other calls run in between: thousands of things take seconds."""
        done, rules = 0, self._access.authenticator
        while len(asked) - done > _AT_ONCE:
            self._require(call, identity, asked[done : done + _AT_ONCE], request)
            done += _AT_ONCE
            await asyncio.sleep(0)
            if rules is not self._access.authenticator:  # they were replaced: all of it begins anew
                done, rules = 0, self._access.authenticator
                identity = await self._identified(call)
        self._require(call, identity, asked[done:], request)

    def _forbid(self, call: ServerCall, identity: Identity) -> NoReturn:
        """Deny a method that has no rule."""
        rule = "there is no rule for this method"
        error = PermissionDenied(identity.principal.name, "call this method", "call", call.method, rule)
        self._deny(call, identity, error)
        raise error

    def _follow(self, call: ServerCall, admission: Admission, asked: list[Action]) -> None:
        """End a call when the rules allow it no longer."""
        admission.follow(
            partial(_require_all, admission, asked), partial(self._cut_off, call, admission.identity)
        )

    def _deny(
        self,
        call: ServerCall,
        identity: Identity | None,
        error: Unauthenticated | PermissionDenied | QuotaExceeded,
    ) -> None:
        now = asyncio.get_running_loop().time()
        self._audit.denied(Caller(call.method, call.peer, identity), error, now)

    def _cut_off(self, call: ServerCall, identity: Identity | None, error: WindshiftError) -> None:
        """End a call from outside, whose handler does not see to that itself."""
        if not call.done:
            if isinstance(error, _DENIALS):
                self._deny(call, identity, error)
            call.abort(error)


def audited(service: Service, audit: Audit) -> None:
    """Have the calls that manage something recorded."""
    service.methods = {
        path: replace(method, handler=_audited(method, RULES[path], audit)) if path in MANAGING else method
        for path, method in service.methods.items()
    }


def _audited(method: Method, rule: Rule, audit: Audit) -> Handler:
    handler = method.handler

    async def managing(request: Any, call: ServerCall) -> Any:
        failure: BaseException | None = None
        try:
            return await handler(request, call)
        except BaseException as error:
            failure = error
            raise
        finally:
            identity = call.caller if isinstance(call.caller, Identity) else None
            caller = Caller(call.method, call.peer, identity)
            audit.managed(caller, _managed(rule(request)), code_of(call, failure).name)

    return managing


def _managed(asked: Iterator[Action]) -> str:
    """Name what a call manages: all of it that is of the first's kind, as far as a line has room."""
    first = next(asked, None)
    if first is None:
        return ""
    alike = (each.resource for each in islice(asked, MOST_ACTIONS) if type(each) is type(first))
    names = list(dict.fromkeys((first.resource, *alike)))
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _identify(call: ServerCall, authenticator: Authenticator) -> Identity | Pending:
    return authenticator.identify(call.raw_header(b"authorization"), lambda: _certificate(call))


def _certificate(call: ServerCall) -> tuple[str, ...]:
    """Return the names in the client's certificate, which are read once for each connection."""
    connection = call.connection
    if not isinstance(connection.state, tuple):
        connection.state = certificate_names(call.peer_certificate)
    return connection.state


def _require_all(admission: Admission, asked: list[Action]) -> None:
    for action in asked:
        require(admission.identity, action)
