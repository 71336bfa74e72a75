"""Requests about dead letters."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.rpc import ServerCall
from windshift.server.api.dead_letters import MOST_IDS, DeadLettersService, check_ids_or_filter
from windshift.server.domain.errors import InvalidField
from windshift.server.events.dead_letters.admin import PurgeResult
from windshift.server.events.dead_letters.model import DeadLetterId


async def _purge(ids: list[DeadLetterId], deadline: float, *, dry_run: bool) -> PurgeResult:
    """Find none of them."""
    return PurgeResult(0, ids)


async def test_a_thousand_ids_let_others_run() -> None:
    """They are read, and reported as missing, in more than a hundred turns of the loop each."""
    service = DeadLettersService(*cast("Any", (SimpleNamespace(purge=_purge), None, None)))
    call = cast("ServerCall", SimpleNamespace(deadline=None, started=0.0))
    ids = [f"S.c.{number}.1" for number in range(1, MOST_IDS + 1)]
    turns, work = 0, asyncio.ensure_future(service.purge(pb.PurgeRequest(ids=ids), call))
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await work).missing_ids == ids
    assert turns > 200


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "ids"),
        ({"ids": ["S.c.1.1", "S.c"]}, "ids[1]"),
        ({"ids": ["S.c.1.1"] * (MOST_IDS + 1)}, "ids"),
        ({"ids": ["S.c.1.1"], "page_token": "x"}, "page_token"),
        ({"ids": ["S.c.1.1"], "filter": {}}, "filter"),
        ({"filter": {"stream": "a.b"}}, "filter.stream"),
    ],
)
def test_what_is_neither_ids_nor_a_filter(fields: dict[str, Any], field: str) -> None:
    """It is refused under the path of its field."""
    with pytest.raises(InvalidField) as refused:
        check_ids_or_filter(pb.PurgeRequest(**fields))
    assert refused.value.field == field
