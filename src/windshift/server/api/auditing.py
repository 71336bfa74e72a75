"""Writes an audit record for each call that manages something, or reads events without a consumer."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from windshift.rpc import Method, ServerCall
from windshift.rpc.service import Handler
from windshift.server.api.callers import identity_of
from windshift.server.api.errors import code_of
from windshift.server.api.policies import Rule, policy_of
from windshift.server.auth.actions import Action
from windshift.server.auth.audit import Audit, Caller

_NAMED: Final = 20
"""The most resources of a call that the audit log names."""
_LONGEST: Final = 1000
"""Characters after which it names no more."""
_COUNTED: Final = 1000
"""The most that are counted: a request may ask for thousands of things that are refused."""


def audit_calls(audit: Audit, method: Method) -> Method:
    """Record the calls of a method, if they manage something or read events."""
    policy = policy_of(method.path)
    if policy.managed:
        return replace(method, handler=_managing(method, policy.rule, audit))
    if policy.reads:
        return replace(method, handler=_reading(method, policy.rule, audit))
    return method


def _managing(method: Method, rule: Rule, audit: Audit) -> Handler:
    handler = method.handler

    async def managing(request: Any, call: ServerCall) -> Any:
        code = code_of(call, None)
        try:
            return await handler(request, call)
        except BaseException as error:
            code = code_of(call, error)
            raise
        finally:
            caller = Caller(call.method, call.peer, identity_of(call))
            audit.managed(caller, _resources(rule(request)), code.name, get_running_loop().time())

    return managing


def _reading(method: Method, rule: Rule, audit: Audit) -> Handler:
    """Record calls as they begin: a stream shows events until it ends."""
    handler = method.handler

    async def reading(request: Any, call: ServerCall) -> Any:
        caller = Caller(call.method, call.peer, identity_of(call))
        audit.read(caller, _resources(rule(request)), get_running_loop().time())
        return await handler(request, call)

    return reading


def _resources(asked: Iterator[Action]) -> str:
    """Name the resources that a call manages or reads: those of the first kind, as far as they fit."""
    first = next(asked, None)
    if first is None:
        return ""
    alike = [each.resource for each in islice(asked, _COUNTED) if type(each) is type(first)]
    is_counted = next(asked, None) is None
    names = list(dict.fromkeys((first.resource, *alike)))
    shown, length = names[:1], len(names[0])
    for name in names[1:_NAMED]:
        length += len(name)
        if length > _LONGEST:
            break
        shown.append(name)
    more = f", and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + (more if is_counted else ", and more")
