"""HTTP/2 itself, frame by frame: what a peer may send in odd ways, and what it may not."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from windshift.rpc import AdmissionOptions, ConnectionOptions, StatusCode, client_tls, server_tls

from .breaches import PROTOCOL_ERROR, bad_headers, breaches, no_http2
from .frames import (
    ACK,
    END_HEADERS,
    PADDED,
    PREFACE,
    Kind,
    data,
    encode,
    frame,
    goaway,
    headers,
    ping,
    request_fields,
    rst_stream,
    settings,
    window_update,
)
from .serving import (
    DUPLEX,
    UNARY,
    UPLOAD,
    Serving,
    Steps,
    ask,
    count,
    echo,
    eventually,
    piece,
    reflect,
    server_options,
    serving,
    simple,
)

REFUSED_STREAM = 0x7
PRIORITY_FLAG = 0x20

NO_HTTP2 = no_http2(UNARY)
BAD_HEADERS = bad_headers(UNARY)
BREACHES = breaches(UNARY, DUPLEX)


async def still_serves(running: Serving) -> None:
    """Check that another connection is served."""
    async with await running.peer() as peer:
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


# -- before HTTP/2 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NO_HTTP2)
async def test_what_is_not_http2_is_closed(name: str) -> None:
    """The connection ends at once; others do not notice."""
    async with serving(unary_call=echo) as running:
        peer = await running.peer(start=False)
        peer.send(NO_HTTP2[name])
        await peer.closed()
        await still_serves(running)
        await eventually(lambda: running.server.connections == 0)


async def test_the_preface_may_come_byte_by_byte() -> None:
    """TCP promises no packets."""
    async with serving(unary_call=echo) as running, await running.peer(start=False) as peer:
        blocks = PREFACE + settings() + headers(1, request_fields(UNARY)) + data(1, simple(b"x"), end=True)
        for byte in blocks:
            await peer.send_slowly(bytes((byte,)))
        assert (await peer.response(1)).status == 0


async def test_everything_may_come_at_once() -> None:
    """Preface, settings, 200 requests and a PING in one segment."""
    async with serving(unary_call=echo) as running, await running.peer(start=False) as peer:
        ids = range(1, 401, 2)
        requests = [headers(i, request_fields(UNARY)) + data(i, simple(b"x"), end=True) for i in ids]
        peer.send(PREFACE, settings(), *requests, ping())
        for stream_id in ids:
            assert (await peer.response(stream_id)).status == 0


# -- allowed, but odd ---------------------------------------------------------------------------------------


async def test_headers_may_be_cut_into_continuations() -> None:
    """A header block in nine frames, one of them empty."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        block = encode(request_fields(UNARY))
        peer.send(frame(Kind.HEADERS, 0, 1, block[:1]))
        peer.send(*(frame(Kind.CONTINUATION, 0, 1, block[i : i + 10]) for i in range(1, 61, 10)))
        peer.send(frame(Kind.CONTINUATION, 0, 1), frame(Kind.CONTINUATION, END_HEADERS, 1, block[61:]))
        peer.send(data(1, simple(b"x"), end=True))
        assert (await peer.response(1)).status == 0


async def test_padding_and_priority_are_taken_off_and_credited() -> None:
    """Padding is no body, but it costs window, which comes back."""
    async with serving(streaming_input_call=count) as running, await running.peer() as peer:
        block = bytes((3,)) + struct.pack(">IB", 0, 15) + encode(request_fields(UPLOAD)) + bytes(3)
        peer.send(frame(Kind.HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, 1, block))
        for _ in range(400):  # 100 KB of padding in a window of 64 KiB
            await peer.until(lambda: peer.stream_window(1) > 1000)
            payload = bytes((250,)) + piece(b"12345") + bytes(250)
            peer.send(frame(Kind.DATA, PADDED, 1, payload))
            peer._windows[1] -= len(payload)
        peer.send(data(1, end=True))
        response = await peer.response(1)
        assert response.status == 0
        assert response.messages == [b"\x08\xd0\x0f"]  # 400 * 5


async def test_frames_of_unknown_types_are_ignored() -> None:
    """As are unknown settings, priorities, and PUSH settings of clients."""
    async with serving(unary_call=echo) as running, await running.peer(settings={0x77: 1, 0x2: 1}) as peer:
        peer.send(frame(0xFA, 0xFF, 0, b"x"), frame(Kind.PRIORITY, 0, 7, struct.pack(">IB", 3, 1)))
        peer.send(frame(0x10, 0, 0, struct.pack(">I", 1) + b"u=1"))  # PRIORITY_UPDATE
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


