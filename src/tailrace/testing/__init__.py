"""What to test one's own code against Tailrace with, or any ASGI app that streams.

`tailrace.testing.fixtures` has fixtures for pytest, `tailrace.testing.logs` the contract suite for
logs of your own; nothing else here needs pytest.
"""

from tailrace.testing.client import Answer, StreamClient
from tailrace.testing.clock import ManualClock
from tailrace.testing.drops import Drop, drop_after
from tailrace.testing.expected import assert_events
from tailrace.testing.reading import StreamEvent
from tailrace.testing.stream import Stream
from tailrace.testing.watch import Watch

__all__ = [
    "Answer",
    "Drop",
    "ManualClock",
    "Stream",
    "StreamClient",
    "StreamEvent",
    "Watch",
    "assert_events",
    "drop_after",
]
