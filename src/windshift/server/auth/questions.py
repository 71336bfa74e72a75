"""Questions about rights in words: a verb and what it is to be done to, as people write them."""

from __future__ import annotations

from typing import Any

from windshift.server.auth.actions import Action
from windshift.server.auth.permissions import LISTS, NEEDS, OF_ALL_WHEN_EMPTY, OF_NAMED_ONES, PatternKind
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField
from windshift.server.domain.names import MAX_LENGTH


def read_action(verb: str, *resource: str) -> Action:
    """Return what is asked for; raise `ValueError` with a text for whoever asked."""
    kinds = {kind.verb: kind for kind in NEEDS}
    if verb not in kinds:
        raise ValueError(f"no verb {verb[:MAX_LENGTH]!r}; there are {', '.join(kinds)}")
    needs = NEEDS[kinds[verb]]
    if len(resource) != len(needs):
        raise ValueError(f"write {verb} {' '.join(needs).upper()}".rstrip())
    values: dict[str, Any] = {}
    for (attribute, key), text in zip(needs.items(), resource, strict=True):
        try:
            values[attribute] = _value(text, key)
        except InvalidField as error:
            raise ValueError(f"{attribute} {text[:MAX_LENGTH]!r}: {error.description}") from None
    action: Action = kinds[verb](**values)
    return action


def _value(text: str, key: str) -> str | None:
    """Return one part of a resource as an action has it. Raise `InvalidField`."""
    if LISTS[key] is PatternKind.SUBJECT:
        names.filter_subject("", text)
        return text
    if key in OF_NAMED_ONES and text == "-":
        return None
    if key in OF_ALL_WHEN_EMPTY and text == "*":
        return ""
    names.consumer_name("", text)
    return text
