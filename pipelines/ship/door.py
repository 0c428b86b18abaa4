"""The served model's door: what a request must be before the model sees it, and what it is told where it is not.

An ASGI application without a framework. Every request is bounded in bytes, time and what it may say; an answer never
carries a path, a traceback or what the request held.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Message = MutableMapping[str, Any]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
MAX_BODY = 2**24
"""Bytes of the largest request: ten colour images of 256 pixels, written as numbers."""
SMALL = 2**17
"""Bytes of a body that are read at any time, whoever else sends one."""
AT_ONCE = 8  # larger bodies that are read and held at a time; of further ones the rest waits unread
BODY_WAIT_S, HURRY_S = 60.0, 5.0
"""How long a request may take to send its body, and a larger one while others wait for its place."""
TOO_LARGE = f"a body has at most {MAX_BODY} bytes; send fewer images at a time"
PART = 64  # images the model is given at a time
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # names that this machine has for itself
TYPE = "application/json"
WANTED = 'a JSON object {"inputs": [image, ...]} with each image as %s numbers from 0 to 255'
MARKS = b"0123456789+-.eE[], \t\n\r"
"""All that numbers, lists and what stands between them are written with."""
OBJECTS = {text.translate(None, MARKS) for text in (b'{"inputs":}', b'{"instances":}')}
"""What is left of a body without them: no second key, no text, no word such as true or NaN."""
SPACE = r"[ \t\n\r]*"
BEGIN = re.compile(rf'{SPACE}{{{SPACE}"(?:inputs|instances)"{SPACE}:{SPACE}\[{SPACE}')
NEXT, END = re.compile(rf"{SPACE},{SPACE}"), re.compile(rf"{SPACE}\]{SPACE}}}{SPACE}")
ADDRESS = re.compile(r"(?:(https?)://)?([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
"""What Host and Origin may be, in small letters: a scheme, a name, a port, and nothing else."""
SITES = ("same-origin", "same-site", "none")  # what Sec-Fetch-Site says of pages of this server, or of no page
ONCE = ("host", "origin", "sec-fetch-site", "content-type", "content-length", "content-encoding")
"""Headers that decide whether a request is answered: two of one name would let each reader take another."""


class Refused(Exception):
    """A request that is not answered: its HTTP status, and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class _Gone(Exception):
    """The sender hung up."""


