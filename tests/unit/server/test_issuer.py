import builtins
import hashlib
import hmac
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import SettingsInvalid
from tailrace.protocol.access import LOCAL, SCOPES, Access
from tailrace.server.issuer import MAX_TOKEN, Issuer, IssuerSettings, looks_like, read
from tailrace.server.keyfile import MAX_PRINCIPAL
from tailrace.server.keys import Keys
from tests.issuing import (
    AUDIENCE,
    ED25519,
    ISSUER,
    OTHER_RSA,
    P256,
    P384,
    P521,
    RSA,
    WEAK_RSA,
    Publisher,
    claims,
    jwk,
    part,
    published,
    publisher,
    token,
)
from tests.waiting import soon

pytestmark = pytest.mark.anyio

SECRET = b"a secret of at least 32 bytes, shared with the issuer"
ADA = Access.of("jwt:ada", ["run", "watch"])


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "issuer"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def settings(**more: Any) -> IssuerSettings:
    return IssuerSettings(**{"issuer": ISSUER, "audience": AUDIENCE, **more})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(tmp_path: Path, clock: Clock) -> Issuer:
    """One that publishes a key of each kind."""
    keys = {"a": RSA, "ec": P256, "ec3": P384, "ec5": P521, "ed": ED25519, "weak": WEAK_RSA}
    path = file(tmp_path, published(*(jwk(key, id) for id, key in keys.items())))
    return Issuer(settings(jwks=path), clock=clock)


@pytest.fixture
def shared(tmp_path: Path) -> Issuer:
    """One that shares a secret with us."""
    return Issuer(settings(secret_file=file(tmp_path, SECRET)))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "tailrace.server")
    return caplog


# ------------------------------------------------------------------ good ones


@pytest.mark.parametrize(
    ("key", "algorithm", "id"),
    [
        (RSA, "RS256", "a"), (RSA, "RS512", "a"), (RSA, "PS256", "a"), (RSA, "PS384", "a"),
        (P256, "ES256", "ec"), (P384, "ES384", "ec3"), (P521, "ES512", "ec5"),
        (ED25519, "EdDSA", "ed"),
        (P256, "ES256", None), (ED25519, "EdDSA", None),
    ],
)  # fmt: skip
async def test_each_kind_of_signature(issuer: Issuer, key: Any, algorithm: str, id: str) -> None:
    assert await soon(issuer.find(token(key, algorithm, id))) == ADA


async def test_a_shared_secret(shared: Issuer) -> None:
    assert await soon(shared.find(token(SECRET, "HS256"))) == ADA
    assert await soon(shared.find(token(SECRET, "HS256", id=None))) == ADA
    assert await soon(shared.find(token(SECRET + b"!", "HS256"))) is None
    assert await soon(shared.find(token(SECRET + b"012345678901234", "HS512"))) is None


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
async def test_the_line_end_of_a_secret_does_not_count(tmp_path: Path, end: bytes) -> None:
    shared = Issuer(settings(secret_file=file(tmp_path, SECRET + end)))
    assert await soon(shared.find(token(SECRET, "HS256"))) == ADA


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("run", {"run"}),
        ("openid  run\tprofile tailrace:watch", {"run", "watch"}),
        (["run", "tailrace:cancel", "x", 4, None, ["emit"]], {"run", "cancel"}),
        (" ".join(SCOPES), set(SCOPES)),
        ("RUN runs tailrace:tailrace:run other:run tailrace:", set()),
        ("", set()), (None, set()), (4, set()), ({"run": True}, set()), (True, set()),
    ],
)  # fmt: skip
async def test_scopes(issuer: Issuer, scope: Any, scopes: set[str]) -> None:
    assert await soon(issuer.find(token(scope=scope))) == Access.of("jwt:ada", scopes)


async def test_claims_of_other_names(tmp_path: Path) -> None:
    path = file(tmp_path, published(jwk(RSA, "a")))
    issuer = Issuer(settings(jwks=path, principal_claim="email", scopes_claim="roles"))
    told = token(sub=None, email="ada@example.com", roles=["watch"], scope="admin")
    assert await soon(issuer.find(told)) == Access.of("jwt:ada@example.com", ["watch"])
    assert await soon(issuer.find(token(roles=["watch"]))) is None


async def test_of_several_audiences_one_is_enough(issuer: Issuer) -> None:
    assert await soon(issuer.find(token(aud=["other", AUDIENCE]))) == ADA


