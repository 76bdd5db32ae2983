import asyncio
import gzip
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jwt.algorithms import ECAlgorithm

from tailrace.server import issuer, jwks
from tailrace.server.jwks import FRESH_SECONDS, KEPT_SECONDS, PAUSE_SECONDS, Jwks, read_file
from tests.issuing import (
    ED25519,
    OTHER_RSA,
    P256,
    P384,
    P521,
    RSA,
    Publisher,
    certificate,
    jwk,
    published,
    publisher,
)
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio

ALL = issuer.IssuerSettings(issuer="x", audience="x", jwks="https://x").allowed


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def place() -> Iterator[Publisher]:
    with publisher() as known:
        yield known


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(place: Publisher, clock: Clock) -> Jwks:
    return Jwks(place.url, ALL, clock=clock)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "jwks.json"
    path.write_bytes(content)
    path.chmod(0o644)
    return path


async def test_many_who_ask_at_once_ask_the_issuer_once(keys: Jwks, place: Publisher) -> None:
    found = await soon(asyncio.gather(*(keys.find("a", "RS256") for _ in range(50))))
    assert len({id(key) for key in found}) == 1
    assert found[0] is not None
    assert place.asked == 1


async def test_keys_are_kept_and_then_asked_for_again(
    keys: Jwks, place: Publisher, clock: Clock
) -> None:
    assert await soon(keys.find("a", "RS256"))
    clock.now += FRESH_SECONDS - 1
    assert await soon(keys.find("a", "RS256"))
    assert place.asked == 1
    place.content = published(jwk(OTHER_RSA, "b"))
    clock.now += 2
    assert await soon(keys.find("a", "RS256")) is None
    assert await soon(keys.find("b", "RS256"))
    assert place.asked == 2


async def test_a_new_key_is_found_and_a_stranger_cannot_have_the_issuer_hammered(
    keys: Jwks, place: Publisher, clock: Clock
) -> None:
    assert await soon(keys.find("a", "RS256"))
    place.content = published(jwk(RSA, "a"), jwk(OTHER_RSA, "b"))
    for number in range(100):
        assert await soon(keys.find(f"random-{number}", "RS256")) is None
    assert place.asked == 1
    clock.now += PAUSE_SECONDS + 1
    assert await soon(keys.find("b", "RS256"))
    for number in range(100):
        assert await soon(keys.find(f"random-{number}", "RS256")) is None
    assert place.asked == 2


