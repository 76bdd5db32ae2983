"""The address a server listens at, and what its connections inherit from it."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from typing import Any, Final

from tailrace.errors import AddressUnusable

if sys.platform != "win32":
    import resource

BACKLOG: Final = 2048

# The kernel takes 4 MB for each watcher that does not read, unless told otherwise: 100 of them
# pinned 395 MB. The log keeps what they miss, so there is no need to. This bounds what is not
# sent yet, and not what is on its way, as SO_SNDBUF would: that, where it is less than two
# segments (64 KiB each on loopback), has the sender wait 40 ms for each acknowledgement.
_UNSENT_BYTES: Final = 32 * 1024

# A client whose machine is gone says nothing: after so many milliseconds without an answer to
# what was sent (a keep-alive, at the latest) the kernel ends the connection.
_SILENCE_MS: Final = 60_000

# Descriptors that are not connections: the log, scripts, listeners, whatever the app opens.
_RESERVED: Final = 256


# Beyond it nobody serves from one event loop, and some programs close every possible number.
_MAX_DESCRIPTORS: Final = 65_536


def raise_limit() -> int | None:
    """Allow this process as many descriptors as it may have; how many connections that makes.
    None where there is no bound.
    """
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(soft - _RESERVED, soft // 2)


def listen(host: str, port: int, *, has_keys: bool = False) -> socket.socket:
    """A socket that listens at a loopback address, or at any if it `has_keys`: if whoever comes
    from elsewhere is asked for one, and can have one. Port 0 has one chosen.

    Raises AddressUnusable: for an address that others than this machine can reach without keys,
    one that is taken, and one that is not this machine's.
    """
    family, address = _resolved(host, port, has_keys=has_keys)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _settle(listener)
        listener.bind(address)
        # At once: until somebody listens, another process may bind the same port as well.
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _unusable(host, port, error) from None
    return listener


def _settle(listener: socket.socket) -> None:
    """Set what accepted connections inherit, so that it costs none of them a call."""
    # An event must not wait for the acknowledgement of the one before it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)


def _resolved(host: str, port: int, *, has_keys: bool) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise AddressUnusable(
            f"{host!r} is no address of this machine.", fix="Use --host 127.0.0.1."
        ) from None
    # IPv4 first, because that is what people type: `localhost` is often ::1 as well.
    found.sort(key=lambda entry: entry[0] is not socket.AF_INET)
    family, _, _, _, address = found[0]
    # What is looked at is what will be bound, not the name.
    is_ours = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    if not is_ours and not has_keys:
        raise AddressUnusable(
            f"{host} can be reached from other machines, and there is no key to ask for: "
            "whoever reaches it could start and read everything, or nobody anything.",
            fix="Make a key first: tailrace keys create --name NAME --scopes run,watch. Or use "
            f"--host 127.0.0.1, and from elsewhere `ssh -L {port}:127.0.0.1:{port} HOST`.",
        )
    return family, address


def _unusable(host: str, port: int, error: OSError) -> AddressUnusable:
    place = f"{bracketed(host)}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            said, fix = "another program listens there", "Stop it, or use --port 0 or another."
        case errno.EACCES:
            said, fix = "ports below 1024 need privileges", "Use --port 4000, or another above."
        case errno.EADDRNOTAVAIL:
            said, fix = "this machine has no such address", "Use --host 127.0.0.1."
        case _:
            said, fix = error.strerror or str(error), "Use another --host or --port."
    return AddressUnusable(f"Tailrace cannot listen at {place}: {said}.", fix=fix)


def url(listener: socket.socket) -> str:
    """Where a client finds what listens: `http://127.0.0.1:4000`."""
    host, port = listener.getsockname()[:2]
    return f"http://{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """A host as URLs have it."""
    return f"[{host}]" if ":" in host else host