async def test_a_smaller_stream_id_is_a_stream_that_is_over() -> None:
    """libnghttp2 remembers no closed streams, so it takes skipped ones for closed and ignores them."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        fields = request_fields(UNARY)
        peer.send(headers(9, fields), headers(5, fields, end=True), data(9, simple(b"x"), end=True))
        assert (await peer.response(9)).status == 0
        await peer.pong()
        assert 5 not in peer.responses


async def test_empty_frames_within_a_message_are_fine() -> None:
    """DATA without bytes is nothing, until END_STREAM."""
    async with (
        serving(unary_call=echo, streaming_input_call=count) as running,
        await running.peer() as peer,
    ):
        for path, body in ((UNARY, simple(b"x")), (UPLOAD, piece(b"x"))):
            stream_id = peer.request(path, b"", end=False)
            peer.send(data(stream_id), peer.data(stream_id, body[:3]), data(stream_id))
            peer.send(peer.data(stream_id, body[3:]), data(stream_id), data(stream_id, end=True))
            assert (await peer.response(stream_id)).status == 0


async def test_pings_are_answered_in_order() -> None:
    """Also between the frames of a request."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        stream_id = peer.request(UNARY, None, end=False)
        peer.send(ping(b"a" * 8), data(stream_id), ping(b"b" * 8), data(stream_id, simple(), end=True))
        assert (await peer.response(stream_id)).status == 0
        assert peer.pongs == [b"a" * 8, b"b" * 8]


async def test_the_servers_settings_are_ours() -> None:
    """Concurrent streams and header size are bounded, windows as set, priorities off."""
    async with serving() as running, await running.peer() as peer:
        await peer.pong()
        assert peer.settings == {0x3: 256, 0x4: 65_536, 0x6: 16_384, 0x9: 1}
        assert peer.window == 1 << 25


async def test_a_tiny_window_of_the_client_is_respected() -> None:
    """The response waits for window, byte by byte if need be, and is whole in the end."""
    async with serving(unary_call=echo) as running, await running.peer(settings={0x4: 3}) as peer:
        peer.give_window = False
        stream_id = peer.request(UNARY, simple(b"0123456789"))
        while not peer.responses[stream_id].ended:
            before = len(peer.responses[stream_id].body)
            await peer.pong()
            assert len(peer.responses[stream_id].body) - before <= 3
            peer.send(window_update(stream_id, 3))
        assert peer.responses[stream_id].status == 0
        assert b"0123456789" in peer.responses[stream_id].body


async def test_windows_may_shrink_below_zero_and_grow_again() -> None:
    """SETTINGS that take away window from a running stream only delay it."""
    async with serving(full_duplex_call=reflect) as running, await running.peer(settings={0x4: 100}) as peer:
        peer.give_window = False
        stream_id = peer.request(DUPLEX, ask(bytes(1000)), end=False)
        await peer.until(lambda: len(peer.responses[stream_id].body) == 100)
        peer.send(settings({0x4: 0}), window_update(stream_id, 50))
        await peer.pong()
        assert len(peer.responses[stream_id].body) == 100
        peer.send(settings({0x4: 1 << 20}))
        await peer.until(lambda: len(peer.responses[stream_id].messages) == 1)


# -- errors of one stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_HEADERS)
async def test_a_malformed_request_ends_its_stream_only(name: str) -> None:
    """RST_STREAM or an answer, no handler left behind, and the connection goes on."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        peer.send(headers(1, BAD_HEADERS[name]), data(1, simple(b"x"), end=True))
        response = await peer.response(1)
        assert response.status != 0
        assert not peer.ended
        peer._next_stream_id = 3
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


async def test_a_second_header_block_without_end_is_a_stream_error() -> None:
    """The call's handler is cancelled."""
    steps = Steps()
    async with (
        serving(unary_call=echo, full_duplex_call=steps.handler) as running,
        await running.peer() as peer,
    ):
        stream_id = peer.request(DUPLEX, None, end=False)
        await eventually(lambda: steps.started == 1)
        peer.send(headers(stream_id, [(b"x", b"y")]))
        assert (await peer.response(stream_id)).reset == PROTOCOL_ERROR
        await eventually(lambda: steps.ended == 1)
        assert (await peer.call(UNARY, simple(b"x"))).status == 0
    assert steps.cancelled == 1


async def test_a_body_longer_than_announced_is_a_stream_error() -> None:
    """``content-length`` is checked by the engine; the handler is cancelled."""
    steps = Steps()
    async with (
        serving(unary_call=echo, full_duplex_call=steps.handler) as running,
        await running.peer() as peer,
    ):
        stream_id = peer.request(DUPLEX, None, [(b"content-length", b"3")], end=False)
        await eventually(lambda: steps.started == 1)
        peer.send(data(stream_id, b"1234"))
        assert (await peer.response(stream_id)).reset == PROTOCOL_ERROR
        await eventually(lambda: steps.ended == 1)
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


