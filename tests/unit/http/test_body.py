import asyncio
import contextlib
import json
import math
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from tailrace.errors import BodyNotJson, BodyTooLarge, InputInvalid, TooManyRequests
from tailrace.http import body
from tailrace.http.body import MAX_DEPTH, SMALL_BYTES, admitted, bound, decode
from tailrace.protocol.wire import MAX_BODY_BYTES
from tests.waiting import until

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "value",
    [{}, [], None, 1, {"a": [1, 2.5, "x", True, None], "ü": "😀\u2028\0"}, 2**63, -(2**63),
     2**64 - 1, 1e308],
)  # fmt: skip
def test_what_every_reader_understands(value: Any) -> None:
    assert decode(json.dumps(value).encode()) == value
    assert decode(json.dumps(value, ensure_ascii=False).encode()) == value


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[]" * (depth % 2) + b"]}" * (depth // 2)


@pytest.mark.parametrize("depth", [1, 2, MAX_DEPTH - 1, MAX_DEPTH])
def test_depth_up_to_the_bound(depth: int) -> None:
    assert decode(nested(depth)) is not None


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, MAX_DEPTH + 2, 500, 1020, 1030, 100_000])
def test_depth_beyond_the_bound(depth: int) -> None:
    with pytest.raises(InputInvalid, match="levels deep"):
        decode(nested(depth))
    with pytest.raises(InputInvalid, match="levels deep"):
        decode(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize(
    "text",
    [b"{", b"{'a': 1}", b"hello", b"{} {}", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b'"\xff"',
     b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":-1e999}',
     b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":01}', b"[1,]", b'{"a":"\n"}', b"9" * 5000],
)  # fmt: skip
def test_what_is_no_json_or_cannot_be_kept(text: bytes) -> None:
    with pytest.raises(InputInvalid, match="is not JSON that can be kept") as caught:
        decode(text)
    assert caught.value.fix
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [b"", b" ", b"\r\n\t"])
def test_nothing_is_said_to_be_nothing(text: bytes) -> None:
    with pytest.raises(InputInvalid, match="is empty"):
        decode(text)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30, 10**300])
def test_numbers_beyond_64_bits_would_be_rounded(number: int) -> None:
    with pytest.raises(InputInvalid, match="64 bits") as caught:
        decode(b'{"a":%d}' % number)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text", [b'{"a":1,"a":1}', b'{"x":[{"b":1,"a":2,"a":3}]}', b'{"a":1,"\\u0061":2}']
)
def test_a_key_that_stands_twice_has_no_meaning(text: bytes) -> None:
    with pytest.raises(InputInvalid, match="'a' stands more than once"):
        decode(text)


def test_a_long_key_is_not_repeated_in_full() -> None:
    key = "k" * 10_000
    with pytest.raises(InputInvalid) as caught:
        decode(f'{{"{key}":1,"{key}":2}}'.encode())
    assert str(caught.value).count("k") < 200


def test_no_finite_number_becomes_infinite() -> None:
    assert math.isfinite(decode(b"[1.7976931348623157e308]")[0])


# --- reading -----------------------------------------------------------------------------------


class Sent:
    """A request whose body comes piece by piece, when the test says so."""

    def __init__(self, headers: Mapping[str, str] = JSON) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.request = Request({"type": "http", "method": "POST", "headers": raw}, self._pieces.get)

    def piece(self, content: bytes, *, more: bool = True) -> None:
        self._pieces.put_nowait({"type": "http.request", "body": content, "more_body": more})

    def leave(self) -> None:
        self._pieces.put_nowait({"type": "http.disconnect"})

    async def read(self, most: int = MAX_BODY_BYTES, *, needs_json: bool = False) -> int:
        async with admitted(self.request, most, needs_json=needs_json):
            return len(await self.request.body())


def held() -> int:
    return body._Bodies.here().held


@pytest.fixture
async def clean(anyio_backend: str) -> AsyncIterator[None]:
    """Whatever became of the bodies, none is held in the end."""
    yield
    assert held() == 0


def test_each_route_has_its_bound() -> None:
    assert bound("/runs", needs_json=True) == MAX_BODY_BYTES
    assert bound("/runs/{run}/events", needs_json=True) == MAX_BODY_BYTES
    assert bound("/runs/{run}/cancel", needs_json=False) == SMALL_BYTES
    assert bound("/tickets", needs_json=True) == bound("/in/a/host/tickets", needs_json=True)
    assert bound("/tickets", needs_json=True) == SMALL_BYTES
    assert SMALL_BYTES < bound("/run_file", needs_json=False) < MAX_BODY_BYTES


