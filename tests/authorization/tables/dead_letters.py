"""Who may see, summarize, replay and purge which dead letters, and cancel their replays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message

from tests.authorization.rows import ALLOWED, DENIED, INVALID, NO_LETTER, Answer, Row
from tests.authorization.world import World
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb

# By filter: the stream and the consumer, and how reading and changing are answered.

_FILTERED: dict[str, dict[tuple[str, str], tuple[Answer, Answer]]] = {
    # How List, Summarize and Watch, and Replay, CancelReplay and Purge, are answered.
    "reader": {
        ("LEDGER", "ann-1"): (ALLOWED, DENIED),
        ("LEDGER", "bob-1"): (DENIED, DENIED),
        ("LEDGER", "ann"): (DENIED, DENIED),
        ("LEDGER", ""): (DENIED, DENIED),
        ("PAYMENTS", "ann-1"): (DENIED, DENIED),
        ("ABSENT", "ann-1"): (DENIED, DENIED),
        ("", ""): (DENIED, DENIED),
        ("", "ann-1"): (INVALID, INVALID),
        ("LEDGER", "*"): (INVALID, INVALID),
        ("*", "ann-1"): (INVALID, INVALID),
        ("LEDGER", "ann-*"): (INVALID, INVALID),
        ("WS_DEAD_LETTERS", "ann-1"): (INVALID, INVALID),
    },
    "undertaker": {
        ("LEDGER", "ann-1"): (ALLOWED, ALLOWED),
        ("LEDGER", "bob-1"): (DENIED, DENIED),
        ("LEDGER", ""): (DENIED, DENIED),
        ("", ""): (DENIED, DENIED),
    },
    "sexton": {
        ("LEDGER", "ann-1"): (ALLOWED, ALLOWED),
        ("LEDGER", "bob-1"): (ALLOWED, ALLOWED),
        ("LEDGER", ""): (ALLOWED, ALLOWED),
        ("PAYMENTS", ""): (DENIED, DENIED),
        ("", ""): (DENIED, DENIED),
    },
    "sexton-holes": {
        ("LEDGER", "ann-1"): (ALLOWED, ALLOWED),
        ("LEDGER", "bob-1"): (DENIED, DENIED),
        ("LEDGER", ""): (DENIED, DENIED),  # his are among them
        ("PAYMENTS", "ann-1"): (DENIED, DENIED),
        ("", ""): (DENIED, DENIED),
    },
    "all": {
        ("", ""): (ALLOWED, ALLOWED),
        ("", "ann-1"): (INVALID, INVALID),
        ("a*b", "c"): (INVALID, INVALID),
        ("LEDGER", "a*b"): (INVALID, INVALID),
    },
    "ann": {("LEDGER", "ann-1"): (DENIED, DENIED)},
}

# By ids: whose they are, and how Replay, CancelReplay and Purge are answered.

_HERS, _HIS, _ELSEWHERE = ("LEDGER", "ann-1"), ("LEDGER", "bob-1"), ("PAYMENTS", "ann-1")
_MISSING, _NO_ID = ("LEDGER", "ann-missing"), ("", "")

_NAMED: dict[str, dict[tuple[tuple[str, str], ...], Answer]] = {
    "undertaker": {
        (_HERS,): ALLOWED,
        (_HERS, _HERS): ALLOWED,
        (_HIS,): DENIED,
        (_ELSEWHERE,): DENIED,
        (_HERS, _HIS): DENIED,
        (_HERS, _HERS, _ELSEWHERE): DENIED,
        (_HIS, _HERS): DENIED,
        (_HERS, _NO_ID): INVALID,
        (_HIS, _NO_ID): INVALID,
        (): INVALID,
    },
    "sexton": {(_HERS, _HIS): ALLOWED, (_HERS, _ELSEWHERE): DENIED},
    "sexton-holes": {(_HERS,): ALLOWED, (_HERS, _HIS): DENIED, (_ELSEWHERE,): DENIED},
    "reader": {(_HERS,): DENIED, (_HERS, _HERS): DENIED},
    "all": {(_HERS, _HIS, _ELSEWHERE): ALLOWED},
}

_GOT: dict[str, dict[tuple[str, str], Answer]] = {
    "reader": {_HERS: ALLOWED, _HIS: DENIED, _ELSEWHERE: DENIED, _MISSING: NO_LETTER, _NO_ID: INVALID},
    "undertaker": {_HERS: ALLOWED, _HIS: DENIED},
    "sexton": {_HIS: ALLOWED, _ELSEWHERE: DENIED},
    "sexton-holes": {_HERS: ALLOWED, _HIS: DENIED, _ELSEWHERE: DENIED},
    "ann": {_HERS: DENIED, _MISSING: DENIED},
}


_BY_IDS: tuple[tuple[str, Any], ...] = (
    ("Replay", pb.ReplayRequest),
    ("CancelReplay", pb.CancelReplayRequest),
    ("Purge", pb.PurgeRequest),
)
_BY = [pb.SummarizeRequest.BY_CAUSE]


def _letter(world: World, whose: tuple[str, str]) -> str:
    if whose == _NO_ID:
        return "not.an-id"
    if whose == _MISSING:
        return "LEDGER.ann-missing.1.1700000000000000000"
    stream, consumer = whose
    return world.letter(consumer, stream)


def _of_letters(kind: Any, whose: tuple[tuple[str, str], ...]) -> Callable[[World], Message]:
    def request(world: World) -> Message:
        message: Message = kind(ids=[_letter(world, each) for each in whose])
        return message

    return request


def _rows() -> Iterator[Row]:
    for who, by_filter in _FILTERED.items():
        for (stream, consumer), (read, done) in by_filter.items():
            filter_ = pb.Filter(stream=stream, consumer=consumer)
            # Whatever else is chosen, it chooses among these.
            narrow = pb.Filter(stream=stream, consumer=consumer, subjects=[">"], event_ids=range(1, 1001))
            about = f"{stream or '(all)'} {consumer or '(all)'}"
            for method, request, answer in (
                ("List", pb.ListRequest(filter=filter_), read),
                ("Watch", pb.WatchRequest(filter=filter_, existing=True), read),
                ("List", pb.ListRequest(filter=narrow, newest_first=True), read),
                ("Watch", pb.WatchRequest(filter=narrow, existing=True), read),
                ("Summarize", pb.SummarizeRequest(filter=filter_, by=_BY), read),
                ("Summarize", pb.SummarizeRequest(filter=narrow, by=_BY), read),
                ("Replay", pb.ReplayRequest(filter=filter_, dry_run=True), done),
                ("Replay", pb.ReplayRequest(filter=narrow, dry_run=True), done),
                ("CancelReplay", pb.CancelReplayRequest(filter=filter_), done),
                ("CancelReplay", pb.CancelReplayRequest(filter=narrow), done),
                ("Purge", pb.PurgeRequest(filter=narrow, dry_run=True), done),
                ("Purge", pb.PurgeRequest(filter=filter_, dry_run=True), done),
            ):
                fewer = ", some events" if request.filter.event_ids else ""
                yield Row(f"DeadLettersService/{method}", who, request, answer, about + fewer)
    for who, by_ids in _NAMED.items():
        for whose, answer in by_ids.items():
            about = " and ".join(f"an id of {stream} {consumer}" for stream, consumer in whose) or "no ids"
            for method, kind in _BY_IDS:
                yield Row(f"DeadLettersService/{method}", who, _of_letters(kind, whose), answer, about)
    for who, by_owner in _GOT.items():
        for owner, answer in by_owner.items():
            about = " ".join(owner) or "no id"
            yield Row("DeadLettersService/Get", who, _of_one(owner), answer, about)
    for method, kind in _BY_IDS:
        yield Row(f"DeadLettersService/{method}", "undertaker", _both(kind), INVALID, "ids and a filter")


def _of_one(owner: tuple[str, str]) -> Callable[[World], Message]:
    return lambda world: pb.GetRequest(id=_letter(world, owner))


def _both(kind: Any) -> Callable[[World], Message]:
    def request(world: World) -> Message:
        message: Message = kind(ids=[world.letter("ann-1")], filter=pb.Filter(stream="LEDGER"))
        return message

    return request


def _one_right_alone() -> Iterator[Row]:
    for who, may_replay, may_purge in (("replayer", ALLOWED, DENIED), ("purger", DENIED, ALLOWED)):
        of_ann = pb.Filter(stream="LEDGER", consumer="ann-1")
        replay = pb.ReplayRequest(filter=of_ann, dry_run=True)
        purge = pb.PurgeRequest(filter=of_ann, dry_run=True)
        yield Row("DeadLettersService/Replay", who, replay, may_replay, "by filter")
        yield Row("DeadLettersService/Purge", who, purge, may_purge, "by filter")
        cancel = pb.CancelReplayRequest(filter=of_ann)
        yield Row("DeadLettersService/CancelReplay", who, cancel, may_replay, "by filter")
        yield Row(
            "DeadLettersService/CancelReplay", who, _of_letters(pb.CancelReplayRequest, (_HERS,)), may_replay
        )
        yield Row("DeadLettersService/Summarize", who, pb.SummarizeRequest(filter=of_ann, by=_BY), DENIED)
        yield Row("DeadLettersService/Replay", who, _of_letters(pb.ReplayRequest, (_HERS,)), may_replay)
        yield Row("DeadLettersService/Purge", who, _of_letters(pb.PurgeRequest, (_HERS,)), may_purge)
        yield Row("DeadLettersService/List", who, pb.ListRequest(filter=of_ann), DENIED)
        yield Row("DeadLettersService/Get", who, _of_one(_HERS), DENIED)


ROWS = [*_rows(), *_one_right_alone()]
