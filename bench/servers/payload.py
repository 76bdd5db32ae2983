"""What every Python server here publishes: a publisher, a number, a time, and filling."""

from __future__ import annotations

import time


def text(publisher: int, n: int, size: int) -> str:
    """An event's JSON, `size` characters long. Encoded once, however many watch."""
    head = f'{{"p":{publisher},"n":{n},"t":{time.monotonic_ns()},"pad":"'
    return head.ljust(size - 2, "x") + '"}'
