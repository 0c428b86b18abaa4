"""What goes through the door of `serve`: as many images a request as surely fit, no other numbers, and who may send them."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.ship.door import MAX_BODY, Door, Refused, answer, images_a_request, images_of
from pipelines.ship.serving import Computer

ONE = b'{"inputs": [[[[7, 1e0], [0.5, 255]]]]}'
"""An image of 1 x 2 x 2."""


def status_of(body: bytes, *headers: tuple[str, str]) -> int:
    """The status of a request to a model of 1 x 2 x 2 numbers, by its application."""
    given = [("host", "localhost"), ("content-type", "application/json"), *headers]
    kept = [(name, value) for name, value in given if name not in dict(headers)] + list(headers)
    scope = {"type": "http", "method": "POST", "path": "/invocations"}
    scope |= {"headers": [(name.encode(), value.encode()) for name, value in kept]}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    def compute(body: bytes) -> bytes:
        return answer(body, lambda images: images.reshape(len(images), -1), (1, 2, 2))

    asyncio.run(Door(compute, "1")(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 64), (3, 256, 256)])
def test_a_request_of_the_longest_numbers_fits(shape: tuple[int, ...]) -> None:
    count = images_a_request(shape)
    one = json.dumps(np.full(shape, 255.0).tolist())
    assert count * (len(one) + 2) + len('{"inputs": []}') <= MAX_BODY
    assert count >= MAX_BODY // (20 * math.prod(shape)), "and not many less than fit"


def test_images_come_through_as_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4))
    found = images_of(json.dumps({"inputs": images.tolist()}).encode(), (2, 4, 4))
    assert found.dtype == np.float32 and np.array_equal(found, images)


@pytest.mark.parametrize("value", [-1, 256, "1", None, [1], 1e999, True, False, math.nan, {}])
def test_a_number_that_is_no_level_is_refused(value: object) -> None:
    images = np.zeros((1, 1, 2, 2)).tolist()
    images[0][0][1][1] = value
    with pytest.raises(Refused) as refused:
        images_of(json.dumps({"inputs": images}).encode(), (1, 2, 2))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[' + b"[]," * 1_000_000 + b"[]]}",
        b'{"inputs":[' + b"{}," * 1_000_000 + b"{}]}",
        b"{" + b",".join(b'"%x":1' % number for number in range(500_000)) + b"}",
        b'{"inputs":[' + b"0.1," * 1_000_000 + b"1]}",
        b'{"inputs":' * 200_000,
        b'{"inputs":' + b"[" * 2_000_000,
        ONE.replace(b"7", b"[7]"),
        ONE.replace(b"7", b"true"),
        ONE[:-2] + b',[[[1,2],[3,4]]]],"inputs":[]}',
    ],
    ids=["lists", "objects", "keys", "numbers", "objects in objects", "lists in lists", "a list", "a word", "twice"],
)
def test_other_than_whole_images_is_refused_before_it_is_parsed(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*given: Any) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", reached)
    assert len(body) <= MAX_BODY and status_of(body) == 400


@pytest.mark.parametrize(
    "body",
    [
        ONE[:-2] + b",]}",
        ONE + b"]",
        ONE + ONE,
        ONE.replace(b"inputs", b"other"),
        ONE.replace(b"inputs", b"inp\xffts"),
        ONE.replace(b"7,", b"7 "),
        b'{"inputs": [[[[7, 1, 2], [3]]]]}',
        b'{"inputs": [[[7, 1], [[3, 4]]]]}',
        b'{"inputs": [[[[[7, 1, 3, 4]]]]}',
        b'{"inputs": []}',
    ],
)
def test_what_is_no_whole_image_is_refused(body: bytes) -> None:
    assert status_of(body) == 400


@pytest.mark.parametrize(
    "body", [ONE, b" " + ONE.replace(b" ", b"\n\t ") + b"\r\n", ONE.replace(b"inputs", b"instances")]
)
def test_images_are_answered_however_they_are_spaced(body: bytes) -> None:
    assert status_of(body) == 200


def test_as_many_images_as_fit_are_answered() -> None:
    images = np.full((1000, 3, 32, 32), 7)
    images = images[: images_a_request((3, 32, 32))]
    body = json.dumps({"inputs": images.tolist()}).encode()
    assert len(body) > MAX_BODY // 8 and np.array_equal(images_of(body, (3, 32, 32)), images)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [("host", "LOCALHOST:5001")]),
        (200, [("host", "[::1]:5001"), ("origin", "https://[::1]")]),
        (200, [("origin", "http://localhost:9999"), ("sec-fetch-site", "Same-Origin")]),
        (200, [("sec-fetch-site", "none")]),
        (403, [("host", "localhost#evil.example")]),
        (403, [("host", "localhost/evil.example")]),
        (403, [("host", "localhost?evil.example")]),
        (403, [("host", "evil.example@localhost")]),
        (403, [("host", "localhost:80@evil.example")]),
        (403, [("host", "localhost\\evil.example")]),
        (403, [("host", "http://localhost")]),
        (403, [("host", "")]),
        (403, [("origin", "http://evil.example@localhost")]),
        (403, [("origin", "http://localhost#evil.example")]),
        (403, [("origin", "localhost")]),
        (403, [("origin", "null")]),
        (403, [("sec-fetch-site", "Cross-Site")]),
        (403, [("sec-fetch-site", "cross-site,none")]),
        (400, [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "none")]),
        (400, [("content-encoding", "gzip"), ("content-encoding", "identity")]),
    ],
)
def test_who_may_ask(status: int, headers: list[tuple[str, str]]) -> None:
    assert status_of(ONE, *headers) == status


def test_the_process_that_holds_the_requests_is_small() -> None:
    code = "import sys, uvicorn, pipelines.ship.serving, pipelines.ship.door; print('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    path = {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | path
    )
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("kills", [0, 1, 2])
def test_a_request_is_computed_once_more_where_the_process_was_ended(
    kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Connection] = []

    def linked(computer: Computer) -> Connection:
        ours, theirs = Pipe()
        if len(held) < kills:
            theirs.close()
        else:
            theirs.send_bytes((200).to_bytes(2, "big") + b"answer")
        held.append(theirs)
        return ours

    monkeypatch.setattr(Computer, "_linked", linked)
    computer = Computer([], lambda: None)
    if kills < 2:
        assert computer.compute(ONE) == b"answer"
        assert held[-1].recv_bytes() == ONE
    else:
        with pytest.raises(Refused, match="send it again") as refused:
            computer.compute(ONE)
        assert refused.value.status == 503


def test_ctrl_c_is_not_for_the_process_that_computes() -> None:
    code = (
        "import os, signal, time; from pipelines.ship import serving\n"
        "def compute(*given): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2); print('lives')\n"
        "serving.compute = compute; raise SystemExit(serving.main(['compute', '0', '0']))"
    )
    root = Path(__file__).parents[3]
    path = {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | path, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "lives\n", "")