async def test_clocks_may_differ_a_little(issuer: Issuer) -> None:
    now = int(time.time())
    assert await soon(issuer.find(token(exp=now - 10)))
    assert await soon(issuer.find(token(nbf=now + 10, iat=now + 10)))
    assert await soon(issuer.find(token(exp=now - 31))) is None


# ------------------------------------------------------------------ bad ones


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": ISSUER.rstrip("/")}, "another issuer"),
        ({"iss": [ISSUER]}, "another issuer"),
        ({"iss": None}, "lacks"),
        ({"aud": "other"}, "another audience"),
        ({"aud": [AUDIENCE + "2", 4]}, "another audience"),
        ({"aud": None}, "lacks"),
        ({"aud": []}, "lacks"),
        ({"exp": 1}, "time is over"),
        ({"exp": True}, "time is over"),
        ({"exp": None}, "lacks"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": float("inf")}, "malformed"),
        ({"exp": float("nan")}, "malformed"),
        ({"exp": {}}, "malformed"),
        ({"nbf": 10**11}, "yet to come"),
        ({"iat": 10**11}, "yet to come"),
        ({"sub": None}, "lacks"),
        ({"sub": ""}, "cannot name"),
        ({"sub": 4}, "malformed"),
        ({"sub": " ada"}, "cannot name"),
        ({"sub": "a\nb"}, "cannot name"),
        ({"sub": "a\u202eb"}, "cannot name"),
        ({"sub": "\ud800"}, "cannot name"),
        ({"sub": "x" * (MAX_PRINCIPAL - 3)}, "cannot name"),
    ],
)
async def test_what_it_says_is_checked(
    issuer: Issuer, change: dict[str, Any], why: str, said: pytest.LogCaptureFixture
) -> None:
    try:
        told = token(**change)
    except TypeError:
        # PyJWT makes no such token, and others may.
        signing = f"{part({'alg': 'RS256', 'kid': 'a'})}.{part(claims(**change))}"
        rs256 = jwt.get_algorithm_by_name("RS256")
        told = f"{signing}.{part(rs256.sign(signing.encode(), RSA))}"
    assert await soon(issuer.find(told)) is None
    assert why in said.text
    assert told not in said.text
    assert told.split(".")[1] not in said.text


async def test_a_time_that_no_float_can_hold(issuer: Issuer) -> None:
    assert await soon(issuer.find(token(exp=10**400))) == ADA


async def test_a_principal_as_long_as_may_be(issuer: Issuer) -> None:
    found = await soon(issuer.find(token(sub="x" * (MAX_PRINCIPAL - 4))))
    assert found is not None
    assert len(found.principal) == MAX_PRINCIPAL


@pytest.mark.parametrize("sub", ["local", "key:ci", "jwt:ada"])
async def test_nobody_is_whom_we_know_otherwise(issuer: Issuer, sub: str) -> None:
    found = await soon(issuer.find(token(sub=sub)))
    assert found is not None
    assert found.principal == f"jwt:{sub}"
    assert found.principal != LOCAL


def unsigned(header: Any, signature: bytes = b"", **more: Any) -> str:
    return f"{part(header)}.{part(claims(**more))}.{part(signature)}"


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None, 0, [], ["RS256"], {}])
async def test_nothing_goes_unsigned(issuer: Issuer, shared: Issuer, name: Any) -> None:
    for who in (issuer, shared):
        assert await soon(who.find(unsigned({"alg": name, "kid": "a"}))) is None
        assert await soon(who.find(unsigned({"alg": name}, b"x" * 32))) is None


async def test_a_public_key_is_no_secret(issuer: Issuer) -> None:
    public = RSA.public_key()
    for told in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ):
        signed = f"{part({'alg': 'HS256', 'kid': 'a'})}.{part(claims())}"
        signature = hmac.new(told, signed.encode(), hashlib.sha256).digest()
        assert await soon(issuer.find(f"{signed}.{part(signature)}")) is None


