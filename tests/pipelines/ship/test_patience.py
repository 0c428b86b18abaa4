"""Who sends nothing, or slowly, holds up nobody at the door of `serve`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import uvicorn
from uvicorn.server import ServerState

from pipelines.ship import door as module
from pipelines.ship.door import Door, answer
from pipelines.ship.speech import HEAD_WAIT_S, Strict

HEAD = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Line(asyncio.Transport):
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Clock:
    """Timers that go off when a test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.set = loop, dict[float, Any]()

    def call_later(self, seconds: float, call: Any) -> Any:
        self.set[seconds] = call
        return type("Timer", (), {"cancel": lambda timer: self.set.pop(seconds, None)})()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


def spoken(*parts: bytes) -> tuple[bytes, bool, bool]:
    """What was answered to these parts, and whether the line is closed then and at the end of the waiting."""

    async def talk() -> tuple[bytes, bool, bool]:
        config = uvicorn.Config(door(), lifespan="off", log_level="critical", http=Strict)
        config.load()
        clock = Clock(asyncio.get_running_loop())
        protocol, line = config.http_protocol_class(config, ServerState(), {}, clock), Line()  # type: ignore[arg-type]
        protocol.connection_made(line)
        for part in parts:
            protocol.data_received(part)
            for _ in range(20):
                await asyncio.sleep(0)
        before = line.closed
        if HEAD_WAIT_S in clock.set:
            clock.set[HEAD_WAIT_S]()
        return line.sent, before, line.closed

    return asyncio.run(talk())


def door() -> Door:
    """A model of one answer to images of one pixel."""

    def compute(body: bytes) -> bytes:
        return answer(body, lambda images: images.reshape(len(images), 1).astype(np.float32), (1, 1, 1))

    return Door(compute, "1")


@pytest.mark.parametrize("parts", [(), (b"GET /pi",), (HEAD,), (HEAD, b"GET")], ids=["mute", "part", "kept", "slow"])
def test_a_connection_without_a_request_is_closed(parts: tuple[bytes, ...]) -> None:
    sent, before, after = spoken(*parts)
    assert not before and after and sent.startswith(b"HTTP/1.1 200" if HEAD in parts else b"")


def test_a_request_under_way_is_let_to_end() -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n"
    assert spoken(head, b"{") == (b"", False, False)


async def sent_slowly(parts: AsyncIterator[bytes], length: int, got: list[dict[str, Any]], to: Door) -> None:
    """A request whose body comes in these parts."""
    heads = {"host": "localhost", "content-type": "application/json", "content-length": str(length)}
    scope = {"type": "http", "method": "POST", "path": "/invocations"}
    scope |= {"headers": [(name.encode(), value.encode()) for name, value in heads.items()]}

    async def receive() -> dict[str, Any]:
        part = await anext(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: Any) -> None:
        got.append(message)

    await to(scope, receive, send)


async def at_once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def stuck(first: bytes) -> AsyncIterator[bytes]:
    yield first
    await asyncio.Event().wait()


def test_slow_bodies_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HURRY_S", 0.0)

    async def all_of_them(large: bool) -> tuple[list[Any], list[list[Any]]]:
        app, begun = door(), [list[dict[str, Any]]() for _ in range(20)]
        first = b" " * (module.SMALL + 1) if large else b"{"
        slow = [asyncio.ensure_future(sent_slowly(stuck(first), 2 * module.SMALL, got, app)) for got in begun]
        await asyncio.sleep(0)
        body = json.dumps({"inputs": [[[[7]]]]}).encode().ljust(len(first))
        got: list[dict[str, Any]] = []
        await asyncio.wait_for(sent_slowly(at_once(body), len(body), got, app), 50)
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return got, begun

    got, begun = asyncio.run(all_of_them(large=False))
    assert got[0]["status"] == 200 and json.loads(got[1]["body"]) == {"predictions": [[7.0]]}
    assert not any(begun), "nobody is in the way, so that they may go on"
    got, begun = asyncio.run(all_of_them(large=True))
    assert got[0]["status"] == 200
    assert {told[0]["status"] for told in begun if told} == {408}


@pytest.mark.parametrize(
    ("lengths", "status"),
    [
        ("Content-Length: 23", 200),
        ("Content-Length: 23\r\nContent-Length: 23", 400),
        ("Content-Length: 23\r\nX: 1\r\ncontent-length: 23", 400),
        ("Content-Length: 23, 23", 400),
        ("Content-Length: 23,\r\n 23", 400),
        ("Content-Length: 23\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 23", 400),
        ("Transfer-Encoding: chunked", 200),
        ("X: 1\r\nX: Content-Length: 2, 2\r\nContent-Length: 23", 200),
    ],
)
@pytest.mark.parametrize("cut", [0, 40, 85], ids="cut at {}".format)
@pytest.mark.parametrize("after", [b"", HEAD], ids=["first", "after another"])
def test_a_length_that_is_said_twice_is_refused(lengths: str, status: int, cut: int, after: bytes) -> None:
    head = f"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{lengths}\r\n\r\n"
    body = b'{"inputs": [[[[7.5]]]]}'
    raw = after + head.encode() + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if "chunked" in lengths else body)
    sent, closed, _ = spoken(*(part for part in (raw[:cut], raw[cut:]) if part))
    assert sent.rpartition(b"HTTP/1.1 ")[2].startswith(b"%d" % status) and closed == (status == 400)
