"""The bars: what the figures should reach on two cores. They inform; they fail nothing."""

from __future__ import annotations

from . import (
    auth,
    auth_check,
    drain,
    encryption,
    looking,
    memory,
    neighbours,
    scale,
    telemetry,
    throughput,
    workers,
)
from .figures import (
    BEFORE,
    COMPARISON,
    PEER,
    WINDSHIFT,
    WITH_TOKEN,
    Bar,
    Figures,
    Verdict,
    maximum,
    median,
    ratio,
)

_T, _M, _D, _O, _N = throughput, memory, drain, telemetry, neighbours
_A, _C, _E, _L = auth, auth_check, encryption, looking


def _consume(acks: int, client: str) -> str:
    return f"{_T.CONSUME}, acks of {acks}{client}"


_WAYS = ((WINDSHIFT, ""), (memory.TOKENS, ", static tokens"), (memory.ISSUER, ", an issuer"))

_IDLE = (
    *(
        Bar(f"idle consume stream, KiB each{text}", 25, True, maximum(_M.IDLE, _M.KIB_EACH, subject))
        for subject, text in _WAYS[:-1]
    ),
    *(
        Bar(
            f"idle consume streams that no event came to{text}",
            0,
            True,
            maximum(_M.IDLE, _M.NOT_SERVED, subject),
        )
        for subject, text in _WAYS[:-1]
    ),
)

_PUBLISH_TO_PEER = Bar(
    f"publishes per second, ratio to the {PEER}",
    2,
    False,
    ratio(_T.PUBLISH, _T.PER_SECOND, other=PEER),
)

BARS = (
    _PUBLISH_TO_PEER,
    Bar(f"publishes per second, ratio to {COMPARISON}", 8, False, ratio(_T.PUBLISH, _T.PER_SECOND)),
    Bar("server CPU of a publish, µs", 32, True, median(_T.PUBLISH, _T.SERVER_CPU)),
    Bar(f"p99 at {_T.RATE:,} publishes/s, ratio to {COMPARISON}", 1, True, ratio(_T.LATENCY, _T.P99)),
    Bar(f"p99.9 at {_T.FAST_RATE:,} publishes/s, ms", 5, True, median(_T.LATENCY_FAST, _T.P99_9)),
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
            ratio(_O.TELEMETRY, _O.BOTH, subject, off),
        )
        for subject, off, limit in (
            (_O.UNSAMPLED, _O.OFF_TRACED, 1.05),
            (_O.ONE_PERCENT, _O.OFF, 1.08),
        )
    ),
    *(
        Bar(
            f"{quantity}, publishes of {whose}, {workers.TWO}, ratio to one",
            limit,
            False,
            ratio(measurement, quantity, workers.TWO, workers.ONE),
        )
        for measurement, whose, limit in (
            (workers.WORKERS_OWN, "one connection", 0.95),  # 1, and some noise
            (workers.WORKERS, "four connections", None),
        )
        for quantity, limit in ((_T.PER_SECOND, limit), (_T.SERVER_CPU, None))
    ),
    Bar(
        f"events per second of two connections, {workers.TWO}, ratio to one",
        None,
        False,
        ratio(workers.WORKERS_CONSUME, _T.PER_SECOND, workers.TWO, workers.ONE),
    ),
    Bar(
        f"events that came twice, {workers.TWO}",
        0,
        True,
        maximum(workers.WORKERS_CONSUME, workers.REPEATED, workers.TWO),
    ),
    Bar(
        f"{workers.FEWEST}, {workers.TWO}",
        10,
        False,
        median(workers.WORKERS_CONSUME, workers.FEWEST, workers.TWO),
    ),
    *(
        Bar(
            f"CPU of a publish, authorization {way}, ratio to off",
            limit,
            True,
            ratio(_A.AUTH, _T.SERVER_CPU, way, _A.OFF),
        )
        for way, limit in ((_A.TOKEN, 15 / 14), (_A.JWT, 1.12))
    ),
    *(
        Bar(f"authorization of one call, {way}, µs", limit, True, median(_A.CHECK, _A.MICROSECONDS, way))
        for way, limit in ((_C.STATIC, 3), (_C.STATIC_SUBJECTS, 3), (_C.JWT, 3), (_C.NEW_JWT, 300))
    ),
    Bar(
        f"publishes per second, {_E.ENCRYPTED}, ratio to {_E.PLAIN}",
        0.85,
        False,
        ratio(_E.TLS, _T.PER_SECOND, _E.ENCRYPTED, _E.PLAIN),
    ),
    *(
        Bar(f"resident memory of the idle server, MB{text}", 48, True, median(_M.START, _M.RESIDENT, subject))
        for subject, text in _WAYS
    ),
    *(
        Bar(f"start to ready, seconds{text}", 1, True, median(_M.START, _M.READY, subject))
        for subject, text in _WAYS
    ),
    *_IDLE,
    Bar("page of 10,000 streams in some order, server CPU, ms", 50, True, median(_L.LOOKING, _L.PAGE_CPU)),
    Bar("event loop held by one callback, CPU ms", 10, True, maximum(_L.LOOKING, _L.HELD)),
    Bar("50 events at a random id of 1,000,000, ms", 5, True, median(_L.LOOKING, _L.READ)),
    Bar(
        "p99 of a publish beside ten clients that look, times that beside ten of another server",
        2,
        True,
        median(_L.LOOKING, _L.ADDED),
    ),
    *(
        Bar(
            f"server CPU of an event of 1,000 {what}, times that of one",
            1.3,
            True,
            ratio(measurement, _T.SERVER_CPU, scale.named(1_000), scale.named(1)),
        )
        for what, measurement in (("subscribers", scale.SUBSCRIBERS), ("active consumers", scale.ACTIVE))
    ),
    Bar(
        "growth over 1,000,000 requests and 1,000 killed connections, MB",
        1,
        True,
        maximum(_M.SOAK, _M.MB_GROWN),
    ),
)


