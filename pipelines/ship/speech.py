"""HTTP as `serve` hears it: requests that begin in time, and say once how long they are."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_WAIT_S = 10.0
"""Seconds within which a connection must have sent the head of a request, its first and each further one."""
MOST_HEAD = 2**14
"""Bytes of the longest head of a request."""
HEAD_ENDS = re.compile(rb"\n\r?\n")
LENGTHS = re.compile(
    rb"^(?:content-length|transfer-encoding)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE
)
"""A header that tells how long a body is, with its further lines."""


class Lengths(h11.Connection):
    """Requests whose heads, as they came, say once how long the body is.

    h11 makes one of two equal lengths, and leaves a length aside where there are chunks. A server in front that reads such
    a request in another way would see other requests than this one.
    """

    def next_event(self) -> Any:
        """The next event. Raises RemoteProtocolError, which is answered 400."""
        came = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        event = super().next_event()
        if isinstance(event, h11.Request):
            said = LENGTHS.findall(HEAD_ENDS.split(came, maxsplit=1)[0])
            if len(said) > 1 or any(b"," in one for one in said):
                raise h11.RemoteProtocolError("the length of the body is said twice")
        return event


class Strict(H11Protocol):
    """HTTP as uvicorn speaks it, where a connection whose request does not begin in time is closed, and lengths are looked at.

    Uvicorn keeps those that send nothing, or a letter now and then, and they count among the OPEN that it holds.
    """

    _limit: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.conn = Lengths(h11.SERVER, MOST_HEAD)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request: a few letters of it end uvicorn's own waiting."""
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        self._forget()
        self._limit = self.loop.call_later(HEAD_WAIT_S, self._late)

    def _forget(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _late(self) -> None:
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.close()