async def test_a_signature_is_of_one_key(issuer: Issuer, said: pytest.LogCaptureFixture) -> None:
    assert await soon(issuer.find(token(OTHER_RSA))) is None
    assert "its signature is not of this key" in said.text
    head, middle, signature = token().split(".")
    assert await soon(issuer.find(f"{head}.{part(claims(scope='admin'))}.{signature}")) is None
    assert await soon(issuer.find(f"{head}.{middle}.{signature[::-1]}")) is None
    assert await soon(issuer.find(f"{head}.{middle}.")) is None


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "RS256", "kid": "nobody"},
        {"alg": "RS256"},
        {"alg": "ES256", "kid": "a"},
        {"alg": "RS256", "kid": 4},
        {"alg": "RS256", "kid": ["a"]},
        {"alg": "RS256", "kid": "../../dev/null"},
        {"alg": "RS256", "kid": "a", "crit": ["exp"], "exp": 1},
        {"alg": "RS256", "kid": "a", "crit": []},
        {"alg": "RS256", "kid": "a", "crit": ["b64"], "b64": True},
        {"alg": "RS256", "kid": "a", "crit": ["b64"], "b64": False},
        {"alg": "RS256", "kid": "a", "b64": False},
        {"kid": "a"}, [], "RS256", 4, None, b"", b"{", b"\xff", b"[" * 5000,
    ],
)  # fmt: skip
async def test_headers(issuer: Issuer, header: Any) -> None:
    signing = f"{part(header)}.{part(claims())}"
    for key, name in ((RSA, "RS256"), (P256, "ES256")):
        signature = jwt.get_algorithm_by_name(name).sign(signing.encode(), key)
        assert await soon(issuer.find(f"{signing}.{part(signature)}")) is None


async def test_a_header_is_not_followed(issuer: Issuer) -> None:
    with publisher() as elsewhere:
        elsewhere.content = published(jwk(OTHER_RSA, "z"))
        headers = {"jku": elsewhere.url, "x5u": elsewhere.url, "jwk": jwk(OTHER_RSA, "z")}
        assert await soon(issuer.find(token(OTHER_RSA, id="z", headers=headers))) is None
        assert elsewhere.asked == 0


async def test_a_key_that_is_too_weak(issuer: Issuer, said: pytest.LogCaptureFixture) -> None:
    weak = jwt.get_algorithm_by_name("RS256")
    signing = f"{part({'alg': 'RS256', 'kid': 'weak'})}.{part(claims())}"
    told = f"{signing}.{part(weak.sign(signing.encode(), WEAK_RSA))}"
    assert await soon(issuer.find(told)) is None
    assert "too weak" in said.text


async def test_only_the_algorithms_that_are_meant(tmp_path: Path) -> None:
    path = file(tmp_path, published(jwk(RSA, "a"), jwk(P256, "ec")))
    issuer = Issuer(settings(jwks=path, algorithms=("ES256",)))
    assert await soon(issuer.find(token(P256, "ES256", "ec"))) == ADA
    assert await soon(issuer.find(token())) is None


async def test_a_token_has_its_bound(issuer: Issuer) -> None:
    short = len(token())
    fill = (MAX_TOKEN - short) * 3 // 4 - 20
    assert await soon(issuer.find(token(x="y" * fill))) == ADA
    assert await soon(issuer.find(token(x="y" * (fill + 60)))) is None
    assert await soon(issuer.find("a." * 1_000_000)) is None


@given(st.text() | st.from_regex(r"\A[\w.=-]{0,80}\Z") | st.binary().map(repr))
async def test_no_text_raises(text: str) -> None:
    assert await find_in_any(text) is None
    parts = [part(text.encode("utf-8", "surrogatepass")) for _ in range(3)]
    assert await find_in_any(".".join(parts)) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
    st.sampled_from(["alg", "kid", "crit", "b64", "typ"]),
    st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope"]),
)
async def test_no_value_raises(value: Any, header: str, claim: str) -> None:
    signing = f"{part({'alg': 'HS256', header: value})}.{part(claims(**{claim: value}))}"
    signature = hmac.new(SECRET, signing.encode(), hashlib.sha256).digest()
    await find_in_any(f"{signing}.{part(signature)}")


_any: list[Issuer] = []


@pytest.fixture(autouse=True, scope="module")
def one_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    _any.append(Issuer(settings(secret_file=file(tmp_path_factory.mktemp("any"), SECRET))))
    yield
    _any.clear()


async def find_in_any(text: str) -> Access | None:
    return await _any[0].find(text)


# ------------------------------------------------------------------ from an address


@pytest.fixture
def place() -> Iterator[Publisher]:
    with publisher() as known:
        yield known