def _to_before(
    text: str, measurement: str, quantity: str, limit: float | None = None, *, at_most: bool = True
) -> Bar:
    return Bar(f"{text}, ratio to {BEFORE}", limit, at_most, ratio(measurement, quantity))


def _to_single(
    text: str,
    measurement: str,
    single: str,
    quantity: str,
    limit: float | None = None,
    *,
    at_most: bool,
    subject: str = WINDSHIFT,
) -> Bar:
    """Compare events of this version, many at once, with those of the other one, which come one by one."""
    measured = ratio(measurement, quantity, subject, BEFORE, single)
    whose = ", with a token" if subject == WITH_TOKEN else ""
    return Bar(f"{text}{whose}, ratio to {BEFORE} {_SINGLE[single]}", limit, at_most, measured)


_SINGLE = {_T.PUBLISH_OWN: "with one in a call", _consume(1, ""): "with acks of 1"}
_MANY = (
    ("stream", 1, None, None),
    ("stream", 16, 3.18, 0.176),
    ("stream, keys", 16, 2.05, None),
    ("stream without ids", 16, 4.09, None),
    ("batch", 100, 2.95, None),
    ("atomic", 100, 0.68, None),
)
"""Ways of publishing many, events in a request, and limits of the ratios of rates and of server CPU."""

VERSION_BARS = (
    _PUBLISH_TO_PEER,
    _to_before("server CPU of a publish", _T.PUBLISH, _T.SERVER_CPU, 0.72),
    _to_before("publishes per second", _T.PUBLISH, _T.PER_SECOND, 1.6, at_most=False),
    _to_before("broker CPU of a publish", _T.PUBLISH, _T.BROKER_CPU, 1.05),  # 1, and some noise
    _to_before("server CPU of a publish, own client", _T.PUBLISH_OWN, _T.SERVER_CPU),
    _to_before("publishes per second, own client", _T.PUBLISH_OWN, _T.PER_SECOND),
    *(
        bar
        for client in ("", f", {_T.GO_CLIENT}")
        for acks, rate in ((1, 1.53), (25, 1.3))
        for text, name in ((f", acks of {acks}{client}", _consume(acks, client)),)
        for bar in (
            _to_before(f"server CPU of an event{text}", name, _T.SERVER_CPU),
            _to_before(f"events per second{text}", name, _T.PER_SECOND, rate, at_most=False),
        )
    ),
    *(
        bar
        for way in _T.WAYS
        if way.batch
        for bar in (
            _to_before(f"server CPU of an event, {way.name}", way.name, _T.SERVER_CPU),
            _to_before(f"events per second, {way.name}", way.name, _T.PER_SECOND),
        )
    ),
    _to_single(
        "events per second, acks of 1",
        _consume(1, ""),
        _consume(1, ""),
        _T.PER_SECOND,
        1.53,
        at_most=False,
        subject=WITH_TOKEN,
    ),
    *(
        bar
        for way in _T.WAYS
        if way.batch
        for subject in (WINDSHIFT, WITH_TOKEN)
        for bar in (
            _to_single(
                f"events per second in batches, window {way.window:,}",
                way.name,
                _consume(1, ""),
                _T.PER_SECOND,
                2.36,
                at_most=False,
                subject=subject,
            ),
            _to_single(
                f"server CPU of an event in batches, window {way.window:,}",
                way.name,
                _consume(1, ""),
                _T.SERVER_CPU,
                at_most=True,
                subject=subject,
            ),
        )
    ),
    *(
        bar
        for way, each, rate, cpu in _MANY
        for name in (_T.many_name(way, each),)
        for subject in (WINDSHIFT, WITH_TOKEN)
        for bar in (
            _to_single(
                f"events per second, {name}",
                name,
                _T.PUBLISH_OWN,
                _T.PER_SECOND,
                rate,
                at_most=False,
                subject=subject,
            ),
            _to_single(
                f"server CPU of an event, {name}",
                name,
                _T.PUBLISH_OWN,
                _T.SERVER_CPU,
                cpu,
                at_most=True,
                subject=subject,
            ),
        )
    ),
    *(
        _to_before(f"{quantity.removesuffix(', ms')} at {rate:,} publishes/s", name, quantity)
        for name, rate in ((_T.LATENCY, _T.RATE), (_T.LATENCY_FAST, _T.FAST_RATE))
        for quantity in (_T.P50, _T.P99, _T.P99_9)
    ),
    Bar(f"p99.9 at {_T.FAST_RATE:,} publishes/s, ms", 5, True, median(_T.LATENCY_FAST, _T.P99_9)),
    _to_before("resident memory of the idle server", _M.START, _M.RESIDENT),
    Bar("resident memory of the idle server, MB", 46, True, median(_M.START, _M.RESIDENT)),
    _to_before("start to ready", _M.START, _M.READY),
    Bar("start to ready, seconds", 0.3, True, median(_M.START, _M.READY)),
    _to_before("idle consume stream, KiB", _M.IDLE, _M.KIB_EACH),
    *_IDLE,
)
"""Those of a version that is measured beside the one before it."""


def judge(figures: Figures) -> list[Verdict]:
    """Hold what was measured against the bars."""
    bars = VERSION_BARS if figures.other == BEFORE else BARS
    return [verdict for bar in bars if (verdict := bar.judge(figures)) is not None]
