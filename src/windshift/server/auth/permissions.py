"""What a principal may do: its roles, and the decision about one action.

A role has lists of patterns, by key: some allow, some deny. An action is allowed if one role has, in each
list that it concerns, an entry that covers all of it. An entry that denies refuses whatever overlaps with it,
whichever role of the principal it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from windshift.server.auth import actions
from windshift.server.auth.actions import Action
from windshift.server.auth.subjects import SubjectPatterns, parts, parts_cover, parts_overlap, tokens

REMEMBERED: Final = 4096
"""How many answers about publishes a principal's permissions remember; then they forget all of them."""
REMEMBERED_DECISIONS: Final = 1024
"""The same for decisions that allow, which take more memory."""
LONGEST_REMEMBERED: Final = 255
"""Answers about longer subjects, or other resources, are not remembered; in characters."""


class PatternKind(Enum):
    """What the entries of a list are patterns of."""

    SUBJECT = "subject"
    NAME = "name"


LISTS: Final[Mapping[str, PatternKind]] = {
    "publish": PatternKind.SUBJECT,
    "streams.manage": PatternKind.NAME,
    "streams.view": PatternKind.NAME,
    "streams.purge": PatternKind.NAME,
    "streams.delete": PatternKind.NAME,
    "streams.bind": PatternKind.SUBJECT,
    "streams.consume": PatternKind.NAME,
    "streams.subjects": PatternKind.SUBJECT,
    "streams.ephemeral": PatternKind.NAME,
    "consumers.use": PatternKind.NAME,
    "consumers.reject": PatternKind.NAME,
    "consumers.delete": PatternKind.NAME,
    "consumers.control": PatternKind.NAME,
    "stores.manage": PatternKind.NAME,
    "stores.read": PatternKind.NAME,
    "stores.write": PatternKind.NAME,
    "stores.keys": PatternKind.SUBJECT,
    "dead_letters.read": PatternKind.NAME,
    "dead_letters.replay": PatternKind.NAME,
    "dead_letters.purge": PatternKind.NAME,
    "dead_letters.consumers": PatternKind.NAME,
    "server.observe": PatternKind.NAME,
    "server.control": PatternKind.NAME,
}
"""Every list of a role by its key in the file."""

OF_NAMED_ONES: Final = frozenset(key for key in LISTS if key.startswith("consumers."))
"""Lists that do not apply to what has no name."""

OF_ALL_WHEN_EMPTY: Final = frozenset(key for key in LISTS if key.startswith(("dead_letters.", "server.")))
"""Lists in which an empty name stands for all."""

NEEDS: Final[Mapping[type[Action], Mapping[str, str]]] = {
    actions.Publish: {"subject": "publish"},
    actions.ManageStream: {"stream": "streams.manage"},
    actions.ViewStream: {"stream": "streams.view"},
    actions.PurgeStream: {"stream": "streams.purge", "subject": "streams.subjects"},
    actions.DeleteStream: {"stream": "streams.delete"},
    actions.Bind: {"subject": "streams.bind"},
    actions.Copy: {"stream": "streams.consume", "subject": "streams.subjects"},
    actions.Consume: {
        "stream": "streams.consume",
        "subject": "streams.subjects",
        "consumer": "consumers.use",
    },
    actions.UseConsumer: {"stream": "streams.consume", "consumer": "consumers.use"},
    actions.MakeEphemeral: {"stream": "streams.ephemeral"},
    actions.RejectForGood: {"stream": "streams.consume", "consumer": "consumers.reject"},
    actions.DeleteConsumer: {"stream": "streams.consume", "consumer": "consumers.delete"},
    actions.ControlConsumer: {"stream": "streams.consume", "consumer": "consumers.control"},
    actions.ManageStore: {"store": "stores.manage"},
    actions.ViewStore: {"store": "stores.read"},
    actions.ReadKey: {"store": "stores.read", "key": "stores.keys"},
    actions.WriteKey: {"store": "stores.write", "key": "stores.keys"},
    actions.ReadDeadLetters: {"stream": "dead_letters.read", "consumer": "dead_letters.consumers"},
    actions.ReplayDeadLetters: {"stream": "dead_letters.replay", "consumer": "dead_letters.consumers"},
    actions.PurgeDeadLetters: {"stream": "dead_letters.purge", "consumer": "dead_letters.consumers"},
    actions.ObserveServer: {"principal": "server.observe"},
    actions.EndConnections: {"principal": "server.control"},
}
"""For each action: its attributes, and the list in which each has to be found."""


