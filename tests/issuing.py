"""An external issuer: keys, tokens, and a server that publishes the keys."""

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER: Final = "https://login.example.com/"
AUDIENCE: Final = "tailrace"

# Made once: a key of RSA takes its time.
RSA: Final = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
OTHER_RSA: Final = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
WEAK_RSA: Final = rsa.generate_private_key(public_exponent=65_537, key_size=1024)
P256: Final = ec.generate_private_key(ec.SECP256R1())
P384: Final = ec.generate_private_key(ec.SECP384R1())
P521: Final = ec.generate_private_key(ec.SECP521R1())
ED25519: Final = ed25519.Ed25519PrivateKey.generate()


def jwk(private: Any, id: str | None, **more: Any) -> dict[str, Any]:
    """The public half of a key, as an issuer publishes it."""
    public = private.public_key()
    if isinstance(private, rsa.RSAPrivateKey):
        made = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        made = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        made = OKPAlgorithm.to_jwk(public, as_dict=True)
    # PyJWT says of a public key that it is for nothing but this, which is left to `more`.
    made = {name: value for name, value in made.items() if name != "key_ops"}
    return {**made, **({} if id is None else {"kid": id}), **more}


def published(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def claims(**more: Any) -> dict[str, Any]:
    """Good ones; None leaves one out."""
    now = int(time.time())
    told = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now + 600, "iat": now,
        "scope": "run watch", **more,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}


def token(
    key: Any = RSA,
    algorithm: str = "RS256",
    id: str | None = "a",
    headers: Mapping[str, Any] | None = None,
    **more: Any,
) -> str:
    told = {**({} if id is None else {"kid": id}), **(headers or {})}
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=told)


def part(value: Any) -> str:
    """A part of a token that nobody signed."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Publisher:
    """What the issuer's server answers, and how often it was asked."""

    def __init__(self) -> None:
        self.content = published(jwk(RSA, "a"))
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked = 0
        self.drip: float | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.url = ""


def certificate(folder: Path) -> Path:
    """Of localhost, signed by itself, with its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(P256.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(P256, hashes.SHA256())
    )
    key = P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "localhost.pem"
    path.write_bytes(key + made.public_bytes(Encoding.PEM))
    return path


@contextmanager
def publisher(certified: Path | None = None) -> Iterator[Publisher]:
    """With a certificate, at https://localhost."""
    known = Publisher()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked += 1
            known.go_on.wait(10)
            try:
                self.send_response(known.status)
                for name, value in known.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(known.content)))
                self.end_headers()
                step = len(known.content) if known.drip is None else 1
                for start in range(0, len(known.content), max(step, 1)):
                    self.wfile.write(known.content[start : start + step])
                    self.wfile.flush()
                    if known.drip is not None:
                        time.sleep(known.drip)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: whoever asks knows."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, address: Any) -> None:
            """Nothing: who does not trust the certificate hangs up."""

    server = Server(("127.0.0.1", 0), Answer)
    known.url = f"http://127.0.0.1:{server.server_port}/jwks.json?client=secret"
    if certified is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certified)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        known.url = f"https://localhost:{server.server_port}/jwks.json"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield known
    finally:
        known.go_on.set()
        known.drip = None
        server.shutdown()
        server.server_close()
        thread.join()
