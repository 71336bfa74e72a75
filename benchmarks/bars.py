"""The bars: what the figures should reach on two cores. They inform; they fail nothing."""

from __future__ import annotations

from functools import partial

from . import drain, memory, neighbours, telemetry, throughput
from .figures import (
    COMPARISON,
    WINDSHIFT,
    Bar,
    Figures,
    Verdict,
    maximum,
    median,
    ratio,
)

_T, _M, _D, _O, _N = throughput, memory, drain, telemetry, neighbours


def _consume(acks: int, client: str) -> str:
    return f"{_T.CONSUME}, acks of {acks}{client}"


BARS = (
    Bar(f"publishes per second, ratio to {COMPARISON}", 8, False, ratio(_T.PUBLISH, _T.PER_SECOND)),
    Bar("server CPU of a publish, µs", 32, True, median(_T.PUBLISH, _T.SERVER_CPU)),
    Bar(f"p99 at {_T.RATE:,} publishes/s, ratio to {COMPARISON}", 1, True, ratio(_T.LATENCY, _T.P99)),
    *(
        Bar(f"events consumed per second, acks of {acks}{client}", limit, False, median(name, _T.PER_SECOND))
        for acks, limit in ((1, 22_000), (25, 28_000))
        for client in ("", f", {_T.GO_CLIENT}")
        for name in (_consume(acks, client),)
    ),
    *(
        Bar(f"{quantity}, grpcio {kind}", 0, True, maximum(_D.DRAIN, quantity, f"{WINDSHIFT}, grpcio {kind}"))
        for kind in ("sync", "aio")
        for quantity in (_D.FAILED, _D.TWICE, _D.LOST)
    ),
    *(
        Bar(
            f"stalled reader, {what}, kB each",
            150,
            True,
            maximum(_M.STALLED, "kB each", f"{WINDSHIFT}: {what}"),
        )
        for what in ("consume, socket shut", "consume, window shut", "rpc, socket shut", "rpc, window shut")
    ),
    Bar("100 stalled neighbours, KiB each", 1024, True, maximum(_N.NEIGHBOURS, _N.KIB_EACH)),
    Bar("growth after they are gone, MiB", 20, True, maximum(_N.NEIGHBOURS, _N.KEPT)),
    Bar("p99 of a delivery beside them, times that alone", 2, True, median(_N.NEIGHBOURS, _N.TIMES)),
    Bar("1 GB upload to a slow handler, growth in MB", 10, True, maximum(_M.UPLOAD, _M.MB_GROWN)),
    *(
        Bar(
            f"CPU of an event, {subject}, ratio to both off",
            limit,
            True,
            partial(Figures.ratio, measurement=_O.TELEMETRY, quantity=_O.BOTH, subject=subject, other=off),
        )
        for subject, off, limit in (
            (_O.UNSAMPLED, _O.OFF_TRACED, 1.05),
            (_O.ONE_PERCENT, _O.OFF, 1.08),
        )
    ),
    Bar("resident memory of the idle server, MB", 60, True, median(_M.START, _M.RESIDENT)),
    Bar("start to ready, seconds", 1, True, median(_M.START, _M.READY)),
    Bar("idle consume stream, KiB each", 40, True, maximum(_M.IDLE, _M.KIB_EACH)),
    Bar("idle consume streams that no event came to", 0, True, maximum(_M.IDLE, _M.NOT_SERVED)),
    Bar(
        "growth over 1,000,000 requests and 1,000 killed connections, MB",
        1,
        True,
        maximum(_M.SOAK, _M.MB_GROWN),
    ),
)


def judge(figures: Figures) -> list[Verdict]:
    """Hold what was measured against the bars."""
    return [verdict for bar in BARS if (verdict := bar.judge(figures)) is not None]
