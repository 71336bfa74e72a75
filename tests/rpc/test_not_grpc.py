"""What a client sees that speaks HTTP/2 but not gRPC."""

from __future__ import annotations

import pytest

from .serving import UNARY, echo, serving


@pytest.mark.parametrize(
    ("method", "content_type"), [(b"GET", b"application/grpc"), (b"POST", b"application/json")]
)
async def test_the_answer_says_what_the_port_speaks(method: bytes, content_type: bytes) -> None:
    """Whoever looks at the port with a browser or curl reads one line of text."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.response(peer.request(UNARY, method=method, content_type=content_type))
        assert response.initial[b"content-type"] == b"text/plain"
        assert b"speaks gRPC" in response.body


async def test_the_answer_to_head_has_no_body() -> None:
    """HEAD is answered with headers alone, as HTTP asks."""
    async with serving(unary_call=echo) as running, await running.peer() as peer:
        response = await peer.response(peer.request(UNARY, None, method=b"HEAD"))
        assert response.initial[b":status"] == b"405"
        assert not response.body