SUFFICES: Final[Mapping[str, tuple[str, ...]]] = {
    "streams.view": ("streams.manage", "streams.consume"),
    "stores.read": ("stores.manage", "stores.write"),
}
"""Lists that allow what another one does, besides what they are for. Denies of that other one hold."""


class ListEntry(NamedTuple):
    """One pattern of a list, and the line of the file in which it stands."""

    pattern: str
    line: int


Lists: TypeAlias = Mapping[str, tuple[ListEntry, ...]]


@dataclass(frozen=True, slots=True)
class Role:
    """What the file gives a name to.

    Attributes:
        allow: what it allows, by keys of `LISTS`; a list that is missing is empty.
        deny: what it denies, the same.
        quotas: how much of what whoever has it may have; None = any number.
    """

    name: str
    allow: Lists = field(default_factory=dict)
    deny: Lists = field(default_factory=dict)
    quotas: Mapping[str, int | None] = field(default_factory=dict)


class Decision(NamedTuple):
    """Whether an action is allowed, and the rule that decided, with its line in the file, for people."""

    allowed: bool
    rule: str


class Permissions:
    """What one principal may do."""

    def __init__(self, principal: str = "", roles: Iterable[Role] = ()) -> None:
        self.roles = tuple(roles)
        self._principal = principal
        self._allowing = tuple(_Allowing(role) for role in self.roles)
        self._denying = _rules(
            (key, entry, f'role {role.name}, deny.{key} "{entry.pattern}" (line {entry.line})')
            for role in self.roles
            for key, entries in role.deny.items()
            for entry in entries
        )
        self._allowed: dict[Action, Decision] = {}
        self._publishes: dict[str, bool] = {}

    def decide(self, action: Action) -> Decision:
        """Decide about an action. A deny wins over all that allows; what nothing allows is denied."""
        known = self._allowed.get(action)
        if known is not None:
            return known
        wanted = _wanted(action)
        decision = self._decide(wanted)
        if not decision.allowed and self._denied(wanted) is None:
            others = map(self._decide, _sufficient(wanted))
            decision = next((other for other in others if other.allowed), decision)
        if decision.allowed and len(action.resource) <= LONGEST_REMEMBERED:
            if len(self._allowed) >= REMEMBERED_DECISIONS:
                self._allowed.clear()
            self._allowed[action] = decision
        return decision

    def grants(self) -> Iterator[tuple[str, str, str]]:
        """Yield list, pattern and role of each entry; the list of one that denies begins with ``!``."""
        for role in self.roles:
            for sign, lists in (("", role.allow), ("!", role.deny)):
                for key, entries in lists.items():
                    for entry in entries:
                        yield sign + key, entry.pattern, role.name

    def publishes(self, subject: str) -> bool:
        """Tell whether `Publish(subject)` is allowed, quickly: this is asked for every event."""
        known = self._publishes.get(subject)
        return self._learn(subject) if known is None else known

    def _decide(self, wanted: _Wanted) -> Decision:
        denied = self._denied(wanted)
        if denied is not None:
            return Decision(allowed=False, rule=denied)
        for role in self._allowing:
            rules = role.rules(wanted)
            if wanted and None not in rules:
                return Decision(allowed=True, rule=f"role {role.name}, {_joined(rules)}")
        return Decision(allowed=False, rule=f"no role of {self._principal} allows it{self._hint(wanted)}")

    def _learn(self, subject: str) -> bool:
        wanted: _Wanted = (("publish", tokens(subject)),)
        allowed = self._denied(wanted) is None and any(
            None not in role.rules(wanted) for role in self._allowing
        )
        if len(subject) <= LONGEST_REMEMBERED:
            if len(self._publishes) >= REMEMBERED:
                self._publishes.clear()
            self._publishes[subject] = allowed
        return allowed

    def _denied(self, wanted: _Wanted) -> str | None:
        for key, value in wanted:
            if key in self._denying and (rule := self._denying[key].overlapping(value)) is not None:
                return rule
        return None

    def _hint(self, wanted: _Wanted) -> str:
        """Say which role comes nearest, if one has anything of what is wanted."""
        hints = [role.hint(wanted) for role in self._allowing]
        return max(hints, default=(0, ""), key=lambda hint: hint[0])[1]


_Pattern: TypeAlias = tuple[str, ...]
"""The tokens of a subject, or the parts of a name."""
_Wanted: TypeAlias = Sequence[tuple[str, _Pattern]]


