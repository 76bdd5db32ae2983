"""What both ends agree on."""

from __future__ import annotations

from tailrace.protocol import wire


def test_no_cache_and_no_proxy_holds_a_stream_back() -> None:
    headers = dict(wire.STREAM_HEADERS)
    assert headers[b"cache-control"] == b"no-cache, no-transform"
    assert headers[b"x-accel-buffering"] == b"no"
    assert all(name == name.lower() for name in headers), "ASGI wants lower case"


def test_header_names_are_as_asgi_spells_them() -> None:
    assert wire.LAST_EVENT_ID.islower()
    assert wire.IDEMPOTENCY_KEY.islower()


def test_the_bounds_fit_each_other() -> None:
    assert wire.HEARTBEAT_SECONDS < 29, "the shortest idle timeout of a common proxy"
    assert wire.HEARTBEAT_SECONDS < wire.WRITE_DEADLINE_SECONDS
    assert 0 < wire.RETRY_AFTER_SHUTDOWN_MS < wire.RETRY_MS
