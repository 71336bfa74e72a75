"""What a call answers: headers, messages, a status, each with its metadata."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from .connection import Connection
from .framing import ACCEPT_ENCODING, encode_message
from .metadata import encode_metadata
from .status import OK_TRAILERS, HeaderList, MetadataValue

RESPONSE_HEADERS: HeaderList = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    ACCEPT_ENCODING,
]


class ResponseStream:
    """The responses of one call, one or many, as its handler sends them.

    Args:
        connection: what the call comes over.
        stream_id: the HTTP/2 stream of the call.
    """

    __slots__ = (
        "_connection",
        "_done",
        "_headers_sent",
        "_initial_metadata",
        "_stream_id",
        "_trailing_metadata",
    )

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._done = self._headers_sent = False
        self._initial_metadata: HeaderList | None = None
        self._trailing_metadata: HeaderList | None = None

    def send(self, message: Message) -> None:
        """Queue a response message; never blocks. After the end of the call nothing happens."""
        self.send_bytes(message.SerializeToString())

    def send_bytes(self, payload: bytes) -> None:
        """Queue a response message that is serialized already."""
        if self._done:
            return
        if not self._headers_sent:
            self._send_headers()
        self._connection.send_data(self._stream_id, encode_message(payload))

    def begin_response(self) -> None:
        """Send the headers now, ahead of the first message: the client sees that its call was taken up."""
        if not self._done and not self._headers_sent:
            self._send_headers()

    async def ready(self) -> None:
        """Wait until little of what was sent is still queued; a slow client must not fill the memory."""
        if self._connection.queued(self._stream_id) and not self._done:
            await self._connection.writable(self._stream_id)

    @property
    def queued(self) -> int:
        """Bytes that wait for the client to read."""
        return self._connection.queued(self._stream_id)

    def set_initial_metadata(self, pairs: Iterable[tuple[str, MetadataValue]]) -> None:
        """Set the metadata sent ahead of the first message.

        Raises:
            RuntimeError: the headers have been sent.
            ValueError: see ``encode_metadata``.
        """
        if self._headers_sent:
            raise RuntimeError("the initial metadata has been sent already")
        self._initial_metadata = encode_metadata(pairs)

    def add_trailing_metadata(self, name: str, value: MetadataValue) -> None:
        """Add a pair to the metadata sent with the status.

        Raises:
            ValueError: see ``encode_metadata``.
        """
        self._trailing_metadata = (self._trailing_metadata or []) + encode_metadata([(name, value)])

    @property
    def done(self) -> bool:
        """Whether the status was sent or the stream is gone."""
        return self._done

    @property
    def stream_id(self) -> int:
        """The HTTP/2 stream of the call."""
        return self._stream_id

    # -- for the call --------------------------------------------------------------------------------

    def _send_headers(self) -> None:
        self._headers_sent = True
        headers = RESPONSE_HEADERS
        if self._initial_metadata:
            headers = headers + self._initial_metadata
        self._connection.send_response(self._stream_id, headers)

    def _send_last(self, response: Message) -> None:
        """Send the only response, or the last one, with the status OK."""
        payload = encode_message(response.SerializeToString())
        trailers = OK_TRAILERS
        if self._trailing_metadata:
            trailers = trailers + self._trailing_metadata
        if self._headers_sent:
            self._connection.send_data(self._stream_id, payload)
            self._connection.send_trailers(self._stream_id, trailers)
        else:
            headers = RESPONSE_HEADERS
            if self._initial_metadata:
                headers = headers + self._initial_metadata
            self._connection.send_message(self._stream_id, headers, payload, trailers)

    def _send_status(self, trailers: HeaderList) -> None:
        """Send a status; headers that were not sent go with it."""
        if self._trailing_metadata:
            trailers = trailers + self._trailing_metadata
        if self._headers_sent:
            self._connection.send_trailers(self._stream_id, trailers)
        else:
            headers = RESPONSE_HEADERS + (self._initial_metadata or [])
            self._connection.send_response(self._stream_id, headers + trailers, end=True)