@pytest.mark.anyio
async def test_a_body_is_there_for_as_long_as_it_is_worked_on(clean: None) -> None:
    sent = Sent()
    sent.piece(b'{"a":')
    sent.piece(b"1}", more=False)
    async with admitted(sent.request, 7, needs_json=True):
        assert (await sent.request.body(), await sent.request.json()) == (b'{"a":1}', {"a": 1})
        assert held() == 7
    assert await sent.request.body() == b"", "a stream would keep it to its end"
    assert not hasattr(sent.request, "_json")


@pytest.mark.anyio
async def test_whatever_refuses_it_lets_it_go(clean: None) -> None:
    for refusal, content, headers in (
        (BodyTooLarge, b"x" * 11, JSON),
        (InputInvalid, b"{", JSON),
        (BodyNotJson, b"{}", {}),
    ):
        sent = Sent(headers)
        sent.piece(content, more=False)
        with pytest.raises(refusal):
            await sent.read(10, needs_json=True)
    sent = Sent()
    sent.piece(b"{")
    sent.leave()
    with pytest.raises(ClientDisconnect):
        await sent.read()
    with pytest.raises(ZeroDivisionError):
        async with admitted(_whole(b"{}"), 10, needs_json=True):
            raise ZeroDivisionError


def _whole(content: bytes) -> Request:
    sent = Sent()
    sent.piece(content, more=False)
    return sent.request


@pytest.mark.anyio
async def test_so_much_is_kept_at_once(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_BYTES_AT_ONCE", 100_000)
    slow = [Sent() for _ in range(9)]
    tasks = [asyncio.create_task(sent.read()) for sent in slow]
    for sent in slow:
        sent.piece(b"x" * 11_000)
    await until(lambda: held() == 99_000)
    late = Sent()
    late.piece(b"x" * (SMALL_BYTES + 1), more=False)
    with pytest.raises(TooManyRequests) as refused:
        await late.read()
    assert int(refused.value.headers["retry-after"]) >= 1
    small = Sent()
    small.piece(b"x" * SMALL_BYTES, more=False)
    assert await small.read(SMALL_BYTES) == SMALL_BYTES, "who fills it keeps nobody from cancelling"
    for sent in slow:
        sent.piece(b"", more=False)
    assert await asyncio.gather(*tasks) == [11_000] * 9
    late = Sent()
    late.piece(b"x" * (SMALL_BYTES + 1), more=False)
    assert await late.read() == SMALL_BYTES + 1


@pytest.mark.anyio
async def test_what_is_too_much_is_read_and_not_kept(clean: None) -> None:
    sent = Sent()
    reading = asyncio.create_task(sent.read(10_000))
    sent.piece(b"x" * 9000)
    await until(lambda: held() == 9000)
    sent.piece(b"x" * 9000)
    await until(lambda: held() == 0)
    sent.piece(b"x" * 9000, more=False)
    with pytest.raises(BodyTooLarge, match="10,000 bytes"):
        await reading


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{}, {"content-length": "100"}])
async def test_a_body_has_its_time(
    clean: None, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.2)
    sent = Sent(headers)
    began = asyncio.get_running_loop().time()

    async def drip() -> None:
        while True:
            sent.piece(b"x")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    with pytest.raises(HTTPException) as refused:
        async with asyncio.timeout(4):
            await sent.read(16 * 1024)
    dripping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await dripping
    assert refused.value.status_code == 408
    expected = 0.2 + (0 if headers else 0.25)
    assert asyncio.get_running_loop().time() - began >= expected


@pytest.mark.anyio
async def test_large_bodies_are_decoded_one_at_a_time(
    clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, begun = threading.Event(), []

    def waiting(content: bytes) -> None:
        begun.append(len(content))
        assert may_end.wait(5)

    monkeypatch.setattr(body, "decode", waiting)
    tasks = []
    for _ in range(3):
        sent = Sent()
        sent.piece(b" " * 100_000, more=False)
        tasks.append(asyncio.create_task(sent.read(needs_json=True)))
    await until(lambda: begun and held() == 300_000)
    # Whoever is not kept from it has begun by now: the threads are free, and so is the loop.
    await asyncio.to_thread(lambda: None)
    assert begun == [100_000]
    may_end.set()
    assert await asyncio.gather(*tasks) == [100_000] * 3
    assert len(begun) == 3
