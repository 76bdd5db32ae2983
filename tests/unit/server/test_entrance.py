from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from fastapi import Request

from tailrace.errors import SettingsInvalid, Unauthorized
from tailrace.http.origins import LOOPBACK_HOSTS
from tailrace.protocol.access import OPEN, Access
from tailrace.server import keys as module
from tailrace.server.entrance import LAUNCHER, Entrance
from tailrace.server.issuer import IssuerSettings
from tailrace.server.keys import Keys
from tailrace.server.launch import Launch
from tailrace.server.settings import Settings
from tests.issuing import AUDIENCE, ISSUER, claims

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def asking(**headers: str) -> Request:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": sent})


@pytest.fixture(autouse=True)
def default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_KEYS", str(file))


def entrance(file: Path, **more: object) -> Entrance:
    keys = file if file.exists() else None
    return Entrance(Settings(keys=keys, log="memory:", **more))  # type: ignore[arg-type]


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="no file with keys") as refused:
        Entrance(Settings(keys=tmp_path / "kyes.json", log="memory:"))
    assert "tailrace keys create" in refused.value.fix


def test_a_file_that_cannot_be_read_lets_nobody_in(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    _, secret = Keys(file).create("ci", ["watch"])
    door = entrance(file)
    assert door.has_keys
    file.chmod(0o644)
    with pytest.raises(Unauthorized, match="No key can be checked") as refused:
        door.identify(asking(x_api_key=secret))
    assert str(file) not in str(refused.value)
    assert str(file) in caplog.text


def test_without_keys_nobody_is_let_in(file: Path) -> None:
    door = entrance(file)
    assert not door.has_keys
    for who in (asking(), asking(authorization="Bearer anything"), asking(cookie="tailrace-1=x")):
        with pytest.raises(Unauthorized) as refused:
            door.identify(who)
        assert "tailrace keys create" in refused.value.fix
        assert "tailrace login" in refused.value.fix


def test_who_started_it_is_let_in(file: Path) -> None:
    door = entrance(file)
    key = f"tl_{'a' * 52}"
    door.launch = Launch(key, 4000)
    cookie = str(door.launch.redeem(door.launch.link())).partition(";")[0]
    for who in (asking(authorization=f"Bearer {key}"), asking(x_api_key=key), asking(cookie=cookie),
                asking(cookie=f"a=b; {cookie}; c=d")):  # fmt: skip
        found = door.identify(who)
        assert found == LAUNCHER
        assert found.sees is None
    for who in (asking(authorization=f"Bearer {key}a"), asking(cookie=cookie + "x"),
                # A key that is sent counts, and not a cookie beside it.
                asking(cookie=cookie, x_api_key="tr_x")):  # fmt: skip
        with pytest.raises(Unauthorized):
            door.identify(who)


def test_with_one_everybody_needs_one(file: Path) -> None:
    _, secret = Keys(file).create("ci", ["run", "watch"])
    door = entrance(file)
    assert door.has_keys
    for headers in ({"authorization": f"Bearer {secret}"}, {"x_api_key": secret},
                    {"authorization": f"bearer  {secret} "}):  # fmt: skip
        access = door.identify(asking(**headers))
        assert access == Access.of("key:ci", ["run", "watch"])
    for headers in ({}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer"},
                    {"authorization": f"Bearer {secret}x"}, {"x_api_key": ""},
                    {"x_api_key": "tr_nothing"}):  # fmt: skip
        with pytest.raises(Unauthorized) as refused:
            door.identify(asking(**headers))
        assert secret not in str(refused.value) + refused.value.fix


def test_a_new_key_is_good_at_once_and_a_revoked_one_no_more(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    door = entrance(file)
    keys = Keys(file)
    key, secret = keys.create("ci", ["watch"])
    assert door.identify(asking(x_api_key=secret)) == Access.of("key:ci", ["watch"])
    keys.revoke(key.id)
    for who in (asking(), asking(x_api_key=secret)):
        with pytest.raises(Unauthorized):
            door.identify(who)


def test_no_auth_lets_everybody_in(file: Path) -> None:
    Keys(file).create("ci", ["watch"])
    door = entrance(file, no_auth=True)
    assert not door.has_keys
    assert door.identify(asking()) == OPEN


@pytest.mark.parametrize(
    ("host", "name", "is_known"),
    [
        ("127.0.0.1", "localhost:4000", True),
        ("127.0.0.1", "evil.example", False),
        ("10.0.0.7", "10.0.0.7:4000", True),
        ("0.0.0.0", "0.0.0.0:4000", False),
        ("::1", "[::1]:4000", True),
        ("0.0.0.0", "runs.example.com", True),
    ],
)
def test_by_which_names_it_is_called(file: Path, host: str, name: str, is_known: bool) -> None:
    door = entrance(file, host=host, allow_host=("runs.example.com",))
    verdict = door.origins.decide("GET", [(b"host", name.encode())])
    assert (verdict.refusal is None) == is_known
    assert "localhost" in LOOPBACK_HOSTS


async def test_tokens_of_an_issuer(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    secret.chmod(0o600)
    door = entrance(file, jwt=IssuerSettings(issuer=ISSUER, audience=AUDIENCE, secret_file=secret))
    assert door.has_keys
    token = jwt.encode(claims(scope="watch"), b"s" * 32, "HS256")

    async def found(**headers: str) -> Access:
        access = door.identify(asking(**headers))
        return access if isinstance(access, Access) else await access

    assert await found(authorization=f"Bearer {token}") == Access.of("jwt:ada", ["watch"])
    forged = jwt.encode(claims(scope="admin"), b"t" * 32, "HS256")
    for wrong in (forged, token[:-4], token.rpartition(".")[0] + "."):
        with pytest.raises(Unauthorized, match="token is not valid") as refused:
            await found(x_api_key=wrong)
        assert wrong not in str(refused.value) + refused.value.fix
    # Keys are known as before.
    _, key = Keys(file).create("ci", ["run"])
    assert (await found(x_api_key=key)).principal == "key:ci"