class Door:
    """The application: GET /ping, /health and /version, POST /invocations with images.

    `compute` gives the answer to a body, or raises Refused; it runs in a thread, never twice at a time. `hosts` are names
    besides LOOPBACK under which it may be asked.
    """

    def __init__(self, compute: Callable[[bytes], bytes], version: str, hosts: Iterable[str] = ()) -> None:
        self.compute, self.version = compute, version
        self.hosts = {*LOOPBACK, *(host.lower() for host in hosts)}
        self.places = asyncio.Semaphore(AT_ONCE)
        self.waiting = 0
        self.readers: dict[asyncio.Timeout, float] = {}  # of larger bodies -> when they began, by the loop's clock
        self.thread = ThreadPoolExecutor(1)  # one after the other, so that memory is that of one request

    async def __call__(self, scope: Message, receive: Callable[[], Any], send: Callable[[Message], Any]) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            status, body = 200, await self._answer(scope, receive)
        except Refused as refusal:
            status, body = refusal.status, json.dumps({"error": refusal.text}).encode()
        except _Gone:
            return
        except Exception:  # nothing is told of the inside
            status, body = 500, b'{"error": "the model could not answer"}'
        head = [(b"content-type", TYPE.encode()), (b"content-length", str(len(body)).encode())]
        head += [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
        if status >= 400:  # what is left of a refused body is not waited for
            head.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Message, receive: Callable[[], Any]) -> bytes:
        headers = _headers(scope)
        check_sender(headers, self.hosts)
        method, path = scope["method"], scope["path"]
        if path in ("/ping", "/health", "/version"):
            if method not in ("GET", "HEAD"):
                raise Refused(405, f"{path} takes GET")
            return (self.version if path == "/version" else "").encode() + b"\n"
        if path != "/invocations":
            raise Refused(404, "there are /invocations, /health, /ping and /version")
        if method != "POST":
            raise Refused(405, "/invocations takes POST")
        check_type(headers)
        check_length(headers)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                whole = await read_body(body, receive, SMALL)
            if whole:
                return await self._computed(body)
            await self._take_place()
            try:
                await self._read_rest(body, receive)
                return await self._computed(body)
            finally:
                self.places.release()
        except TimeoutError:
            raise Refused(408, f"the body did not come within {BODY_WAIT_S:g} seconds, or too slowly") from None

    async def _computed(self, body: bytearray) -> bytes:
        given = bytes(body)
        body.clear()  # so that it is not there twice while it waits
        return await asyncio.get_running_loop().run_in_executor(self.thread, self.compute, given)

    async def _take_place(self) -> None:
        """Wait for one of the places of larger bodies; who reads there has to hurry from then on."""
        if self.places.locked():
            for limit, begin_s in self.readers.items():
                if not limit.expired():
                    limit.reschedule(min(limit.when() or math.inf, begin_s + HURRY_S))
        self.waiting += 1
        try:
            await self.places.acquire()
        finally:
            self.waiting -= 1

    async def _read_rest(self, body: bytearray, receive: Callable[[], Any]) -> None:
        async with asyncio.timeout(HURRY_S if self.waiting else BODY_WAIT_S) as limit:
            self.readers[limit] = asyncio.get_running_loop().time()
            try:
                await read_body(body, receive, MAX_BODY)
            finally:
                del self.readers[limit]


def _headers(scope: Message) -> dict[str, str]:
    """Headers by their names in small letters; those that are there twice are refused where it matters."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in found and key in ONCE:
            raise Refused(400, f"{key} is there twice")
        found[key] = value.decode("latin-1")
    return found


ADDS_A_NAME = "; `cgankd serve --allow-host NAME` adds a name"


def check_sender(headers: dict[str, str], hosts: set[str], cure: str = ADDS_A_NAME) -> None:
    """Raise Refused unless a request is for this server by name, and from no page of another one; `cure` follows the former.

    A page in the user's browser can send requests to this machine, and give its own name this machine's address.
    """
    if "host" not in headers:
        raise Refused(400, "the header Host is missing")
    if _host(headers["host"], None) not in hosts:
        raise Refused(403, f"this server is not known by that Host{cure}")
    own = "origin" not in headers or any(_host(headers["origin"], scheme) in hosts for scheme in ("http", "https"))
    if not own or headers.get("sec-fetch-site", SITES[0]).strip().lower() not in SITES:
        raise Refused(403, "requests of pages of other servers are not answered")


def _host(address: str, scheme: str | None) -> str:
    """The name in an address of this scheme or of none, without its port; empty where it is anything else."""
    found = ADDRESS.fullmatch(address.strip().lower())
    return found[2] if found and found[1] == scheme else ""


def check_type(headers: dict[str, str]) -> None:
    """Raise Refused unless the body is JSON as it is, neither packed nor in another alphabet."""
    kind, _, more = headers.get("content-type", "").partition(";")
    charset = more.strip().lower().replace('"', "")
    if kind.strip().lower() != TYPE or charset not in ("", "charset=utf-8"):
        raise Refused(415, f"the body must be {TYPE} in UTF-8")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "the body must not be packed (Content-Encoding)")


def check_length(headers: dict[str, str]) -> None:
    """Raise Refused where a body says that it is larger than MAX_BODY."""
    said = headers.get("content-length", "0")
    if not (said.isdecimal() and len(said) < 16) or int(said) > MAX_BODY:
        raise Refused(413, TOO_LARGE)


async def read_body(body: bytearray, receive: Callable[[], Any], enough: int) -> bool:
    """Read on until the body ends or has more bytes than enough; whether it ended. Raises Refused beyond MAX_BODY."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refused(413, TOO_LARGE)
        if not message.get("more_body", False):
            return True
        if len(body) > enough:
            return False


