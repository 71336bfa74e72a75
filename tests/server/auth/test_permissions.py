"""What a principal may do, decided."""

from __future__ import annotations

from inspect import signature

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.patterns import covers, overlaps
from windshift.server.auth import permissions
from windshift.server.auth.actions import (
    Action,
    Bind,
    Consume,
    Copy,
    DeleteConsumer,
    ManageStore,
    ManageStream,
    Publish,
    PurgeDeadLetters,
    ReadDeadLetters,
    ReadKey,
    ReplayDeadLetters,
    UseConsumer,
    ViewStream,
    WriteKey,
)
from windshift.server.auth.permissions import LISTS, NEEDS, ListEntry, Permissions, Role

Texts = dict[str, list[str]]


def role(name: str, allow: Texts, deny: Texts | None = None) -> Role:
    """Make a role; its entries stand in lines 1, 2, …, those that deny in 101, 102, …."""

    def lists(texts: Texts, line: int) -> dict[str, tuple[ListEntry, ...]]:
        found = {}
        for key, patterns in texts.items():
            found[key] = tuple(ListEntry(pattern, line + index) for index, pattern in enumerate(patterns))
            line += len(patterns)
        return found

    return Role(name, lists(allow, 1), lists(deny or {}, 101))


def may(*roles: Role) -> Permissions:
    """Make the permissions of a principal called billing."""
    return Permissions("billing", roles)


WRITER = role(
    "writer",
    {
        "publish": ["orders.>", "audit.*"],
        "streams.manage": ["ORDERS"],
        "streams.bind": ["orders.>"],
        "streams.consume": ["ORDERS", "AUDIT-*"],
        "streams.subjects": ["orders.eu.>", "orders.us"],
        "consumers.use": ["billing-*"],
        "consumers.delete": ["billing-tmp"],
        "stores.manage": ["cfg"],
        "stores.read": ["cfg", "flags"],
        "stores.write": ["cfg"],
        "stores.keys": ["billing.>"],
        "dead_letters.read": ["ORDERS"],
        "dead_letters.replay": ["ORDERS"],
        "dead_letters.purge": ["*"],
        "dead_letters.consumers": ["billing-*"],
    },
)
EVERYTHING = role("admin", {key: ["*" if kind.value == "name" else ">"] for key, kind in LISTS.items()})

ALLOWED: list[Action] = [
    Publish("orders.new"),
    Publish("orders.eu.new"),
    Publish("audit.x"),
    ManageStream("ORDERS"),
    Bind("orders.>"),
    Bind("orders.*.new"),
    Copy("ORDERS", "orders.eu.>"),
    Consume("ORDERS", "orders.eu.*", "billing-1"),
    Consume("AUDIT-7", "orders.us", None),
    UseConsumer("ORDERS", "billing-"),
    UseConsumer("ORDERS", None),
    DeleteConsumer("ORDERS", "billing-tmp"),
    DeleteConsumer("ORDERS", None),
    ManageStore("cfg"),
    ReadKey("flags", "billing.a"),
    WriteKey("cfg", "billing.a.b"),
    ReadDeadLetters("ORDERS", "billing-1"),
    ReplayDeadLetters("ORDERS", "billing-1"),
    PurgeDeadLetters("", "billing-1"),
]
DENIED: list[Action] = [
    Publish("orders"),
    Publish("Orders.new"),
    Publish("audit.x.y"),
    Publish("orders..new"),
    Publish(""),
    Publish(">"),
    ManageStream("ORDERS2"),
    ManageStream(""),
    ManageStream("*"),
    Bind(">"),
    Bind("*.new"),
    Copy("ORDERS", ">"),
    Copy("OTHER", "orders.us"),
    Consume("ORDERS", ">", "billing-1"),
    Consume("ORDERS", "orders.>", "billing-1"),
    Consume("ORDERS", "orders.us", "other"),
    Consume("ORDERS", "orders.us", ""),
    Consume("OTHER", "orders.us", None),
    UseConsumer("ORDERS", "other"),
    UseConsumer("OTHER", None),
    DeleteConsumer("ORDERS", "billing-1"),
    ManageStore("flags"),
    ReadKey("other", "billing.a"),
    ReadKey("cfg", "billing"),
    WriteKey("flags", "billing.a"),
    ReadDeadLetters("", "billing-1"),
    ReadDeadLetters("ORDERS", ""),
    ReplayDeadLetters("OTHER", "billing-1"),
    PurgeDeadLetters("", ""),
]


@pytest.mark.parametrize("action", ALLOWED, ids=repr)
def test_allowed(action: Action) -> None:
    """What one entry of each list covers is allowed."""
    assert may(WRITER).decide(action).allowed


@pytest.mark.parametrize("action", DENIED, ids=repr)
def test_denied(action: Action) -> None:
    """What no entry covers whole is denied."""
    assert not may(WRITER).decide(action).allowed


