"""Errors are values like others: other processes and copies get all that they tell."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

import windshift as ws
from windshift.rpc import ChannelClosed, NoRoom, RpcError, StatusCode
from windshift.sdk.errors import WindshiftError


def below(kind: type[Exception]) -> list[type[Exception]]:
    """Return the library's classes below one, and that one."""
    kinds = [each for sub in kind.__subclasses__() for each in below(sub)]
    return [kind, *(each for each in kinds if each.__module__.startswith("windshift."))]


MADE_OTHERWISE: dict[type[Exception], Callable[[], Exception]] = {
    ws.UnknownType: lambda: ws.UnknownType("shop.Order"),
    ws.Undecodable: lambda: ws.Undecodable("shop.Order", "is broken"),
    ws.LeaseLost: lambda: ws.LeaseLost(7),
    ws.PublishManyError: lambda: ws.PublishManyError([ws.PublishReceipt(1), ws.StreamFull("full"), None]),
}


def make(kind: type[Any]) -> Exception:
    """Make an error with all that it may tell."""
    if kind in MADE_OTHERWISE:
        return MADE_OTHERWISE[kind]()
    error: Exception = kind(
        "text", hint="do this", reason="WHY", metadata={"limit": "5"}, code=StatusCode.ABORTED
    )
    error.add_note("a note")
    return error


def told(value: object) -> object:
    """Return what can be compared."""
    if isinstance(value, list):
        return [told(each) for each in value]
    if not isinstance(value, Exception):
        return value
    return type(value), str(value), value.args, {name: told(each) for name, each in vars(value).items()}


def pickled(error: Exception) -> Any:
    """Return what another process would get."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301 -- it is our own


ERRORS = [
    *(make(kind) for kind in dict.fromkeys([*below(WindshiftError), ws.NotProvided])),
    WindshiftError("nothing more"),
    ws.RetryLater("text", delay=5),
    ws.GiveUp("text"),
    ChannelClosed().unsent(),
    NoRoom(),
    RpcError(StatusCode.ABORTED, "text", [ErrorInfo(reason="WHY")], [("name", "value")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_errors_are_copied(error: Exception, copied: Callable[[Exception], Exception]) -> None:
    """A copy tells the same."""
    assert told(copied(error)) == told(error)