async def test_more_streams_than_allowed_are_refused_or_end_the_connection() -> None:
    """Before the client has acknowledged the limit they are refused, afterwards it is an error."""
    steps = Steps()
    async with serving(full_duplex_call=steps.handler) as running:
        async with await running.peer(start=False) as peer:
            peer.acknowledge_settings = False
            await peer.start()
            ids = [peer.request(DUPLEX, None, end=False) for _ in range(260)]
            for stream_id in ids[256:]:
                assert (await peer.response(stream_id)).reset == REFUSED_STREAM
            await eventually(lambda: steps.started == 256)
            peer.send(frame(Kind.SETTINGS, ACK))
            peer.request(DUPLEX, None, end=False)
            assert await peer.closed() == PROTOCOL_ERROR
        await eventually(lambda: steps.ended == 256)
    assert steps.cancelled == 256


async def test_cancelled_streams_make_room_for_others() -> None:
    """The limit counts open streams."""
    async with serving(unary_call=echo, full_duplex_call=reflect) as running, await running.peer() as peer:
        for _ in range(3):
            ids = [peer.request(DUPLEX, None, end=False) for _ in range(256)]
            await peer.pong()
            peer.send(*map(rst_stream, ids))
        assert (await peer.call(UNARY, simple(b"x"))).status == 0


# -- errors of the connection -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BREACHES)
async def test_a_breach_of_http2_ends_the_connection(name: str) -> None:
    """GOAWAY with a fitting code, then the end; calls are cancelled once, other connections go on."""
    steps = Steps()
    breach, codes = BREACHES[name]
    async with serving(unary_call=echo, full_duplex_call=steps.handler) as running:
        peer = await running.peer()
        breach(peer)
        code = await peer.closed()
        assert code in codes
        await eventually(lambda: running.server.connections == 0 and steps.ended == steps.started)
        assert steps.cancelled == steps.started
        await still_serves(running)


async def test_calls_in_flight_end_with_their_connection() -> None:
    """A breach on one stream cancels the handlers of all, once."""
    steps = Steps()
    async with serving(unary_call=steps.handler, full_duplex_call=steps.handler) as running:
        peer = await running.peer()
        for _ in range(20):
            peer.request(DUPLEX, None, end=False)
            peer.request(UNARY, simple())
        await eventually(lambda: steps.started == 40)
        peer.send(data(0, b"x"))
        await peer.closed()
        await eventually(lambda: steps.ended == 40)
        assert steps.cancelled == 40
        assert sorted(code for _, code in running.finished) == [int(StatusCode.CANCELLED)] * 40


async def test_a_goaway_of_the_client_lets_its_calls_finish() -> None:
    """The client takes no pushed streams any more; what it asked for is answered."""
    async with serving(full_duplex_call=reflect) as running, await running.peer() as peer:
        stream_id = peer.request(DUPLEX, ask(b"a"), end=False)
        await peer.until(lambda: len(peer.responses[stream_id].messages) == 1)
        peer.send(goaway(0, 0))
        peer.send(peer.data(stream_id, ask(b"b")), peer.data(stream_id, b"", end=True))
        response = await peer.response(stream_id)
        assert (response.status, len(response.messages)) == (0, 2)


async def test_a_connection_over_the_limit_is_dropped() -> None:
    """The number of places is a hard bound, and a closed connection makes room."""
    async with serving(server_options(admission=AdmissionOptions(places=2)), unary_call=echo) as running:
        first, second = await running.peer(), await running.peer()
        third = await running.peer(start=False)
        assert await third.closed() is None
        assert running.server.connections == 2
        await first.close()
        await eventually(lambda: running.server.connections == 1)
        await still_serves(running)
        await second.close()


@pytest.mark.parametrize("secured", [False, True], ids=["plaintext", "tls"])
async def test_a_closed_connection_is_let_go_when_its_peer_closes_too(tmp_path: Path, secured: bool) -> None:
    """Not only after ``close_timeout``: a flood of broken connections would hold their memory till then."""
    authority = Authority(tmp_path)
    own = authority.issue("api")
    options = server_options(ConnectionOptions(close_timeout=3600))
    ssl = server_tls(own.certificate, own.key) if secured else None
    async with serving(options, ssl=ssl, unary_call=echo) as running:
        peer = await running.peer(ssl=client_tls(authority.certificate) if secured else None)
        (connection,) = running.server._connections
        http2 = connection.http2
        peer.send(data(0, b"x"))
        assert await peer.closed() == PROTOCOL_ERROR
        await eventually(lambda: http2._cut_off is not None and http2._cut_off.cancelled())


async def test_nothing_is_written_to_a_connection_that_breaks_between() -> None:
    """A response that is ready just when the connection ends reaches nobody, and raises nothing."""
    release = asyncio.Event()

    async def handler(*_: object) -> object:
        try:
            await release.wait()
        except asyncio.CancelledError:
            pass  # answers all the same
        return await echo(*_)  # type: ignore[arg-type]

    async with serving(unary_call=handler) as running:
        peer = await running.peer()
        ids = [peer.request(UNARY, simple(b"x")) for _ in range(10)]
        await peer.pong()
        peer.send(data(0, b"x"))
        release.set()
        await peer.closed()
        assert all(peer.responses[stream_id].status in (0, None) for stream_id in ids)
