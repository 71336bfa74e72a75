"""What a change takes from a stream, by its configuration before and after."""

from __future__ import annotations

import pytest

from windshift.nats.jetstream.api import JsonObject
from windshift.server.auth.permissions import ListEntry, Permissions, Role
from windshift.server.auth.policy import Principal
from windshift.server.domain.errors import PermissionDenied
from windshift.server.events.losses import no_longer_copied, refusing, removing, require_rights, unbound

SUBJECTS: JsonObject = {"name": "S", "subjects": ["a.>"]}


def source(name: str, *filters: str) -> JsonObject:
    """Return a source as the broker has it."""
    if len(filters) == 1:
        return {"name": name, "filter_subject": filters[0]}
    return {"name": name} | (
        {"subject_transforms": [{"src": each, "dest": ""} for each in filters]} if filters else {}
    )


@pytest.mark.parametrize("key", ["max_age", "max_msgs", "max_msgs_per_subject", "max_bytes"])
@pytest.mark.parametrize(
    ("before", "after", "removes"),
    [
        (None, None, False),
        (0, -1, False),
        (-1, 0, False),
        (None, 10**12, True),
        (-1, 1, True),
        (10, 9, True),
        (10, 10, False),
        (10, 11, False),
        (10, None, False),
        (10, 0, False),
        (10, -1, False),
    ],
)
def test_limits(key: str, before: int | None, after: int | None, removes: bool) -> None:
    """A limit that gets smaller removes events; none, 0 and -1 are no limit."""
    found = list(removing(SUBJECTS | {key: before}, SUBJECTS | {key: after}))
    assert len(found) == removes
    assert not list(refusing(SUBJECTS | {key: before}, SUBJECTS | {key: after}))


def test_what_is_discarded() -> None:
    """To discard old events in place of new ones removes some, the other way round refuses some."""
    old, new = {"discard": "old"}, {"discard": "new"}
    per_subject = new | {"discard_new_per_subject": True}
    assert list(removing(new, old)) == list(refusing(old, new)) == ["retention_policy.discard_policy"]
    assert list(removing(old, new)) == list(refusing(new, old)) == []
    assert list(removing(per_subject, new)) == ["retention_policy.discard_new_per_subject"]
    assert list(refusing(new, per_subject)) == ["retention_policy.discard_new_per_subject"]
    assert list(refusing({"max_msg_size": -1}, {"max_msg_size": 5})) == ["max_event_size"]


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        (["a.>"], ["a.>", "b"], []),
        (["a.b", "a.c"], ["a.*"], []),
        (["a.*"], ["a.b", "a.c"], ["a.*"]),
        (["a.>", "b.>"], ["b.c"], ["a.>", "b.>"]),
        (["a"], None, ["a"]),
        (None, ["a"], []),
        (["a..b"], ["a..b"], ["a..b"]),  # malformed: whoever may change it has to have it all
    ],
)
def test_subjects(before: list[str] | None, after: list[str] | None, lost: list[str]) -> None:
    """A subject is lost unless one of the new ones stands for all of it."""
    assert list(unbound({"subjects": before}, {"subjects": after})) == lost


def test_copies() -> None:
    """What is copied is lost unless the same stream is still copied as far."""
    before = {"sources": [source("A"), source("B", "b.x", "b.y"), source("C", "c")]}
    after = {"sources": [source("A", "a"), source("B", "b.*"), source("D")]}
    assert list(no_longer_copied(before, after)) == [("A", ">"), ("C", "c")]
    assert list(no_longer_copied(before, before)) == list(no_longer_copied({}, after)) == []
    mirror = {"mirror": source("A", "a")}
    assert list(no_longer_copied(mirror, mirror)) == []
    assert list(no_longer_copied(mirror, {})) == [("A", "a")]


def test_refusals_name_the_right() -> None:
    """Whoever is refused learns which right it takes, and of what."""
    nobody = Principal("ann", Permissions("ann", [Role("none")]))
    for after, told in (
        (
            SUBJECTS | {"max_msgs": 1},
            (
                "'ann' may not remove events of stream 'S', as another retention_policy.max_events may do; "
                "that needs streams.purge of the stream, and > in streams.subjects of the same role"
            ),
        ),
        (
            {"name": "S", "subjects": ["a.b"]},
            "'ann' may not have stream 'S' take 'a.>' no longer; that needs it in streams.bind",
        ),
        (
            SUBJECTS | {"max_msg_size": 1},
            (
                "'ann' may not have stream 'S' refuse 'a.>' by another max_event_size; that needs it in "
                "streams.bind"
            ),
        ),
    ):
        with pytest.raises(PermissionDenied) as caught:
            require_rights(nobody, SUBJECTS, after)
        assert caught.value.message == told
    with pytest.raises(PermissionDenied) as caught:
        require_rights(nobody, {"sources": [source("A", "a")]}, {"name": "S"})
    assert caught.value.message == (
        "'ann' may not have stream 'S' take 'a' from stream 'A' no longer; that needs them in "
        "streams.consume and streams.subjects"
    )


def test_a_change_that_takes_nothing_needs_nothing() -> None:
    """Whoever may purge may set smaller limits; others may set larger ones."""
    nobody = Principal("ann", Permissions("ann", [Role("none")]))
    purger = Role("p", {"streams.purge": (ListEntry("S", 1),), "streams.subjects": (ListEntry(">", 2),)})
    require_rights(nobody, SUBJECTS | {"max_msgs": 1}, SUBJECTS | {"subjects": ["a.>", "b"], "max_msgs": 5})
    require_rights(Principal("bob", Permissions("bob", [purger])), SUBJECTS, SUBJECTS | {"max_msgs": 1})
