"""How a program shows that it has a server's launch key, without sending it.

Whoever waits at a port of this machine need not be the server that waited there a moment ago, and
behind a tunnel it is another machine's. So what is sent is good for one port, for a minute. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

SECONDS: Final = 60
"""How long a token is good, before and after the moment it was made for."""

_TOKEN: Final = re.compile(r"tlt_([0-9]{1,12})_[0-9a-f]{64}", re.ASCII)


def token(key: str, port: int, now: float) -> str:
    """What is sent, now, to the server at a port."""
    return _signed(key, port, int(now))


def is_token(text: str, key: str, port: int, now: float) -> bool:
    """Whether somebody who has the key made it, for this port, within the last minute."""
    found = _TOKEN.fullmatch(text)
    if found is None or abs(now - int(found[1])) > SECONDS:
        return False
    return hmac.compare_digest(text, _signed(key, port, int(found[1])))


def _signed(key: str, port: int, at: int) -> str:
    mark = hmac.new(key.encode(), f"tailrace launch {port} {at}".encode(), hashlib.sha256)
    return f"tlt_{at}_{mark.hexdigest()}"
