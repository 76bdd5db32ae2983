"""A process that reads feeds for another: bytes come by standard input, articles leave as JSON.

What hostile bytes can do to it is to keep it busy, and it can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import BinaryIO, Final

from tailrace.market_news.articles import read
from tailrace.market_news.feeds import Feed

READY: Final = b"+"


def main(seconds: int) -> None:
    """Read what comes until the input ends. Each feed may take `seconds`, and then we die."""
    # What a library prints must not come between the answers.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        # A terminal sends it to all; whoever started us ends us.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        answers.write(READY)
        answers.flush()
        while head := _piece(sys.stdin.buffer):
            said, body = json.loads(head), _piece(sys.stdin.buffer)
            # Whoever started us may be gone by then, and nobody else would kill us.
            if sys.platform != "win32":
                signal.alarm(seconds)
            articles, flaw = read(body, Feed(**said["feed"]), said["content_type"])
            if sys.platform != "win32":
                signal.alarm(0)
            told = [
                {**{name: getattr(one, name) for name in one.__slots__}, "keys": list(one.keys)}
                for one in articles
            ]
            answer = json.dumps([told, flaw]).encode()
            answers.write(len(answer).to_bytes(4, "big") + answer)
            answers.flush()


def _piece(source: BinaryIO) -> bytes:
    return source.read(int.from_bytes(source.read(4), "big"))
