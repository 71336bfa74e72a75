"""Clients that misbehave: they never read, or vanish in the middle of their calls.

    python -m benchmarks.peers stalled|killed --help

They are raw sockets that send bytes made beforehand, so they cost next to nothing.
"""

from __future__ import annotations

import socket
import struct
import threading

import click
import ngh2

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb

from .h2load import PUBLISH, publish_request
from .load import EVENTS
from .reporting import tell, tell_and_wait

_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535


def opening(calls: list[tuple[str, bytes, bool]], stream_window: int = _LARGEST_WINDOW) -> bytes:
    """Return what a client sends first: its settings and some calls.

    Args:
        calls: path, message and whether the client's side ends with it.
        stream_window: bytes that the server may send on each call; the connection's window is at its largest.
    """
    client = ngh2.Connection(ngh2.Role.CLIENT)
    client.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: stream_window, ngh2.Setting.ENABLE_PUSH: 0})
    client.set_local_window_size(_LARGEST_WINDOW)
    for path, message, ended in calls:
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        headers += [("te", "trailers"), ("content-type", "application/grpc")]
        stream = client.send_request([(name.encode(), value.encode()) for name, value in headers])
        client.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=ended)
    return client.data_to_send()


def subscription(stream: str, consumer: str, window: int) -> tuple[str, bytes, bool]:
    """Return a consume call for ``opening``."""
    subscribe = events_pb.EventsRequest.Subscribe(
        stream=stream, consumer=consumer, max_processing_events=window
    )
    return EVENTS, events_pb.EventsRequest(subscribe=subscribe).SerializeToString(), False


def _connect(address: str, receive_buffer: int | None = None) -> socket.socket:
    host, _, port = address.rpartition(":")
    peer = socket.socket()
    if receive_buffer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer.connect((host, int(port)))
    return peer


def _read_for_ever(peer: socket.socket) -> None:
    while peer.recv(1 << 16):
        pass


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Be a client that no server wants."""


@main.command()
@click.argument("address")
@click.argument("path")
@click.argument("message")
@click.option("--count", default=100, help="Calls.")
@click.option("--ended", is_flag=True, help="End the client's side with the message.")
@click.option("--by", type=click.Choice(["socket", "window"]), default="socket", help="What stays shut.")
def stalled(*, address: str, path: str, message: str, count: int, by: str, ended: bool) -> None:
    """Open calls and never read their responses, until a line comes on stdin.

    MESSAGE is the request in hex. With --by socket each call has its own connection whose socket is not read;
    with --by window all share a connection that is read, but the calls' windows are never opened again.
    """
    call = (path, bytes.fromhex(message), ended)
    peers = []
    if by == "socket":
        for _ in range(count):
            peers.append(_connect(address, receive_buffer=4096))
            peers[-1].sendall(opening([call]))
    else:
        peers.append(_connect(address))
        threading.Thread(target=_read_for_ever, args=peers, daemon=True).start()
        peers[0].sendall(opening([call] * count, _DEFAULT_WINDOW))
    tell_and_wait({"open": count})


@main.command()
@click.argument("address")
@click.argument("stream")
@click.argument("consumer")
@click.argument("subject")
@click.option("--count", default=1000, help="Connections.")
def killed(address: str, stream: str, consumer: str, subject: str, count: int) -> None:
    """Open connections with calls under way and reset them, one after the other.

    Each has 20 publishes and a consume call. Every other one is reset before anything was answered.
    """
    request = publish_request(subject, 100).SerializeToString()
    first = opening([(PUBLISH, request, True)] * 20 + [subscription(stream, consumer, 10)])
    for number in range(count):
        peer = _connect(address)
        peer.sendall(first)
        if number % 2:
            peer.recv(1 << 16)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    tell({"killed": count})


if __name__ == "__main__":
    main()
