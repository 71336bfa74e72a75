"""Who may publish what."""

from __future__ import annotations

from collections.abc import Iterator

from tests.authorization.rows import ALLOWED, DENIED, INVALID, UNBOUND, Answer, Row
from tests.support.client import any_of
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

_ANSWERS: dict[str, dict[str, Answer]] = {
    "exact": {
        "orders.a.b": ALLOWED,
        "orders": ALLOWED,
        "orders.a": DENIED,
        "orders.a.b.c": DENIED,
        "orders.a.B": DENIED,
        "orders.a.b ": INVALID,
        "ordersx.a.b": DENIED,
    },
    "star": {
        "orders.a": ALLOWED,
        "orders.a.b": DENIED,
        "orders": DENIED,
        "orders.": INVALID,
        "ordersx.a": DENIED,
        "xorders.a": DENIED,
        "Orders.a": DENIED,
        "orders.*": INVALID,  # it is covered, but nothing that is published to has a wildcard
        "orders.>": INVALID,
        "*.a": INVALID,
    },
    "tail": {
        "orders.a": ALLOWED,
        "orders.a.b": ALLOWED,
        "orders.a.b.c.d.e": ALLOWED,
        "orders": DENIED,
        "ordersx.a": DENIED,
        "orders..a": INVALID,
        "orders.a.": INVALID,
        ".orders.a": INVALID,
        "orders.>": INVALID,
        ">": INVALID,
        "orders.a\r\nPUB x": INVALID,
        "orders.\0": INVALID,
        "": INVALID,
        "payments.x": DENIED,
        "$KV.cfg.billing.a": INVALID,
    },
    "middle": {
        "orders.a.b": ALLOWED,
        "orders.x.b": ALLOWED,
        "orders.a.c": DENIED,
        "orders.b": DENIED,
        "orders.a.a.b": DENIED,
        "orders.a.b.b": DENIED,
        "orders.*.b": INVALID,
    },
    "holes": {
        "orders.a": ALLOWED,
        "orders.secret": ALLOWED,  # is not below it
        "orders.secretx.a": ALLOWED,
        "orders.a.hidden.b": ALLOWED,
        "orders.hidden": ALLOWED,
        "orders.secret.a": DENIED,
        "orders.secret.a.b": DENIED,
        "orders.a.hidden": DENIED,
        "orders.secret.hidden": DENIED,
        "orders.*.a": INVALID,
        "orders.>": INVALID,
    },
    "only-denies": {"orders.a": DENIED, "orders.a.b": DENIED, "payments.x": DENIED},
    "star-and-refused": {"orders.b": ALLOWED, "orders.b.c": ALLOWED, "orders.a.c": DENIED, "orders": DENIED},
    "all": {"ordersx.a": ALLOWED, "nobody.takes.this": UNBOUND, "a..b": INVALID},
    "ann": {"orders.a": DENIED, "shop.a.b": DENIED},
}


def _batch(who: str, subjects: list[str], answer: Answer, *, atomic: bool) -> Row:
    events = [pb.PublishEventRequest(subject=subject, data=any_of("x")) for subject in subjects]
    request = pb.PublishBatchRequest(events=events, atomic=atomic)
    return Row("EventsService/PublishBatch", who, request, answer, f"{subjects} {atomic=}")


def _rows() -> Iterator[Row]:
    for who, answers in _ANSWERS.items():
        for subject, answer in answers.items():
            request = pb.PublishEventRequest(subject=subject, data=any_of("x"))
            for method in ("Publish", "PublishEvent"):
                yield Row(f"EventsService/{method}", who, request, answer, repr(subject))
            for without_ids, how in ((False, ""), (True, " without ids")):
                several = pb.PublishStreamRequest(events=[request] * 2, without_ids=without_ids)
                yield Row("EventsService/PublishStream", who, several, answer, f"{subject!r}{how}")
            for atomic in (False, True):
                yield _batch(who, [subject, subject], answer, atomic=atomic)
    longest = pb.PublishEventRequest(subject="orders." + "x" * 100_000, data=any_of("x"))
    for subjects in (["orders.a", "payments.x"], ["payments.x", "orders.a"]):
        yield _batch("tail", subjects, DENIED, atomic=True)
    for who in ("tail", "star", "exact", "all"):
        yield Row("EventsService/Publish", who, longest, INVALID, "a very long subject")


ROWS = list(_rows())
