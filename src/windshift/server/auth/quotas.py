"""How much one principal may ask of this server: calls per second, and open streams."""

from __future__ import annotations

from windshift.server.auth.policy import Principal
from windshift.server.domain.errors import QuotaExceeded


class Usage:
    """What one principal uses. It outlives a change of the rules, and follows them.

    Calls are counted by a bucket that holds one second's worth (one call at least) and fills evenly, so that
    a principal which was quiet may begin that many at once.

    Attributes:
        streams: calls that stream which it has open.
    """

    __slots__ = ("_filled_at", "_tokens", "streams")

    def __init__(self, now: float) -> None:
        self.streams = 0
        self._tokens: float | None = None
        self._filled_at = now

    def begin_call(self, principal: Principal, now: float) -> None:
        """Count a call that began at a time in seconds. It may have begun before others that were counted.

        Raises:
            QuotaExceeded: it is one too many.
        """
        rate = principal.max_rps
        if rate is None:
            return
        size = max(rate, 1.0)
        now = max(now, self._filled_at)
        tokens = size if self._tokens is None else min(size, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if tokens < 1:
            self._tokens = tokens
            raise QuotaExceeded("max_rps", rate)
        self._tokens = tokens - 1

    def open_stream(self, principal: Principal) -> None:
        """Count a stream as open; `close_stream` must follow.

        Raises:
            QuotaExceeded: it is one too many, and was not counted.
        """
        most = principal.max_streams
        if most is not None and self.streams >= most:
            raise QuotaExceeded("max_streams", most)
        self.streams += 1

    def close_stream(self) -> None:
        """Count an open stream no more."""
        self.streams -= 1
