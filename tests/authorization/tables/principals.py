"""Who may see who calls, and throw them out."""

from __future__ import annotations

from collections.abc import Iterator

from tests.authorization.rows import ALLOWED, DENIED, INVALID, NO_PRINCIPAL, Answer, Row
from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as pb

_LISTED: dict[str, Answer] = {
    "observes": ALLOWED,
    "observes-some": DENIED,
    "observes-holes": DENIED,
    "controls": DENIED,
    "sexton": DENIED,
}

_ENDED: dict[str, dict[str, Answer]] = {
    "controls": {
        "tail": ALLOWED,
        "builder": ALLOWED,
        "builder-star": ALLOWED,
        "star": DENIED,
        "all": DENIED,
        "gone": DENIED,
        "builder-gone": NO_PRINCIPAL,
        "*": INVALID,
        "": INVALID,
        "a b": INVALID,
        "builder-*": INVALID,
    },
    "controls-holes": {"tail": ALLOWED, "builder": DENIED, "builder-one": DENIED},
    "observes": {"tail": DENIED, "observes": DENIED},
    "all": {"gone": NO_PRINCIPAL, "*": INVALID},
}


def _rows() -> Iterator[Row]:
    for who, answer in _LISTED.items():
        yield Row("PrincipalsService/ListPrincipals", who, pb.ListPrincipalsRequest(), answer)
    for who, answers in _ENDED.items():
        for whose, answer in answers.items():
            request = pb.EndConnectionsRequest(principal=whose)
            yield Row(
                "PrincipalsService/EndConnections", who, request, answer, f"those of {whose or 'nobody'}"
            )


ROWS = list(_rows())