@pytest.mark.parametrize("action", ALLOWED, ids=repr)
def test_nothing_without_roles(action: Action) -> None:
    """A principal without roles may do nothing."""
    assert may().decide(action) == (False, "no role of billing allows it")


@pytest.mark.parametrize("action", ALLOWED, ids=repr)
def test_what_is_not_named_is_not_given(action: Action) -> None:
    """A role without one of the lists that an action needs does not allow it."""
    for key in NEEDS[type(action)].values():
        rest = {name: entries for name, entries in EVERYTHING.allow.items() if name != key}
        nameless = key.startswith("consumers.") and getattr(action, "consumer", "") is None
        assert may(EVERYTHING).decide(action).allowed
        assert may(Role("rest", rest)).decide(action).allowed == nameless


@pytest.mark.parametrize("action", ALLOWED, ids=repr)
def test_every_deny_list_stands_for_itself(action: Action) -> None:
    """One entry in any list that an action concerns denies it, from whatever role."""
    for attribute, key in NEEDS[type(action)].items():
        wanted = getattr(action, attribute)
        if wanted is None:
            continue
        decision = may(EVERYTHING, role("less", {}, {key: [wanted or "X"]})).decide(action)
        assert decision == (False, f'role less, deny.{key} "{wanted or "X"}" (line 101)')


def test_deny_refuses_what_it_overlaps_with() -> None:
    """A deny entry inside what is wanted refuses all of it, and leaves the rest alone."""
    permissions = may(role("writer", {"publish": ["orders.>"]}, {"publish": ["orders.*.internal"]}))
    assert permissions.decide(Publish("orders.eu.new")).allowed
    assert permissions.decide(Publish("orders.internal")).allowed
    assert not permissions.decide(Publish("orders.eu.internal")).allowed
    assert not permissions.decide(Publish("orders.>")).allowed
    assert not permissions.decide(Publish("orders.eu.*")).allowed


def test_deny_does_not_touch_consumers_without_a_name() -> None:
    """There is no name in an ephemeral consumer that an entry could be about."""
    permissions = may(EVERYTHING, role("less", {}, {"consumers.use": ["*"]}))
    assert permissions.decide(Consume("S", "a", None)).allowed
    assert not permissions.decide(Consume("S", "a", "x")).allowed


def test_all_dead_letters_overlap_with_any_deny() -> None:
    """Who may not see the dead letters of one consumer may not ask for those of all."""
    permissions = may(EVERYTHING, role("less", {}, {"dead_letters.consumers": ["payroll"]}))
    assert permissions.decide(ReadDeadLetters("ORDERS", "billing")).allowed
    assert not permissions.decide(ReadDeadLetters("ORDERS", "")).allowed


def test_lists_of_different_roles_do_not_mix() -> None:
    """Two roles that have a half each of what is wanted do not allow it."""
    a = role("a", {"streams.consume": ["A"], "streams.subjects": ["a"], "consumers.use": ["c"]})
    b = role("b", {"streams.consume": ["B"], "streams.subjects": ["b"], "consumers.use": ["d"]})
    permissions = may(a, b)
    assert permissions.decide(Consume("B", "b", "d")).allowed
    assert not permissions.decide(Consume("A", "b", "c")).allowed
    assert not permissions.decide(Consume("A", "a", "d")).allowed


def test_one_entry_must_cover_all() -> None:
    """Entries that cover what is wanted only together do not."""
    permissions = may(role("a", {"publish": ["a", "a.>"], "streams.manage": ["x", "x-*"]}))
    assert not permissions.decide(Publish("*")).allowed
    assert not permissions.decide(ManageStream("x*")).allowed


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        (Publish("audit.x"), 'role writer, publish "audit.*" (line 2)'),
        (
            Consume("AUDIT-7", "orders.us", "billing-1"),
            (
                'role writer, streams.consume "AUDIT-*" (line 6), streams.subjects "orders.us" (line 8), '
                'consumers.use "billing-*" (line 9)'
            ),
        ),
        (Publish("other"), "no role of billing allows it"),
        (
            Publish("audit.>"),
            (
                'no role of billing allows it; role writer comes nearest: its publish "audit.*" (line 2) '
                "covers only a part"
            ),
        ),
        (
            Consume("ORDERS", "other", "billing-1"),
            (
                "no role of billing allows it; role writer comes nearest: it allows "
                'streams.consume "ORDERS" (line 5), consumers.use "billing-*" (line 9), '
                "but not all of streams.subjects"
            ),
        ),
        (
            Copy("ORDERS", "orders.>"),
            (
                'no role of billing allows it; role writer comes nearest: it allows streams.consume "ORDERS" '
                '(line 5), but not all of streams.subjects; its streams.subjects "orders.eu.>" (line 7) '
                "covers only a part"
            ),
        ),
    ],
)
def test_the_rule_is_named(action: Action, rule: str) -> None:
    """A decision names role, list, entry and line, or what comes nearest."""
    assert may(role("none", {}), WRITER).decide(action).rule == rule