def answer(body: bytes, predict: Callable[[Array], Array], shape: tuple[int, ...]) -> bytes:
    """The JSON answer to a body, where `predict` gives [B, A] of images [B, *shape] as float32. Raises Refused."""
    images = images_of(body, shape)
    parts = [predict(images[start : start + PART]) for start in range(0, len(images), PART)]
    answers = np.concatenate(parts)
    if not np.isfinite(answers).all():
        raise Refused(500, "the model gives numbers that are not finite")
    return json.dumps({"predictions": answers.tolist()}).encode()


def images_of(body: bytes, shape: tuple[int, ...]) -> Array:
    """float32 images [B, C, S, S] of a body. Raises Refused where it holds anything else."""
    numbers = array("d")
    try:
        check_marks(body, shape)
        for image in _parsed(body.decode("ascii")):
            parts = [image]
            for size in shape:
                if not all(isinstance(part, list) and len(part) == size for part in parts):
                    raise ValueError("another shape")
                parts = [one for part in parts for one in part]
            numbers.extend(parts)
        images = np.frombuffer(numbers, np.float64)
        if not (images.min() >= 0 and images.max() <= 255):  # infinities fail too
            raise ValueError("no levels")
    except (ValueError, RecursionError, TypeError, OverflowError):  # lists for numbers; numbers beyond all floats
        raise Refused(400, f"the body must be {WANTED % ' x '.join(map(str, shape))}") from None
    return images.astype(np.float32).reshape(-1, *shape)


def check_marks(body: bytes, shape: tuple[int, ...]) -> None:
    """Raise ValueError where the marks in a body, counted without taking it apart, are not those of whole images.

    16 MiB of empty lists or of keys would take a hundred times their bytes, and seconds.
    """
    if body.translate(None, MARKS) not in OBJECTS:
        raise ValueError("not one list of numbers")
    num, rest = divmod(body.count(b",") + 1, math.prod(shape))
    lists = sum(math.prod(shape[:depth]) for depth in range(len(shape)))
    if rest or body.count(b"[") != 1 + num * lists:
        raise ValueError("not the lists of whole images")


def _parsed(text: str) -> Iterator[Any]:
    """The entries of the one list in a body, one at a time, so that no more than one is there as lists. Raises ValueError."""
    decoder, begin = json.JSONDecoder(), BEGIN.match(text)
    if begin is None:
        raise ValueError("another object")
    more: re.Match[str] | None = begin
    while more is not None:
        entry, place = decoder.raw_decode(text, more.end())
        yield entry
        more = NEXT.match(text, place)
    if END.fullmatch(text, place) is None:
        raise ValueError("more than one list")


def images_a_request(shape: tuple[int, ...]) -> int:
    """Images [C, S, S] of whole levels that surely fit in one request."""
    return max(1, MAX_BODY // 2 // (8 * math.prod(shape)))


ASKED = {"HTTP_HOST": "host", "HTTP_ORIGIN": "origin", "HTTP_SEC_FETCH_SITE": "sec-fetch-site"}
"""Headers by their WSGI names."""


def guarded(app: Wsgi) -> Wsgi:
    """The same application for requests of this machine alone, by name and from no page of another site, with a bounded body."""

    def checked(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        try:
            check_sender({name: environ[key] for key, name in ASKED.items() if key in environ}, set(LOOPBACK), "")
            check_length({"content-length": environ.get("CONTENT_LENGTH") or "0"})
            if "HTTP_TRANSFER_ENCODING" in environ:
                raise Refused(411, "a body must say its length (Content-Length)")
        except Refused as refusal:
            body = json.dumps({"error": refusal.text}).encode()
            head = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            start(f"{refusal.status} {HTTPStatus(refusal.status).phrase}", head)
            return [body]
        return app(environ, start)

    return checked