class _Allowing:
    """What one role allows."""

    def __init__(self, role: Role) -> None:
        self.name = role.name
        self._lists = _rules(
            (key, entry, f'{key} "{entry.pattern}" (line {entry.line})')
            for key, entries in role.allow.items()
            for entry in entries
        )

    def rules(self, wanted: _Wanted) -> list[str | None]:
        """Return for each that is wanted the entry that covers it."""
        lists = self._lists
        return [lists[key].covering(value) if key in lists else None for key, value in wanted]

    def hint(self, wanted: _Wanted) -> tuple[int, str]:
        """Return how near this role comes to what is wanted, 0 = not at all, and what it lacks, as text."""
        rules = self.rules(wanted)
        has = [rule for rule in rules if rule is not None]
        missing = [each for each, rule in zip(wanted, rules, strict=True) if rule is None]
        parts = [
            rule
            for key, value in missing
            if key in self._lists and (rule := self._lists[key].overlapping(value)) is not None
        ]
        reasons = [f"its {_joined(parts)} covers only a part"] if parts else []
        if has:
            reasons.insert(
                0, f"it allows {_joined(has)}, but not all of {_joined(key for key, _ in missing)}"
            )
        near = 2 * len(has) + len(parts)
        return near, f"; role {self.name} comes nearest: {'; '.join(reasons)}" if near else ""


class _NamePatterns:
    """Numbered patterns of names, as from `parts`, as `SubjectPatterns` has those of subjects."""

    def __init__(self) -> None:
        self._patterns: list[tuple[_Pattern, int]] = []

    def add(self, pattern: _Pattern, number: int) -> None:
        self._patterns.append((pattern, number))

    def covering(self, wanted: _Pattern) -> int | None:
        return next((number for pattern, number in self._patterns if parts_cover(pattern, wanted)), None)

    def overlapping(self, wanted: _Pattern) -> int | None:
        return next((number for pattern, number in self._patterns if parts_overlap(pattern, wanted)), None)


class _Rules:
    """The entries of one list, ready to be compared, each with what to say when it decides."""

    def __init__(self, kind: PatternKind) -> None:
        self._read = _READ[kind]
        self._patterns = SubjectPatterns() if kind is PatternKind.SUBJECT else _NamePatterns()
        self._rules: list[str] = []

    def add(self, pattern: str, rule: str) -> None:
        self._patterns.add(self._read(pattern), len(self._rules))
        self._rules.append(rule)

    def covering(self, wanted: _Pattern) -> str | None:
        """Return the first rule that covers all that is wanted."""
        number = self._patterns.covering(wanted)
        return None if number is None else self._rules[number]

    def overlapping(self, wanted: _Pattern) -> str | None:
        """Return the first rule that has something in common with what is wanted."""
        number = self._patterns.overlapping(wanted)
        return None if number is None else self._rules[number]


def _rules(entries: Iterable[tuple[str, ListEntry, str]]) -> dict[str, _Rules]:
    lists: dict[str, _Rules] = {}
    for key, entry, rule in entries:
        if key not in lists:
            lists[key] = _Rules(LISTS[key])
        lists[key].add(entry.pattern, rule)
    return lists


def _sufficient(wanted: _Wanted) -> Iterator[_Wanted]:
    """Yield what suffices in the place of something that is wanted."""
    if len(wanted) == 1:
        ((key, value),) = wanted
        yield from ([(other, value)] for other in SUFFICES.get(key, ()))


def _wanted(action: Action) -> _Wanted:
    """Return what has to be found in which list; nothing at all when there is no rule for such an action."""
    wanted: list[tuple[str, _Pattern]] = []
    for attribute, key, read in _PLANS.get(type(action), ()):
        value: str | None = getattr(action, attribute)
        if value is None and key in OF_NAMED_ONES:
            continue  # has no name that a rule could be about: the other lists decide
        if value == "" and key in OF_ALL_WHEN_EMPTY:
            value = "*"
        wanted.append((key, read(value or "")))
    return wanted


_READ: Mapping[PatternKind, Callable[[str], _Pattern]] = {
    PatternKind.SUBJECT: tokens,
    PatternKind.NAME: parts,
}
_PLANS = {
    action: tuple((attribute, key, _READ[LISTS[key]]) for attribute, key in needs.items())
    for action, needs in NEEDS.items()
}
"""What `NEEDS` says, ready to be followed."""


def _joined(rules: Iterable[str | None]) -> str:
    return ", ".join(rule for rule in rules if rule is not None)