async def test_an_issuer_that_is_away(
    keys: Jwks, place: Publisher, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert await soon(keys.find("a", "RS256"))
    place.status = 503
    for _ in range(4):
        clock.now += FRESH_SECONDS
        assert await soon(keys.find("a", "RS256"))
        assert await soon(keys.find("b", "RS256")) is None
    assert [record.levelno for record in caplog.records if record.name == "tailrace.server"] == [
        logging.WARNING
    ] * 4
    assert "it answers 503. Those known go on being used." in caplog.text
    assert "secret" not in "".join(r.getMessage() for r in caplog.records if "issuer" in r.msg)
    place.status = 200
    clock.now += FRESH_SECONDS
    place.content = published(jwk(RSA, "c"))
    # Whoever has a known key did not wait for it; one that is unknown does.
    assert await soon(keys.find("c", "RS256"))
    assert await soon(keys.find("a", "RS256")) is None


async def test_a_known_key_does_not_wait_for_an_issuer_that_fails(
    keys: Jwks, place: Publisher, clock: Clock
) -> None:
    assert await soon(keys.find("a", "RS256"))
    place.status = 500
    clock.now += FRESH_SECONDS
    assert await soon(keys.find("a", "RS256"))
    place.go_on.clear()
    clock.now += FRESH_SECONDS
    assert await soon(keys.find("a", "RS256"), within=1)
    await until(lambda: place.asked == 3)
    place.go_on.set()
    await until(lambda: keys._reading is None)


async def test_keys_are_not_used_for_ever(keys: Jwks, place: Publisher, clock: Clock) -> None:
    assert await soon(keys.find("a", "RS256"))
    place.status = 500
    clock.now += KEPT_SECONDS
    assert await soon(keys.find("a", "RS256")) is None


async def test_while_nothing_is_known_the_issuer_is_soon_asked_again(
    keys: Jwks, place: Publisher, clock: Clock
) -> None:
    place.status = 500
    assert await soon(keys.find("a", "RS256")) is None
    clock.now += 4
    assert await soon(keys.find("a", "RS256")) is None
    assert place.asked == 1
    place.status = 200
    clock.now += 2
    assert await soon(keys.find("a", "RS256"))


async def test_a_warning_a_minute(
    place: Publisher, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Jwks(f"http://127.0.0.1:{free.getsockname()[1]}/", ALL, clock=clock)
        for _ in range(12):
            assert await soon(nobody.find("a", "RS256")) is None
            clock.now += 10
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 2
    assert "Its tokens are refused." in caplog.text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"x" * (256 * 1024 + 1), "more than 262144 bytes"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no set of keys"),
        (b"{}", "no set of keys"),
        (b'{"keys": {}}', "no set of keys"),
        (json.dumps({"keys": [{}] * 101}).encode(), "no set of keys"),
        (b'{"keys": []}', "no key that can be used"),
        (b'{"keys": [{}]}', "no key that can be used"),
    ],
)
async def test_answers_that_are_no_keys(
    keys: Jwks, place: Publisher, content: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    place.content = content
    assert await soon(keys.find("a", "RS256")) is None
    assert why in caplog.text


async def test_a_packed_answer_is_not_unpacked(
    keys: Jwks, place: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    place.content = gzip.compress(b" " * 50_000_000)
    place.headers = {"content-encoding": "gzip"}
    assert await soon(keys.find("a", "RS256")) is None
    assert "not JSON" in caplog.text


async def test_nobody_is_followed_elsewhere(
    keys: Jwks, place: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    with publisher() as elsewhere:
        place.status, place.headers = 302, {"location": elsewhere.url}
        assert await soon(keys.find("a", "RS256")) is None
        assert (place.asked, elsewhere.asked) == (1, 0)
    assert "it answers 302" in caplog.text


@pytest.mark.parametrize("is_dripping", [False, True])
async def test_an_issuer_that_is_slow_has_its_bound(
    keys: Jwks, place: Publisher, is_dripping: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(jwks, "TIMEOUT_SECONDS", 0.2)
    if is_dripping:
        place.drip = 0.02
    else:
        place.go_on.clear()
    assert await soon(keys.find("a", "RS256"), within=3) is None
    assert "longer than 0.2 s" in caplog.text or "ReadTimeout" in caplog.text


async def test_a_certificate_must_be_one_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = certificate(tmp_path)
    with publisher(path) as place:
        assert await soon(Jwks(place.url, ALL).find("a", "RS256")) is None
        assert place.asked == 0
        assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert await soon(Jwks(place.url, ALL).find("a", "RS256"))
        assert place.asked == 1


async def test_a_proxy_of_the_environment_is_not_for_this_machine(
    keys: Jwks, place: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publisher() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert await soon(keys.find("a", "RS256"))
        assert (place.asked, proxy.asked) == (1, 0)


async def test_whoever_gives_up_does_not_end_it_for_the_others(
    keys: Jwks, place: Publisher
) -> None:
    place.go_on.clear()
    first = asyncio.create_task(keys.find("a", "RS256"))
    second = asyncio.create_task(keys.find("a", "RS256"))
    await until(lambda: place.asked)
    first.cancel()
    await turns()
    assert first.cancelled()
    place.go_on.set()
    assert await soon(second)
    assert place.asked == 1


# ------------------------------------------------------------------ which keys


async def found(folder: Path, *listed: Any) -> set[tuple[str | None, str]]:
    keys = Jwks(written(folder, published(*listed)), ALL)
    keys.load()
    return set(keys._keys)


async def test_what_each_kind_is_for(tmp_path: Path) -> None:
    rsa = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    kinds = [(RSA, "r"), (P256, "2"), (P384, "3"), (P521, "5"), (ED25519, "e")]
    known = await found(tmp_path, *(jwk(key, id) for key, id in kinds))
    assert known == {
        *((id, name) for id in ("r", None) for name in rsa),
        *((id, "ES256") for id in ("2", None)),
        *((id, "ES384") for id in ("3", None)),
        *((id, "ES512") for id in ("5", None)),
        *((id, "EdDSA") for id in ("e", None)),
    }
    assert {name for _, name in known} == set(ALL)


async def test_what_a_key_says_it_is_for(tmp_path: Path) -> None:
    known = await found(tmp_path, jwk(RSA, "a", alg="PS256"), jwk(OTHER_RSA, "b", alg="RS256"))
    assert known == {("a", "PS256"), (None, "PS256"), ("b", "RS256"), (None, "RS256")}


@pytest.mark.parametrize(
    "broken",
    [
        jwk(P256, "b", use="enc"),
        jwk(P256, "b", key_ops=["sign"]),
        jwk(P256, "b", key_ops=4),
        {**ECAlgorithm.to_jwk(P256, as_dict=True), "kid": "b", "key_ops": ["verify"]},
        jwk(P256, "b", x="AAAA"),
        jwk(P256, "b", crv="P-384"),
        jwk(P256, "b", kty=["EC"]),
        jwk(P256, "b", alg="HS256"),
        {"kty": "oct", "kid": "b", "k": "c2VjcmV0" * 8},
        {"kty": "RSA", "kid": "b"},
        {"kty": "RSA", "kid": "b", "n": 4, "e": "AQAB"},
        "x", None, [], 4,
    ],
)  # fmt: skip
async def test_a_key_that_is_no_use_costs_no_other(tmp_path: Path, broken: Any) -> None:
    assert ("b", "ES256") not in (known := await found(tmp_path, broken, jwk(RSA, "a")))
    assert ("a", "RS256") in known
    assert {id for id, _ in known} == {"a", None}


async def test_of_two_without_a_name_none_is_the_only_one(tmp_path: Path) -> None:
    assert await found(tmp_path, jwk(P256, None)) == {(None, "ES256")}
    two = await found(tmp_path, jwk(RSA, None), jwk(OTHER_RSA, "b"))
    assert (None, "RS256") not in two


# ------------------------------------------------------------------ in a file


async def test_a_file_is_read_again(tmp_path: Path, clock: Clock) -> None:
    path = written(tmp_path, published(jwk(RSA, "a")))
    keys = Jwks(path, ALL, clock=clock)
    keys.load()
    assert await soon(keys.find("a", "RS256"))
    written(tmp_path, published(jwk(OTHER_RSA, "b")))
    assert await soon(keys.find("b", "RS256"))
    assert await soon(keys.find("a", "RS256")) is None


@pytest.mark.parametrize("mode", [0o664, 0o646])
async def test_a_file_that_others_can_change(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, published(jwk(RSA, "a")))
    path.chmod(mode)
    with pytest.raises(ValueError, match="open to other users"):
        Jwks(path, ALL).load()


async def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a plain file"):
        Jwks(tmp_path / "pipe", ALL).load()
    with pytest.raises(IsADirectoryError):
        Jwks(tmp_path, ALL).load()
    with pytest.raises(FileNotFoundError):
        Jwks(tmp_path / "none", ALL).load()
    with pytest.raises(ValueError, match="no key that can be used"):
        Jwks(written(tmp_path, published()), ALL).load()


async def test_an_address_is_not_asked_at_the_start(keys: Jwks, place: Publisher) -> None:
    keys.load()
    assert place.asked == 0


def test_how_much_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, b"12345")
    assert read_file(path, closed_to=0o022, most=5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_file(path, closed_to=0o022, most=4)
    with pytest.raises(ValueError, match="0644"):
        read_file(path, closed_to=0o077, most=5)
