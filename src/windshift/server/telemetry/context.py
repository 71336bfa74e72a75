"""The W3C trace context of an event's producer, checked before it is carried along.

https://www.w3.org/TR/trace-context/ - what is malformed is dropped, never an error, as the standard asks.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_IDS = r"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Version 00 ends after the flags; a later one may go on after a dash; ff is no version.
_PARENT = re.compile(rf"00-{_IDS}|(?!00|ff)[0-9a-f]{{2}}-{_IDS}(?:-[!-~]*)?")
_MEMBER = r"[ \t]*(?:[a-z0-9][a-z0-9_\-*/@]{0,255}=[ !-+\--<>-~]{0,255}[!-+\--<>-~])?[ \t]*"
_STATE = re.compile(rf"{_MEMBER}(?:,{_MEMBER}){{0,31}}")
_LONGEST = 512


class TraceContext(NamedTuple):
    """Where an event comes from: `parent` and, perhaps empty, `state`, both as W3C writes them."""

    parent: str
    state: str = ""


def read_trace_context(parent: str, state: str) -> TraceContext | None:
    """Read ``traceparent`` and ``tracestate``: no parent is nothing, a bad state is none."""
    if len(parent) > _LONGEST or _PARENT.fullmatch(parent) is None:
        return None
    state = state.strip(" \t")
    if len(state) > _LONGEST or _STATE.fullmatch(state) is None:
        state = ""
    return TraceContext(parent, state)