async def test_an_issuer_at_an_address(place: Publisher, clock: Clock) -> None:
    issuer = Issuer(settings(jwks=place.url), clock=clock)
    assert place.asked == 0
    assert await soon(issuer.find(token())) == ADA
    place.content = published(jwk(OTHER_RSA, "b"))
    clock.now += 31
    assert await soon(issuer.find(token(OTHER_RSA, id="b"))) == ADA
    # It was remembered, and then it is not.
    assert await soon(issuer.find(token(sub="eve"))) is None
    assert place.asked == 2


async def test_an_issuer_that_is_away_is_no_error(place: Publisher) -> None:
    place.status = 500
    assert await soon(Issuer(settings(jwks=place.url)).find(token())) is None


async def test_nobody_asks_for_what_could_not_be_good(place: Publisher) -> None:
    issuer = Issuer(settings(jwks=place.url))
    for told in ("", "a.b.c", "x" * 9000, unsigned({"alg": "none"}), token(SECRET, "HS256")):
        assert await soon(issuer.find(told)) is None
    assert place.asked == 0


# ------------------------------------------------------------------ what is remembered


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signature was looked at."""
    made: list[str] = []
    decode = jwt.decode

    def counted(told: str, *args: Any, **more: Any) -> Any:
        made.append(told)
        return decode(told, *args, **more)

    monkeypatch.setattr(jwt, "decode", counted)
    return made


async def test_a_token_is_checked_once_a_minute(
    issuer: Issuer, clock: Clock, checked: list[str]
) -> None:
    told = token()
    for _ in range(10):
        assert await soon(issuer.find(told)) == ADA
    assert checked == [told]
    clock.now += 60
    assert await soon(issuer.find(told)) == ADA
    assert checked == [told, told]


async def test_nor_longer_than_it_is_good(issuer: Issuer, clock: Clock, checked: list[str]) -> None:
    told = token(exp=int(time.time()) - 15)
    assert await soon(issuer.find(told)) == ADA
    clock.now += 16
    assert await soon(issuer.find(told)) == ADA
    assert len(checked) == 2


async def test_what_is_refused_is_not_remembered(issuer: Issuer, checked: list[str]) -> None:
    told = token(aud="other")
    for _ in range(3):
        assert await soon(issuer.find(told)) is None
    assert len(checked) == 3
    assert issuer._remembered == {}


async def test_so_many_are_remembered_and_no_token_is_kept(shared: Issuer) -> None:
    made = [token(SECRET, "HS256", sub=str(number)) for number in range(1030)]
    for told in made:
        assert await soon(shared.find(told))
    assert len(shared._remembered) == 1024
    assert all(isinstance(digest, bytes) and len(digest) == 32 for digest in shared._remembered)
    assert hashlib.sha256(made[-1].encode()).digest() in shared._remembered
    assert hashlib.sha256(made[0].encode()).digest() not in shared._remembered


# ------------------------------------------------------------------ which is which


def test_a_key_is_no_token(tmp_path: Path) -> None:
    _, secret = Keys(tmp_path / "keys.json").create("ci", ["watch"])
    assert not looks_like(secret)
    assert looks_like(token())
    assert looks_like(unsigned({"alg": "none"}))


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b", "a.b.c.d", "a.b.c\n", " a.b.c", "a.b=.c", "é.b.c", "a..c", "a+.b.c"],
)
def test_what_is_no_token(text: str) -> None:
    assert not looks_like(text)


# ------------------------------------------------------------------ settings

URL = "https://login.example.com/jwks"


@pytest.mark.parametrize(
    "url",
    [
        URL, "https://x:8443/a?b=c", "http://127.0.0.1:1/", "http://127.0.0.9/", "http://[::1]:4/",
        "http://localhost/x",
    ],
)  # fmt: skip
def test_addresses_of_keys(url: str) -> None:
    assert settings(jwks=url).jwks == url


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/jwks", "http://127.0.0.1.evil.example/", "http://localhost.evil/",
        "ftp://x/y", "file:///etc/keys", "data:x", "https://", "https://u:p@x/", "https://x:0/",
        "https://x:99999/", "https://x/#y", "https://[/", "x", "https://x/\n",
    ],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"jwt.jwks must be a file or an https URL") as caught:
        settings(jwks=url)
    assert caught.value.fix


@pytest.mark.parametrize("more", [{}, {"jwks": URL, "secret_file": Path("x")}])
def test_one_of_both(more: dict[str, Any]) -> None:
    with pytest.raises(SettingsInvalid, match="either jwks or secret_file"):
        settings(**more)


@pytest.mark.parametrize(
    "more",
    [
        {"jwks": URL, "algorithms": ("HS256",)},
        {"jwks": URL, "algorithms": ("RS256", "HS256")},
        {"jwks": URL, "algorithms": ("none",)},
        {"jwks": URL, "algorithms": ("rs256",)},
        {"secret_file": Path("x"), "algorithms": ("RS256",)},
        {"secret_file": Path("x"), "algorithms": ("HS256", "ES256")},
    ],
)
def test_the_kinds_of_algorithms_are_not_mixed(more: dict[str, Any]) -> None:
    with pytest.raises(SettingsInvalid, match=r"jwt.algorithms must not have"):
        settings(**more)


def test_a_table(tmp_path: Path) -> None:
    table = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": URL}
    assert read(table, tmp_path) == settings(jwks=URL)
    more = {
        "jwks": "keys.json", "algorithms": "RS256", "scopes_claim": "scp",
        "principal_claim": "email", "leeway": 5,
    }  # fmt: skip
    assert read({**table, **more}, tmp_path) == settings(
        jwks=tmp_path / "keys.json",
        algorithms=("RS256",),
        scopes_claim="scp",
        principal_claim="email",
        leeway=5.0,
    )
    shared = {"issuer": ISSUER, "audience": AUDIENCE, "secret_file": "s", "algorithms": ["HS512"]}
    assert read(shared, tmp_path) == settings(
        secret_file=tmp_path / "s", algorithms=("HS512",)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"issuer": None}, "jwt needs issuer"),
        ({"audience": None}, "jwt needs audience"),
        ({"issuer": ""}, "jwt.issuer must be a text"),
        ({"audience": ["a"]}, "jwt.audience must be a text"),
        ({"jwks": 4}, "jwt.jwks must be a text"),
        ({"algorithms": []}, "jwt.algorithms must be a name, or a list of names"),
        ({"algorithms": [4]}, "jwt.algorithms must be a text"),
        ({"scopes_claim": ""}, "jwt.scopes_claim must be a text"),
        ({"leeway": -1}, "jwt.leeway must be a number of seconds, at most 300"),
        ({"leeway": 301}, "jwt.leeway must be"),
        ({"leeway": True}, "jwt.leeway must be"),
        ({"leeway": float("nan")}, "jwt.leeway must be"),
        ({"secret": "s3cret"}, "jwt.secret is not one of issuer, audience"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    table = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": URL, **change}
    with pytest.raises(SettingsInvalid) as caught:
        read({name: value for name, value in table.items() if value is not None}, tmp_path)
    assert str(caught.value).startswith(why)
    assert "s3cret" not in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (SECRET[:31], 0o600, "31 bytes and needs 32"),
        (SECRET[:31] + b"\n", 0o600, "31 bytes and needs 32"),
        (b"", 0o600, "0 bytes"),
        (SECRET, 0o640, "open to other users"),
        (SECRET, 0o604, "open to other users"),
        (b"x" * 70_000, 0o600, "more than 65536 bytes"),
        (
            RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            0o600,
            "no secret",
        ),
    ],
)
def test_secrets_that_are_refused(tmp_path: Path, content: bytes, mode: int, why: str) -> None:
    path = file(tmp_path, content, mode)
    with pytest.raises(SettingsInvalid, match=why) as caught:
        Issuer(settings(secret_file=path))
    assert str(path) in str(caught.value)
    assert "openssl rand" in caught.value.fix


def test_a_secret_as_long_as_its_algorithm_needs(tmp_path: Path) -> None:
    path = file(tmp_path, b"x" * 48)
    assert Issuer(settings(secret_file=path, algorithms=("HS256", "HS384")))
    with pytest.raises(SettingsInvalid, match="needs 64"):
        Issuer(settings(secret_file=path, algorithms=("HS256", "HS512")))


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    for name in ("secret_file", "jwks"):
        with pytest.raises(SettingsInvalid, match=f"jwt.{name}, .*No such file"):
            Issuer(settings(**{name: tmp_path / "none"}))


@pytest.mark.parametrize("name", ["jwt", "cryptography"])
def test_without_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(wanted: str, *args: Any, **more: Any) -> Any:
        if wanted == name:
            raise ModuleNotFoundError(wanted)
        return found(wanted, *args, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SettingsInvalid, match="PyJWT and cryptography") as caught:
        Issuer(settings(jwks=URL))
    assert caught.value.fix == "pip install 'tailrace[jwt]'"