def test_every_action_has_a_rule() -> None:
    """Every action is decided by lists that exist, one for each of its attributes."""
    assert {action.verb for action in NEEDS} == {action.verb for action in Action.__subclasses__()}
    for action, needs in NEEDS.items():
        assert list(needs) == list(signature(action).parameters)
        assert set(needs.values()) <= set(LISTS)
    assert {key for needs in NEEDS.values() for key in needs.values()} == set(LISTS)


def test_without_a_rule_denied() -> None:
    """What nobody made a rule for is denied, whatever the roles."""
    assert not may(EVERYTHING).decide(object()).allowed  # type: ignore[arg-type]


SUBJECTS = st.lists(st.sampled_from(["a", "b", "*", ">", ""]), min_size=1, max_size=3).map(".".join)
LISTS_OF_SUBJECTS = st.lists(SUBJECTS, max_size=3)


@given(st.lists(st.tuples(LISTS_OF_SUBJECTS, LISTS_OF_SUBJECTS), max_size=3), SUBJECTS)
def test_publish_by_its_definition(lists: list[tuple[list[str], list[str]]], subject: str) -> None:
    """Allowed is what one allow entry covers and no deny entry overlaps; `publishes` says the same, twice."""
    permissions = may(*(role(f"r{i}", {"publish": a}, {"publish": d}) for i, (a, d) in enumerate(lists)))
    allowed = any(covers(entry, subject) for a, _ in lists for entry in a) and not any(
        overlaps(entry, subject) for _, d in lists for entry in d
    )
    assert permissions.decide(Publish(subject)).allowed == allowed
    assert permissions.publishes(subject) == allowed
    assert permissions.publishes(subject) == allowed


def test_remembered_subjects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subjects are remembered up to a number and a length, and the answers stay right."""
    monkeypatch.setattr(permissions, "REMEMBERED", 10)
    billing = may(WRITER)
    for index in range(101):
        assert billing.publishes(f"orders.{index}")
        assert not billing.publishes(f"other.{index}")
        assert len(billing._publishes) <= 10
    billing._publishes.clear()
    assert billing.publishes("orders." + "x" * 249)
    assert not billing._publishes
    assert billing.publishes("orders." + "x" * 248)
    assert len(billing._publishes) == 1


def test_remembered_decisions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions that allow are remembered up to a number and a length; kinds of actions are not confused."""
    monkeypatch.setattr(permissions, "REMEMBERED_DECISIONS", 10)
    billing = may(WRITER)
    for _ in range(2):
        assert billing.decide(ReadKey("cfg", "billing.a")).allowed
        assert not billing.decide(ReadKey("cfg", "other")).allowed
        assert not billing.decide(WriteKey("flags", "billing.a")).allowed
        assert billing.decide(ReadKey("flags", "billing.a")).allowed
    assert len(billing._allowed) == 2
    for index in range(101):
        assert billing.decide(ReadKey("cfg", f"billing.{index}")).allowed
        assert len(billing._allowed) <= 10
    billing._allowed.clear()
    assert billing.decide(ReadKey("cfg", "billing." + "x" * 300)).allowed
    assert not billing._allowed


def test_nothing_of_the_caller_is_in_the_rule() -> None:
    """The texts have what the file says, never what the caller sent."""
    for action in (Publish("se\ncret"), Consume("ORDERS", "secret", "secret"), ReadKey("cfg", "secret")):
        assert "cret" not in may(WRITER).decide(action).rule


def test_who_may_see_a_stream() -> None:
    """Whoever manages or consumes it sees it, too, and a deny of that holds, whatever else is allowed."""
    for key in ("streams.view", "streams.manage", "streams.consume"):
        found = may(role("r", {key: ["ORDERS"]})).decide(ViewStream("ORDERS"))
        assert found == (True, f'role r, {key} "ORDERS" (line 1)')
        assert not may(role("r", {key: ["ORDERS"]})).decide(ViewStream("AUDIT")).allowed
        denied = may(role("r", {key: ["ORDERS"]}, {"streams.view": ["O*"]})).decide(ViewStream("ORDERS"))
        assert denied == (False, 'role r, deny.streams.view "O*" (line 101)')
    other = may(role("r", {"streams.subjects": [">"], "streams.bind": [">"]}))
    assert not other.decide(ViewStream("ORDERS")).allowed
    half = may(
        role("r", {"streams.manage": ["*"], "streams.consume": ["*"]}, {"streams.consume": ["ORDERS"]})
    )
    assert half.decide(ViewStream("ORDERS")).allowed
